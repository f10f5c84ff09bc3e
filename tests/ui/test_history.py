"""What was asked in a visit, looked at again and saved."""

import csv
import json
import re

from playwright.sync_api import Page, expect

from tests.drawing import draw, encode
from tests.ui.uploads import upload


def test_takes_many_images_and_remembers_them(served: Page) -> None:
    names = ["green", "red", "blue", "red"]
    uploads = [upload(encode(draw(name, 5)), f"{number} {name}.png") for number, name in enumerate(names)]
    served.set_input_files("#file", [*uploads, upload(b"broken", "broken.png")])
    visit = served.locator("#visit button")
    expect(visit).to_have_count(5)
    for index, name in enumerate(names):
        expect(visit.nth(index)).to_contain_text(re.compile(rf"{name} \d+\.\d\s%"))
    expect(visit.nth(4)).to_contain_text("cannot be read")
    expect(served.locator(".predicted")).to_have_text("green")
    visit.nth(2).click()
    expect(served.locator(".predicted")).to_have_text("blue")
    expect(visit.nth(2)).to_have_attribute("aria-current", "true")
    expect(visit.nth(2)).to_be_focused()
    visit.nth(4).click()
    expect(served.get_by_role("alert")).to_contain_text("cannot be read")

    with served.expect_download() as download:
        served.get_by_role("button", name="Save as CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [row["predicted_class"] for row in rows] == [*names, ""]
    assert float(rows[0]["probability_green"]) == float(rows[0]["confidence"])
    assert "cannot be read" in rows[4]["error"]
    with served.expect_download() as download:
        served.get_by_role("button", name="Save as JSON").click()
    assert [row.get("predicted_class") for row in json.loads(download.value.path().read_text())] == [*names, None]
