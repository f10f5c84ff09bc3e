"""The application as a whole: its settings and its documentation."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from flask.testing import FlaskClient
from openapi_spec_validator import validate
from playwright.sync_api import Page, expect

from gateway.app import SETTINGS, create_app
from gateway.limits import TIMEOUT
from tests.stack import ROOT, Stack, write_config


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    """The application with no TorchServe behind it."""
    config = write_config(tmp_path / "config.properties")
    return create_app({"TORCHSERVE_CONFIG": config, "KEY_FILE": tmp_path / "key_file.json"}).test_client()


def test_document_is_valid_and_complete(client: FlaskClient) -> None:
    document = client.get("/swagger.json").get_json()
    validate(document)
    documented = {(method, path) for path, item in document["paths"].items() for method in item}
    assert documented == {
        ("post", "/explain"),
        ("post", "/feedback"),
        ("post", "/predict"),
        ("post", "/predict_base64"),
        ("get", "/health"),
        ("get", "/live"),
        ("get", "/ready"),
        ("get", "/classes"),
        ("get", "/model"),
        ("get", "/models"),
        ("get", "/metrics"),
    }


def test_swagger_page_shows_the_routes(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.url}/swagger/")
    expect(page.locator(".opblock")).to_have_count(11)


def test_origins_can_be_restricted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_CORS_ORIGINS", '["null", "https://mine.example"]')
    client = create_app({"TORCHSERVE_CONFIG": write_config(tmp_path / "config.properties")}).test_client()
    allowed = {
        origin: client.get("/swagger.json", headers={"Origin": origin}).headers.get("Access-Control-Allow-Origin")
        for origin in ("null", "https://mine.example", "https://other.example")
    }
    assert allowed == {"null": "null", "https://mine.example": "https://mine.example", "https://other.example": None}


@pytest.mark.parametrize("host", ["ä" * 60_000, "a" * 60_000, "a b", None])
def test_a_host_that_none_can_have_costs_nothing_and_is_told_nobody(client: FlaskClient, host: str | None) -> None:
    environ = {"HTTP_HOST": host.encode().decode("latin-1")} if host else {"SERVER_NAME": "here", "SERVER_PORT": "1"}
    started = time.process_time()
    assert client.get("/live", environ_overrides=environ).status_code == 200
    place = client.get("/v2//health/live", environ_overrides=environ).headers["Location"]
    assert time.process_time() - started < 0.5
    assert re.fullmatch(r"http://[a-z0-9.]+(:\d+)?/v2/health/live", place)


def test_gives_up_before_torchserve_kills_the_worker() -> None:
    settings = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    assert settings["responseTimeout"] > TIMEOUT


def test_imports_neither_torch_nor_handler() -> None:
    code = "import sys, gateway.app; print({'torch', 'handler', 'training'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_each_setting_is_documented() -> None:
    rows = re.findall(r"^\| `GATEWAY_(\w+)` \| (.*) \| (.*) \|$", (ROOT / "docs/howto/settings.md").read_text(), re.M)
    assert rows == [
        (setting.name, f"`{setting.default}`" if setting.default != "" else "none", setting.help)
        for setting in SETTINGS
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("FEEDBACK_SHARE", value) for value in ("10%", ".1", "1GB", "False", "-1")),
        ("CALLS", "0"),
        ("CALLS", "1.5"),
        ("CALLS", "1.0"),
        ("TIMEOUT", "0"),
        *(("TIMEOUT", value) for value in ("NaN", "Infinity")),
    ],
)
def test_a_number_that_is_none_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    with pytest.raises(ValueError, match=rf"GATEWAY_{name} is .* has to be a number such as \d"):
        create_app()


def test_a_name_may_look_like_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_MODEL_NAME", "42")
    config = {"TORCHSERVE_CONFIG": str(write_config(tmp_path / "config.properties"))}
    assert create_app(config).config["MODEL_NAME"] == "42"


def test_a_setting_of_the_environment_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path / "config.properties")
    values: dict[str, object] = {setting.name: setting.default for setting in SETTINGS}
    values |= {"TORCHSERVE_CONFIG": str(config), "TIMEOUT": 7, "CALLS": 1}
    for name, value in values.items():
        monkeypatch.setenv(f"GATEWAY_{name}", str(value))
    settings = create_app().config
    assert {name: settings[name] for name in values} == values
