"""Predictions of the real TorchServe, whose keys last six seconds here, and what it tells of its versions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.backend import ImageRefused, NoSuchVersion, OutdatedArchive
from gateway.torchserve.api import KINDS, MANAGEMENT, Api
from gateway.torchserve.inference import Inference
from gateway.torchserve.nodes import Nodes
from gateway.torchserve.tokens import TokenFile
from tests.drawing import draw, encode
from tests.gateway.torchserve.test_nodes import Answer, good, ready, serving, several_nodes
from tests.stack import Stack

PICTURE = encode(draw("azure", 5))


def test_tells_what_the_deployed_model_says_of_itself(stack: Stack) -> None:
    details = stack.torchserve.inference.details()
    assert details["card"]["name"] == "drawn"
    assert details["device"] == "cpu"
    assert details["version"] == "1.0"


class Rolled(Api):
    """A TorchServe whose default version is another one whenever it is asked for it, and loses the one before."""

    def __init__(self, folder: Path, versions: list[str]) -> None:
        super().__init__(dict.fromkeys(KINDS, Nodes([], timeout=1)), TokenFile(folder / "token"))
        self.default, *self.coming = versions

    def call(self, kind: str, method: str, path: str, *content: Any) -> Any:
        assert kind == MANAGEMENT
        path, _, query = path.removeprefix("/models/classifier").partition("?")
        version = path.removeprefix("/") or self.default
        if version != self.default:
            raise NoSuchVersion(version)
        if not query and self.coming:
            self.default = self.coming.pop(0)
        worker = {"id": "9000", "startTime": "once", "status": "READY"}
        card = {"name": f"of {version}", "preprocessing": [], "calibration": {"in_distribution": {}}}
        said = {"customizedMetadata": {"card": card, "device": "cpu"}}
        return [{"modelVersion": version, "workers": [worker]} | (said if query else {})]


@pytest.mark.parametrize("rolls", [0, 1, 2])
def test_a_card_is_that_of_its_version_also_during_a_roll(tmp_path: Path, rolls: int) -> None:
    """The default version changes between the call that tells its number and the one that tells its card."""
    details = Inference(Rolled(tmp_path, [f"{number}.0" for number in range(rolls + 1)])).details()
    assert details["card"]["name"] == f"of {details['version']}"


def test_nodes_of_different_versions_describe_themselves(tmp_path: Path) -> None:
    """As while one after another is deployed anew."""

    def of(version: str) -> Callable[[str], Answer]:
        def answer(path: str) -> Answer:
            status, said = good(path)
            return status, [{**said[0], "modelVersion": version}] if isinstance(said, list) else said

        return answer

    (tmp_path / "token").write_text("token")
    with serving(of("1.0"), of("2.0")) as servers:
        inference = several_nodes([server.url for server in servers], tmp_path / "token")
        seen = {inference.details()["version"] for _ in range(8)}
        assert seen <= {"1.0", "2.0"}
        for _ in range(8):
            assert [version["default"] for version in inference.versions()] == [True]


def test_a_single_image_of_several_is_refused_as_one_of_many(stack: Stack) -> None:
    (answer,) = stack.torchserve.inference.predict_all([b"no image"])
    assert answer == {"error": answer["error"], "status": 400, "success": False}  # type: ignore[typeddict-item]


def test_a_version_can_be_asked_by_its_number(stack: Stack) -> None:
    assert stack.torchserve.inference.predict(PICTURE, "1.0")["predicted_class"] == "azure"
    with pytest.raises(NoSuchVersion, match=r"version: 9\.0 does not exist"):
        stack.torchserve.inference.predict(PICTURE, "9.0")


def test_a_refusal_is_the_handlers(stack: Stack) -> None:
    with pytest.raises(ImageRefused, match="cannot be read") as refused:
        stack.torchserve.inference.predict(b"no image")
    assert refused.value.status == 400


def test_an_archive_of_an_earlier_version_is_to_be_packed_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token")
    with serving(lambda path: ready(path, (200, {"predicted_class": "red"}))) as (server,):
        inference = several_nodes([server.url], tmp_path / "token")
        image = b"image"
        for ask in (
            lambda: inference.predict(image),
            lambda: inference.predict_all([image, image]),
            lambda: inference.explain(image, ""),
        ):
            with pytest.raises(OutdatedArchive, match="pack it again"):
                ask()


def test_a_worker_describes_itself_once_for_each_of_its_starts(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token")
    paths: list[str] = []

    def count(path: str) -> tuple[int, object]:
        paths.append(path)
        return good(path)

    with serving(count) as (server,):
        inference = several_nodes([server.url], tmp_path / "token")
        assert inference.details() == inference.details()
    assert sum("customized" in path for path in paths) == 1
