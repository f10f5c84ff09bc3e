"""deploy/: what brings the product onto machines of others. VERSION is the product's, the tag of its images."""

import tomllib

from tests.stack import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
