"""Files made to do harm: nothing but a prediction or a refusal comes of them, and no worker dies of one."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.drawing import draw, encode
from tests.stack import Stack

MUTANTS = int(os.environ.get("MUTANTS", "500"))
ORIGINALS = [encode(draw("red", 1), kind) for kind in ("JPEG", "PNG", "GIF")]


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """Yield images with some bytes changed, every other one cut off somewhere."""
    dice = random.Random(seed)
    for number in range(count):
        mutant = bytearray(dice.choice(ORIGINALS))
        for _ in range(dice.choice((1, 4, 16))):
            mutant[dice.randrange(len(mutant))] = dice.randrange(256)
        yield bytes(mutant[: dice.randrange(len(mutant)) if number % 2 else None])


def outcome(stack: Stack, content: bytes) -> tuple[int, bool]:
    response = requests.post(f"{stack.url}/predict", files={"file": ("image", content)})
    return response.status_code, response.json()["success"]


def test_mutants_are_classified_or_refused_and_kill_nobody(stack: Stack) -> None:
    workers = stack.torchserve.describe()[0]["workers"]
    with ThreadPoolExecutor(16) as pool:
        outcomes = set(pool.map(lambda mutant: outcome(stack, mutant), mutants(MUTANTS, seed=5)))
    assert outcomes == {(200, True), (400, False)}
    after = stack.torchserve.describe()[0]["workers"]
    assert [(each["pid"], each["startTime"]) for each in after] == [
        (each["pid"], each["startTime"]) for each in workers
    ]


@pytest.mark.parametrize(
    "document",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%PDF-1.7\n",
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        b"PK\x03\x04" + ORIGINALS[1],
        b"#!/bin/sh\n" + ORIGINALS[0],
    ],
    ids=["SVG", "PDF", "HEIC", "ZIP with a PNG", "script with a JPEG"],
)
def test_what_is_no_image_of_ours_is_refused(stack: Stack, document: bytes) -> None:
    assert outcome(stack, document) in ((400, False), (415, False))


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "a\\..\\b.png", "%00.png", "a%0d%0aSet-Cookie: x=y", "x" * 10_000]
)
def test_a_file_name_is_not_used(stack: Stack, name: str) -> None:
    response = requests.post(f"{stack.url}/predict", files={"file": (name, ORIGINALS[0])})
    assert response.json()["predicted_class"] == "red"
    assert name not in response.text
    assert "Set-Cookie" not in response.headers
