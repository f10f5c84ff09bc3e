"""What was asked in a visit, looked at again and saved."""

import codecs
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
    rows = list(csv.DictReader(download.value.path().read_text("utf-8-sig").splitlines()))
    assert [row["predicted_class"] for row in rows] == [*names, ""]
    assert float(rows[0]["probability_green"]) == float(rows[0]["confidence"])
    assert "cannot be read" in rows[4]["error"]
    with served.expect_download() as download:
        served.get_by_role("button", name="Save as JSON").click()
    assert [row.get("predicted_class") for row in json.loads(download.value.path().read_text())] == [*names, None]


def test_a_spreadsheet_reads_the_saved_csv_and_runs_nothing_of_it(served: Page) -> None:
    names = ["größe 猫.png", "=1+1.png", "+1+1.png", "-1+1.png", "@SUM(1).png", "\t=1+1.png", "-1", "-2e5"]
    served.set_input_files("#file", [upload(name=name) for name in names])
    expect(served.locator("#visit button").last).to_contain_text("green")
    with served.expect_download() as download:
        served.get_by_role("button", name="Save as CSV").click()
    saved = download.value.path().read_bytes()
    assert saved.startswith(codecs.BOM_UTF8)
    rows = list(csv.DictReader(saved.decode("utf-8-sig").splitlines()))
    assert [row["file"] for row in rows] == [names[0], *(f"'{name}" for name in names[1:6]), *names[6:]]
    assert all(float(row["probability_red"]) >= 0 for row in rows)  # such as 1e-7
