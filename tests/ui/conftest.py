"""The page as the product serves it, and a second version to compare with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from handler.transforms import Preprocessing
from tests.networks import IMAGENET, enlarged
from tests.stack import Stack
from training.archive import archive


@pytest.fixture
def served(page: Page, stack: Stack) -> Page:
    page.goto(stack.url)
    return page


@pytest.fixture
def with_examples(page: Page, stack: Stack) -> Page:
    """The page of a model that says it knows two classes of the examples."""
    page.route("**/classes", lambda route: route.fulfill(json={"classes": ["ship", "truck", "owl"]}))
    page.goto(stack.url)
    expect(page.locator("#offer")).to_be_visible()
    return page


@pytest.fixture(scope="package")
def second_version(stack: Stack, checkpoint: Path) -> Iterator[None]:
    """Serve besides, as version 2.0, a model that sees 224 pixels, and takes red for pink and pink for red."""
    loaded = enlarged(checkpoint, Preprocessing(224, "squeeze", *IMAGENET))
    exchanged = {"red": "pink", "pink": "red"}
    classes = [exchanged.get(name, name) for name in loaded.card["classes"]]
    path = stack.run / "model_store" / "exchanged.mar"
    archive(loaded._replace(card=loaded.card | {"classes": classes}), path, "2.0")
    stack.torchserve.register(path.name)
    yield
    stack.torchserve.unregister("2.0")
