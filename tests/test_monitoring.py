"""What deploy/monitoring/ brings: a real Prometheus that scrapes the running product, and the data of the dashboard."""

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from gateway.traffic import LOOK_SECONDS
from scripts.bench.scaling import LATE_SECONDS
from scripts.serving.traffic import FILE as TRAFFIC
from tests.drawing import draw, encode
from tests.stack import ROOT, Stack, free_ports, wait_until
from training.calibrate import ACCEPTED

FOLDER = "deploy/monitoring"
README = (ROOT / FOLDER / "README.md").read_text()
PANELS = json.loads((ROOT / FOLDER / "grafana/dashboards/classifier.json").read_text())["panels"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
SHOWN = [target["expr"].replace("$__rate_interval", "10s") for target in TARGETS]
ALERTS = yaml.safe_load((ROOT / FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
METRIC = re.compile(r"\bclassifier_\w+")


def test_the_plan_for_scale_and_the_alert_mean_the_same_by_late() -> None:
    (slow,) = (rule for rule in ALERTS if rule["alert"] == "ClassifierSlow")
    assert float(slow["expr"].rpartition(">")[2]) == LATE_SECONDS


def command(name: str) -> list[str]:
    """Return a command as the README there has it."""
    lines = README.replace("\\\n", "").splitlines()
    return shlex.split(next(line for line in lines if line.startswith(f"{name} ")))


def ask(prometheus: str, path: str, **query: str) -> Any:
    """Return what Prometheus's API says."""
    reply = requests.get(f"{prometheus}/api/v1/{path}", params=query)
    assert reply.ok, reply.text
    return reply.json()["data"]


def has_scraped(prometheus: str) -> bool:
    try:
        reply = requests.get(f"{prometheus}/api/v1/query", params={"query": "up"})
    except requests.ConnectionError:
        return False
    return reply.ok and bool(reply.json()["data"]["result"])


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus, started as README says, that asks the running product every second."""
    split = {"roll": "1", "version": "2.0", "canary": True, "share": 0.5, "until": time.time() + 60}
    (stack.run / TRAFFIC).write_text(json.dumps(split))
    time.sleep(2 * LOOK_SECONDS)
    for _ in range(10):  # by whichever process of the gateway, and some by the canary, which is not there
        assert requests.post(f"{stack.url}/predict", files={"file": encode(draw("red", 1))}).ok
    (stack.run / TRAFFIC).unlink()
    root = tmp_path_factory.mktemp("monitoring")
    shutil.copytree(ROOT / FOLDER, root / FOLDER)
    for name, old, new in (
        ("prometheus.yml", "15s", "1s"),
        ("targets.yml", "localhost:5001", urlsplit(stack.url).netloc),
    ):
        file = root / FOLDER / name
        file.write_text(file.read_text().replace(old, new))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with (root / "log").open("wb") as log:
        started = [part.replace("127.0.0.1:9090", address) for part in command("prometheus")]
        process = subprocess.Popen(started, cwd=root, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: process.poll() is not None or has_scraped(f"http://{address}"))
        assert process.poll() is None, (root / "log").read_text()
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def test_rules_are_valid_and_alerts_fire_when_they_should() -> None:
    for each in (["promtool", "check", "config", f"{FOLDER}/prometheus.yml"], command("promtool")):
        done = subprocess.run(each, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tests = (ROOT / FOLDER / "alerts_test.yml").read_text()
    assert [alert["alert"] for alert in ALERTS if f'alertname="{alert["alert"]}"' not in tests] == []
    assert all({"summary", "description"} <= alert["annotations"].keys() for alert in ALERTS)


def test_cards_without_a_baseline_have_the_usual_one() -> None:
    assert f"vector({ACCEPTED})" in ALERTS[-1]["expr"]


def test_the_product_is_scraped_and_the_alerts_are_loaded(prometheus: str) -> None:
    (target,) = ask(prometheus, "targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")

    def rules() -> list[dict[str, Any]]:
        return ask(prometheus, "rules")["groups"][0]["rules"]

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()))
    assert [rule["name"] for rule in rules()] == [alert["alert"] for alert in ALERTS]
    wait_until(lambda: rules()[0]["state"] == "inactive")  # it is pending until the first target has been asked


def test_every_panel_has_data(prometheus: str) -> None:
    wait_until(lambda: all(ask(prometheus, "query", query=expression)["result"] for expression in SHOWN))


def test_alerts_and_panels_name_what_there_is_and_panels_show_all(prometheus: str, stack: Stack) -> None:
    named = {name for text in [*SHOWN, *(alert["expr"] for alert in ALERTS)] for name in METRIC.findall(text)}
    assert [name for name in named if not ask(prometheus, "query", query=name)["result"]] == []
    told = text_string_to_metric_families(requests.get(f"{stack.url}/metrics").text)
    assert [family.name for family in told if family.name not in " ".join(SHOWN)] == []


def test_the_dashboard_is_what_grafana_takes() -> None:
    """By Grafana's own types, which leave out what they do not know."""
    given = json.loads((ROOT / FOLDER / "grafana/dashboards/classifier.json").read_text())
    plugins.register_default_plugins()
    understood = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(given)))
    assert missing(given, understood) == []


def missing(given: Any, understood: Any, path: str = "") -> list[str]:
    """Return where something given is not understood, or otherwise."""
    if isinstance(given, dict) and isinstance(understood, dict):
        return [
            place for key in given for place in missing(given[key], understood.get(key, "nothing"), f"{path}/{key}")
        ]
    if isinstance(given, list) and isinstance(understood, list) and len(given) == len(understood):
        return [
            place
            for index, (one, other) in enumerate(zip(given, understood, strict=True))
            for place in missing(one, other, f"{path}/{index}")
        ]
    return [] if given == understood else [path]


def test_the_dashboard_is_whole() -> None:
    (source,) = yaml.safe_load((ROOT / FOLDER / "grafana/datasources/prometheus.yml").read_text())["datasources"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert {each["datasource"]["uid"] for each in [*PANELS, *TARGETS]} == {source["uid"]}
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)  # no panel lies on another
