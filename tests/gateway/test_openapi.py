"""The OpenAPI document by what one does with it: copy its examples, generate a client from it."""

import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Page

from tests.drawing import TEN, draw, encode
from tests.stack import Stack

PICTURE = encode(draw("green", 11), "JPEG")
PREDICTION = re.compile(r"green [01]\.\d+\n?")
CLASSES = re.compile(" ".join(sorted(TEN)) + "\n?")
PRINTED = {"/predict": PREDICTION, "/predict_base64": PREDICTION, "/classes": CLASSES}
BIN = Path(sys.executable).parent


def examples(stack: Stack, language: str) -> dict[str, str]:
    """Return the example in one language of each path that has one, asking the running product."""
    paths = requests.get(f"{stack.url}/swagger.json").json()["paths"]
    described = {path: operation.get("description", "") for path, item in paths.items() for operation in item.values()}
    found = {path: re.search(rf"```{language}\n(.*?)```", text, re.DOTALL) for path, text in described.items()}
    return {path: code[1].replace("http://localhost:5001", stack.url) for path, code in found.items() if code}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("photo.jpg", "other.jpg"):
        (tmp_path / name).write_bytes(PICTURE)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_examples_for_the_shell(stack: Stack, folder: Path) -> None:
    said = {path: run(folder, "bash", "-euo", "pipefail", "-c", code) for path, code in examples(stack, "sh").items()}
    assert said.keys() == {"/predict", "/predict_base64", "/ready", "/classes", "/metrics"}
    assert [said[path].count('"predicted_class":"green"') for path in ("/predict", "/predict_base64")] == [3, 1]
    assert not [path for path, text in said.items() if '"error"' in text]


def test_examples_in_python(stack: Stack, folder: Path) -> None:
    codes = examples(stack, "python")
    assert codes.keys() == PRINTED.keys()
    for path, code in codes.items():
        assert PRINTED[path].fullmatch(run(folder, sys.executable, "-c", code)), path


def test_examples_in_javascript(stack: Stack, page: Page, folder: Path) -> None:
    codes = examples(stack, "js")
    assert codes.keys() == PRINTED.keys()
    page.goto(f"{stack.url}/live")
    page.set_content('<input type="file">')
    page.set_input_files("input", folder / "photo.jpg")
    for path, code in codes.items():
        with page.expect_console_message() as printed:
            page.evaluate(f"async () => {{ {code} }}")
        assert PRINTED[path].fullmatch(printed.value.text), path


def test_a_client_is_generated_and_works(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [str(BIN / "openapi-python-client"), "generate", "--url", f"{stack.url}/swagger.json"]
    command += ["--output-path", str(tmp_path / "generated"), "--meta", "none", "--fail-on-warning"]
    ruff = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}  # which it formats with
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ruff, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr

    monkeypatch.syspath_prepend(tmp_path)
    generated, models, types = map(importlib.import_module, ("generated", "generated.models", "generated.types"))
    predict, classes, metrics = (
        importlib.import_module(f"generated.api.{name}")
        for name in ("prediction.predict", "model.classes", "operation.metrics")
    )
    client = generated.Client(base_url=stack.url)

    def upload(content: bytes) -> object:
        file = types.File(payload=io.BytesIO(content), file_name="photo.jpg")
        return predict.sync(client=client, body=models.PredictBody(file=file))

    answer, refused = upload(PICTURE), upload(b"broken")
    assert isinstance(answer, models.Prediction)
    assert answer.predicted_class == "green"
    assert isinstance(refused, models.Error)
    assert "cannot be read" in refused.error
    assert classes.sync(client=client).classes == sorted(TEN)
    assert "classifier_workers_ready 2.0" in metrics.sync(client=client)
