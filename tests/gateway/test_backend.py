"""The fields of an answer have one home: whatever makes, documents or writes answers is compared with it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml

from gateway import backend
from gateway.backend import BackendError, Details, Explanation, Failure, Prediction, Refusal, Version
from scripts.batch.rows import FIGURES, KINDS
from tests.drawing import draw, encode
from tests.stack import ROOT

DOCUMENT = yaml.safe_load((ROOT / "gateway" / "openapi.yaml").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
VERSIONS = DOCUMENT["paths"]["/models"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
JSON_TYPES = {str: "string", float: "number", int: "integer", bool: "boolean", dict: "object", list: "array"}


def plain(kind: Any) -> type:
    """Return the class of a field's values."""
    if get_origin(kind) in (dict, list):
        return get_origin(kind)
    return type(get_args(kind)[0]) if get_args(kind) else kind


def types_of(fields: type) -> dict[str, type]:
    return {name: plain(kind) for name, kind in get_type_hints(fields).items()}


@pytest.mark.parametrize(
    ("schema", "fields", "required"),
    [
        (SCHEMAS["Prediction"], Prediction, Prediction),
        (SCHEMAS["Explanation"], Explanation, Explanation),
        (SCHEMAS["Error"], Refusal, Failure),  # the reply about a single image carries its status already
        (VERSIONS["properties"]["models"]["items"], Version, Version),
    ],
    ids=["Prediction", "Explanation", "Error", "Version"],
)
def test_openapi_documents_the_fields(schema: dict[str, Any], fields: Any, required: Any) -> None:
    documented = {name: described["type"] for name, described in schema["properties"].items()}
    assert documented == {name: JSON_TYPES[kind] for name, kind in types_of(fields).items()}
    assert set(schema["required"]) == required.__required_keys__


def test_columns_of_csv_files_are_fields() -> None:
    fields = types_of(Prediction) | types_of(Refusal)
    assert {"file": str} | {name: fields[name] for name in FIGURES} == KINDS


def examples() -> list[dict[str, Any]]:
    """Return the JSON of the README and the docs; what they leave out with dots is empty."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    texts = [text for page in pages for text in re.findall(r"`(\{\"\w+\": .*?\})`", page.read_text())]
    shortened = [
        re.sub(r"(\[)(\[…\], )?…\]", "[]", text).replace("{…}", "{}").replace(": …", ": null") for text in texts
    ]
    return [json.loads(text.replace(", …}", "}")) for text in shortened]


def test_examples_of_the_docs_have_the_fields() -> None:
    predictions = [example.keys() for example in examples() if "class_probabilities" in example]
    explanations = [example.keys() for example in examples() if "heat_map" in example]
    failures = [example.keys() for example in examples() if "error" in example]
    assert predictions
    assert failures
    assert all(keys == Prediction.__required_keys__ for keys in predictions)
    assert all(keys == Explanation.__required_keys__ for keys in explanations)
    assert all(Failure.__required_keys__ <= keys <= Refusal.__required_keys__ for keys in failures)


def matches(answer: dict[str, Any], fields: Any) -> bool:
    """Say whether an answer has the fields that are required, and no others, with values of their types."""
    kinds = {name: kind for name, kind in types_of(fields).items() if name in fields.__required_keys__}
    return answer.keys() == kinds.keys() and all(type(answer[name]) is kind for name, kind in kinds.items())


def test_the_handler_makes_the_fields(archive: Path, tmp_path: Path) -> None:
    from handler import onnx_engine

    shutil.unpack_archive(archive, tmp_path, "zip")
    model = onnx_engine.load(tmp_path, threads=1)
    red = model.read(encode(draw("red", 1)))
    accepted, refused = model.predict([red, model.read(b"no image")])
    assert matches(accepted, Prediction)
    assert matches(refused, Refusal)
    assert matches(model.explain(red, "blue"), Explanation)
    assert matches(model.explain(red, "none"), Refusal)


def test_details_are_those_of_the_deployed_model(archive: Path, tmp_path: Path) -> None:
    from gateway.embedded.backend import Embedded

    shutil.unpack_archive(archive, tmp_path, "zip")
    embedded = Embedded(tmp_path, workers=2)
    assert matches(dict(embedded.details()), Details)
    assert [matches(dict(version), Version) for version in embedded.versions()] == [True]


def test_the_tree_of_exceptions_is_drawn_as_it_is() -> None:
    def tree(kind: type, depth: int = 0) -> list[tuple[int, str]]:
        kinds: list[type] = sorted(kind.__subclasses__(), key=lambda below: below.__name__)
        return [(depth, kind.__name__), *(line for below in kinds for line in tree(below, depth + 1))]

    drawn = re.findall(r"^    ((?:[│ ]   |[├└]── )*)(\w+)  ", str(backend.__doc__), re.MULTILINE)
    assert [(len(branches) // 4, name) for branches, name in drawn] == tree(BackendError)
