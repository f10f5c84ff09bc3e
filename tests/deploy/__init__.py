"""deploy/: what brings the product onto machines of others. VERSION is the product's, the tag of its images."""

import tomllib

from tests.stack import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# What the manifests name and the gateway brings with its support for several nodes; goes once that is here.
AWAITED = {"TORCHSERVE", "TOKEN_FILE", "torchserve.conf.template"}
