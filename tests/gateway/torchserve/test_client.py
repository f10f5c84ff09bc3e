"""The client of TorchServe against the real one, whose keys last six seconds here."""

from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.torchserve.client import (
    ImageRefused,
    NoSuchVersion,
    TorchServe,
    TorchServeError,
    Unavailable,
    read_properties,
)
from tests.drawing import draw, encode
from tests.stack import Stack, write_config

PICTURE = encode(draw("azure", 5))


def test_tells_what_the_deployed_model_says_of_itself(stack: Stack) -> None:
    details = stack.torchserve.details()
    assert details["card"]["name"] == "drawn"
    assert details["device"] == "cpu"
    assert details["version"] == "1.0"
    assert stack.torchserve.said("1.0")["pid"] in {each["pid"] for each in stack.torchserve.describe()[0]["workers"]}


class Rolled(TorchServe):
    """A TorchServe whose default version is another one whenever it is asked for it, and loses the one before."""

    def __init__(self, folder: Path, versions: list[str]) -> None:
        super().__init__(write_config(folder / "config.properties"), folder / "key_file.json", timeout=1)
        self.default, *self.coming = versions

    def _call(self, kind: str, method: str, path: str, *content: Any) -> Any:
        path, _, query = path.removeprefix("/models/classifier").partition("?")
        version = path.removeprefix("/") or self.default
        if version != self.default:
            raise NoSuchVersion(version)
        if not query and self.coming:
            self.default = self.coming.pop(0)
        worker = {"id": "9000", "startTime": "once", "status": "READY"}
        said = {"customizedMetadata": {"card": {"name": f"of {version}"}, "device": "cpu"}}
        return [{"modelVersion": version, "workers": [worker]} | (said if query else {})]


@pytest.mark.parametrize("rolls", [0, 1, 2])
def test_a_card_is_that_of_its_version_also_during_a_roll(tmp_path: Path, rolls: int) -> None:
    """The default version changes between the call that tells its number and the one that tells its card."""
    versions = [f"{number}.0" for number in range(rolls + 1)]
    details = Rolled(tmp_path, versions).details()
    assert (details["version"], details["card"]["name"]) == (versions[-1], f"of {versions[-1]}")


def test_gives_up_if_the_versions_do_not_come_to_rest(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="are changing"):
        Rolled(tmp_path, [f"{number}.0" for number in range(10)]).details()


def test_settings_of_the_archive_are_in_force(stack: Stack) -> None:
    (description,) = stack.torchserve.describe()
    in_force = {name: description[name] for name in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")}
    assert in_force == {"minWorkers": 2, "maxWorkers": 2, "batchSize": 16, "maxBatchDelay": 1}
    assert description["responseTimeout"] == 20


def test_a_version_can_be_asked_by_its_number(stack: Stack) -> None:
    assert stack.torchserve.predict(PICTURE, "1.0")["predicted_class"] == "azure"
    with pytest.raises(TorchServeError, match=r"version: 9\.0 does not exist"):
        stack.torchserve.predict(PICTURE, "9.0")


def test_refusals_are_told_apart(stack: Stack) -> None:
    with pytest.raises(ImageRefused) as refused:
        stack.torchserve.predict(b"no image")
    assert refused.value.status == 400
    with pytest.raises(TorchServeError, match=r"Model not found at: nothing\.mar"):
        stack.torchserve.register("nothing.mar")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.mar", "file:///srv/x.mar", "../../x.mar", "/srv/x.mar"])
def test_archives_come_from_the_model_store_alone(stack: Stack, url: str) -> None:
    with pytest.raises(TorchServeError):
        stack.torchserve.register(url)


def test_torchserve_answers_nobody_without_a_key(stack: Stack) -> None:
    properties = read_properties(stack.config)
    for address in (properties["inference_address"] + "/ping", properties["management_address"] + "/models"):
        assert requests.get(address).status_code == 400


def test_reads_properties(tmp_path: Path) -> None:
    path = tmp_path / "some.properties"
    path.write_text("# comment\n\na = 1\nvmargs=-Dx=y -Xmx1g\n")
    assert read_properties(path) == {"a": "1", "vmargs": "-Dx=y -Xmx1g"}
