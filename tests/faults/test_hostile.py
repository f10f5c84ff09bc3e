"""Files made to do harm: nothing but a prediction or a refusal comes of them, and no worker dies of one."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image, ImageOps

from tests.drawing import draw, encode
from tests.stack import WORKER, Record, Stack, times

RED = draw("red", 1)
GREY = ImageOps.grayscale(RED)
ORIENTATION = 0x0112  # of EXIF
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


def test_mutants_are_classified_or_refused_and_kill_nobody(stack: Stack, record_property: Record) -> None:
    count, workers = times(500, 10_000), stack.processes(WORKER)
    with ThreadPoolExecutor(16) as pool:
        outcomes = Counter(pool.map(lambda mutant: outcome(stack, mutant), mutants(count, seed=5)))
    record_property(f"{count:,} mutants", f"{outcomes[200, True]:,} predicted, {count - outcomes[200, True]:,} refused")
    # A few take on the looks of another format.
    assert {(200, True), (400, False)} <= set(outcomes) <= {(200, True), (400, False), (415, False)}
    assert stack.processes(WORKER) == workers


def oriented(orientation: int) -> bytes:
    """Encode RED as a camera would that was held so: stored otherwise, with the tag that puts it right."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    tagged = RED.copy()
    tagged.getexif()[ORIENTATION] = undo
    return encode(ImageOps.exif_transpose(tagged), exif=exif.tobytes())


ODD = {
    "palette": (encode(RED.quantize(256)), RED),
    "palette GIF": (encode(RED.quantize(256), "GIF"), RED),
    "animated GIF": (encode(RED, "GIF", save_all=True, append_images=[draw("blue", 1)]), RED),
    "animated PNG": (encode(RED, save_all=True, append_images=[draw("blue", 1)]), RED),
    "opaque with alpha": (encode(RED.convert("RGBA")), RED),
    "CMYK": (encode(RED.convert("CMYK"), "JPEG", quality=95), RED),
    "progressive": (encode(RED, "JPEG", quality=95, progressive=True), RED),
    "grey": (encode(GREY), GREY.convert("RGB")),
    "16 bits": (encode(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)), GREY.convert("RGB")),
    "with a script behind": (encode(RED) + b"<script>alert(1)</script>", RED),
} | {f"orientation {number}": (oriented(number), RED) for number in range(1, 9)}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_image_is_classified_as_its_plain_twin(stack: Stack, odd: str) -> None:
    content, plain = ODD[odd]
    files = {"file": ("document.pdf", content, "text/html")}
    answer, twin = (
        requests.post(f"{stack.url}/predict", files=each).json() for each in (files, {"file": encode(plain)})
    )
    assert answer["predicted_class"] == twin["predicted_class"]
    assert answer["class_probabilities"] == pytest.approx(twin["class_probabilities"], abs=0.1)


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
