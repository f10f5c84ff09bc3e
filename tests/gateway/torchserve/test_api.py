"""Requests to the real TorchServe, and what it answers without a key."""

import pytest
import requests

from gateway.backend import NoSuchVersion
from gateway.torchserve.api import versioned
from gateway.torchserve.properties import read_properties
from tests.stack import Stack


def test_torchserve_answers_nobody_without_a_key(stack: Stack) -> None:
    properties = read_properties(stack.config)
    for address in (properties["inference_address"] + "/ping", properties["management_address"] + "/models"):
        assert requests.get(address).status_code == 400


@pytest.mark.parametrize("version", ["..", "../models", "1.0/set-default", "a b", "-1", "1.0?x"])
def test_a_version_leads_nowhere_else(version: str) -> None:
    assert versioned("/models/classifier", "1.0-a_b") == "/models/classifier/1.0-a_b"
    with pytest.raises(NoSuchVersion):
        versioned("/models/classifier", version)
