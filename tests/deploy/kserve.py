"""KServe's kinds as JSON schemas: of its package's models, and for the rest of Kubernetes' own types.

The package cannot be a dependency, as it wants other versions of what we have; so its own files alone are installed.
"""

import json
import re
import subprocess
import sys
import sysconfig
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import jsonschema
from kubernetes_validate import latest_version
from referencing import Registry, Resource

PACKAGE = "kserve==0.21.0 --hash=sha256:df9bc5888704d9085015e08f1a8fced5ff0698f3becc6212d4e7b8234c71623b"
KINDS = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}
SIMPLE = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "object": "object"}
Schema = dict[str, Any]


def models(folder: Path) -> ModuleType:
    """Install KServe's models below `folder` and import them, without what else the package would import."""
    (folder / "kserve.lock").write_text(PACKAGE)
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    command = [str(uv), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", str(folder)]
    subprocess.run([*command, "--requirements", str(folder / "kserve.lock")], check=True)
    package = ModuleType("kserve")
    package.__path__ = [str(folder / "kserve")]
    with patch.dict(sys.modules, {"kserve": package}):
        return import_module("kserve.models")


class Schemas:
    """Says what is wrong with objects of KServe's kinds; fields that KServe does not know are."""

    def __init__(self, kserve_models: ModuleType) -> None:
        self._models = kserve_models
        folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{latest_version()}-local-strict"
        definitions = json.loads((folder / "_definitions.json").read_text())
        self._uri = definitions["$id"]
        self._registry = Registry().with_resource(self._uri, Resource.from_contents(definitions))

    def errors(self, given: dict[str, Any]) -> list[str]:
        schema = self._of(KINDS[given["kind"]])
        found = jsonschema.Draft202012Validator(schema, registry=self._registry).iter_errors(given)
        return [f"{error.json_path}: {error.message}" for error in found]

    def _of(self, name: str) -> Schema:
        if name in SIMPLE:
            return {"type": SIMPLE[name]}
        if several := re.fullmatch(r"list\[(.+)\]", name):
            return {"type": "array", "items": self._of(several[1])}
        if named := re.fullmatch(r"dict\(str, (.+)\)", name):
            return {"type": "object", "additionalProperties": self._of(named[1])}
        if model := getattr(self._models, name, None):
            fields = {model.attribute_map[field]: self._of(kind) for field, kind in model.openapi_types.items()}
            return {"type": "object", "properties": fields, "additionalProperties": False}
        return {"$ref": f"{self._uri}#/$defs/{_in_kubernetes(name)}"}


def _in_kubernetes(name: str) -> str:
    if apps := re.fullmatch(r"K8sIoApiAppsV1(.+)", name):
        return f"io.k8s.api.apps.v1.{apps[1]}"
    group = "apimachinery.pkg.apis.meta" if name == "V1ObjectMeta" else "api.core"
    return f"io.k8s.{group}.v1.{name.removeprefix('V1')}"
