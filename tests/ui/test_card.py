"""The model card, as the page shows it."""

from pathlib import Path

from playwright.sync_api import Page, expect

from training.checkpoint import load_checkpoint
from training.metrics import wilson_interval


def test_the_card_is_read_and_closed_by_the_keyboard(served: Page, checkpoint: Path) -> None:
    card = load_checkpoint(checkpoint).card
    test = card["metrics"]["test"]
    low, high = (f"{100 * end:.2f}\u00a0%" for end in wilson_interval(test["accuracy"], test["images"]))
    served.get_by_role("button", name="Model card").press("Enter")
    dialog = served.get_by_role("dialog", name="Model card")
    expect(dialog.get_by_role("definition").last).to_have_text(card["commit"])
    names, values = (dialog.get_by_role(role).all_text_contents() for role in ("term", "definition"))
    facts = dict(zip(names, values, strict=True))
    assert facts["Name"] == "drawn, version 1.0"
    assert facts["Classes"] == ", ".join(card["classes"])
    assert f"95\u00a0% interval {low} to {high}" in facts["Accuracy"]
    link = dialog.get_by_role("link", name="Full model card as JSON")
    assert link.evaluate("(link) => link.href") == f"{served.url}model"
    served.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(served.get_by_role("button", name="Model card")).to_be_focused()


def test_says_that_there_is_none_to_read(served: Page) -> None:
    served.context.set_offline(True)
    served.get_by_role("button", name="Model card").click()
    dialog = served.get_by_role("dialog")
    expect(dialog).to_contain_text("The server cannot be reached")
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
