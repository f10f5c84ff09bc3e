"""The operators' client of TorchServe against the real one."""

import pytest

from gateway.backend import BackendError
from tests.stack import Stack


def test_settings_of_the_archive_are_in_force(stack: Stack) -> None:
    (description,) = stack.torchserve.describe()
    in_force = {name: description[name] for name in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")}
    assert in_force == {"minWorkers": 2, "maxWorkers": 2, "batchSize": 1, "maxBatchDelay": 1}
    assert description["responseTimeout"] == 20


def test_says_why_an_archive_cannot_be_registered(stack: Stack) -> None:
    with pytest.raises(BackendError, match=r"Model not found at: nothing\.mar"):
        stack.torchserve.register("nothing.mar")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.mar", "file:///srv/x.mar", "../../x.mar", "/srv/x.mar"])
def test_archives_come_from_the_model_store_alone(stack: Stack, url: str) -> None:
    with pytest.raises(BackendError):
        stack.torchserve.register(url)
