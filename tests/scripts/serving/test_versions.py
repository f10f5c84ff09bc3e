"""Model management as a command, on a running product of its own: it changes what is served."""

import json
from pathlib import Path

import pytest
import requests

from scripts.serving.deployment import Refused
from scripts.serving.versions import _live
from tests.archives import numbered, rebuild
from tests.conftest import CommandFailed, run_module
from tests.stack import Stack, serve


def models(stack: Stack, *arguments: str, succeeds: bool = True) -> str:
    try:
        printed = run_module("scripts.models", "--config", stack.config, "--run", stack.run, *arguments)
    except CommandFailed as error:
        printed = str(error)
        assert not succeeds, printed
    else:
        assert succeeds, printed
    return printed


@pytest.mark.parametrize(
    ("given", "said"),
    [((0.1, 0.1, None), "either a shadow or a canary"), ((None, None, 60), "add --canary 10% or --shadow 10%")],
)
def test_a_roll_on_live_traffic_is_of_one_kind(
    given: tuple[float | None, float | None, float | None], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        _live(*given)


@pytest.mark.timeout(600)
def test_a_life_of_two_versions(archive: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    rebuild(archive, store / "drawn.mar", {})
    rebuild(archive, store / "second.mar", numbered("2.0"))
    whole = (store / "second.mar").read_bytes()

    with serve(store / "drawn.mar", tmp_path / "stack") as stack:
        models(stack, "scale", "2")
        assert models(stack, "list").startswith("1.0      default  drawn.mar, 2 of 2 workers ready")
        models(stack, "scale", "1")
        assert "registered" in models(stack, "register", "model_store/second.mar")
        with (store / "second.mar").open("r+b") as file:
            file.truncate(5000)
        assert "is not the archive that second.mar.sha256" in models(stack, "register", "second.mar", succeeds=False)
        (store / "second.mar").write_bytes(whole)
        assert "already registered" in models(stack, "register", "second.mar", succeeds=False)
        first, second = models(stack, "list").splitlines()
        assert "default" in first
        assert "2.0               second.mar, 1 of 1 workers ready" in second

        assert models(stack, "unregister", "7", succeeds=False) == (
            "There is no version 7; name one of: 1.0 (the default), 2.0.\n"
        )
        assert models(stack, "set-default", "2", succeeds=False).startswith("There is no version 2; name one of")
        assert "First serve another one, 'classifier models set-default 2.0'." in models(
            stack, "unregister", "1.0", succeeds=False
        )
        models(stack, "set-default", "2.0")
        assert requests.get(f"{stack.url}/health").json()["version"] == "2.0"
        models(stack, "unregister", "1.0")
        assert len(models(stack, "list").splitlines()) == 1

        (described,) = json.loads(models(stack, "list", "--json"))
        assert (described["version"], described["default"], described["workers"]) == ("2.0", True, 1)
        (description,) = json.loads(models(stack, "describe", "2.0"))
        assert description["batchSize"] == 1
        assert len(description["workers"]) == 1

        refused = models(stack, "unregister", "2.0", succeeds=False)
        assert "Nothing was changed: version 2.0 is the only one, and nothing would be served" in refused
        assert "2.0" in models(stack, "list")
        changed = json.loads(models(stack, "--json", "unregister", "2.0", "--leave-none"))
        assert "unregistered" in changed["said"]
        assert changed["versions"] == []
        assert models(stack, "list") == "No model is registered.\n"
        assert requests.get(f"{stack.url}/classes").status_code == 503
        with pytest.raises(CommandFailed, match=r"WRONG  gateway .* run 'classifier models register drawn\.mar'"):
            run_module("scripts.cli", "doctor", store / "drawn.mar", "--url", stack.url, "--run", stack.run)
        models(stack, "register", "drawn.mar")
        assert requests.get(f"{stack.url}/health").json()["version"] == "1.0"
    assert "TorchServe" in models(stack, "list", succeeds=False)
