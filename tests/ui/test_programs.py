"""The programs that the page shows are run, and say what the page says."""

import subprocess
import sys
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Page, expect

from tests.ui.uploads import PICTURE

NODE, _ = compute_driver_executable()  # Playwright brings one along
RUN = {"curl": ["bash", "-c"], "Python": [sys.executable, "-c"], "JavaScript": [NODE, "--input-type=module", "-e"]}


@pytest.mark.parametrize("name", RUN)
def test_copies_a_program_that_asks_the_same(served: Page, tmp_path: Path, name: str) -> None:
    (tmp_path / "it's green.png").write_bytes(PICTURE)
    served.set_input_files("#file", tmp_path / "it's green.png")
    served.get_by_text("Predict from a program").click()
    served.context.grant_permissions(["clipboard-read", "clipboard-write"])
    served.get_by_role("button", name=f"Copy as {name}").click()
    expect(served.get_by_role("button", name="Copied")).to_be_visible()
    cut = "boxes => boxes.filter((box) => box.scrollWidth > box.clientWidth).length"
    assert served.locator("pre").evaluate_all(cut) == 0
    code = served.evaluate("navigator.clipboard.readText()")
    done = subprocess.run([*RUN[name], code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "green" in done.stdout, done.stderr
