"""What Prometheus reads: of the running product, and of a gateway that is full or has no TorchServe."""

import io
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from flask.testing import FlaskClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from gateway import limits
from gateway.admission import Gate
from gateway.app import create_app
from gateway.batches import Batches
from tests.drawing import draw, encode
from tests.gateway.test_batches import Held
from tests.stack import GATEWAY, WORKER, Stack, wait_until, write_config
from training.calibrate import ACCEPTED

PICTURE = encode(draw("purple", 21))
NOISE = encode(Image.effect_noise((64, 64), 200).convert("RGB"))


class Samples(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """What /metrics said, by name and labels; what it does not say is 0."""

    def __init__(self, text: str) -> None:
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        super().__init__({(each.name, frozenset(each.labels.items())): each.value for each in samples})

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        return self.get((f"classifier_{name}", frozenset((labels or {}).items())), 0)

    def requests(self, route: str, status: int) -> float:
        return self.value("request_seconds_count", {"route": route, "status": str(status)})

    def predictions(self, name: str, in_distribution: bool) -> float:
        labels = {"version": "1.0", "class": name, "in_distribution": str(in_distribution).lower()}
        return self.value("predictions_total", labels)


def scrape(stack: Stack) -> Samples:
    response = requests.get(f"{stack.url}/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Samples(response.text)


def upload(stack: Stack, *images: bytes) -> requests.Response:
    return requests.post(f"{stack.url}/predict", files=[("file", image) for image in images])


def test_counts_what_both_processes_were_asked(stack: Stack) -> None:
    before = scrape(stack)
    noisy = upload(stack, NOISE).json()["predicted_class"]
    replies = [upload(stack, PICTURE) for _ in range(9)] + [upload(stack, b"broken")]
    replies += [upload(stack, PICTURE, b"broken", NOISE)]
    replies += [requests.get(f"{stack.url}/{path}") for path in ("nothing", "predict", "examples/none.jpg")]
    assert [reply.status_code for reply in replies] == [200] * 9 + [400, 200, 404, 405, 404]
    after = scrape(stack)
    for route, status, count in (
        ("/predict", 200, 11),
        ("/predict", 400, 1),
        ("none", 404, 1),
        ("none", 405, 1),
        ("/<any('examples'):folder>/<name>", 404, 1),
    ):
        assert after.requests(route, status) - before.requests(route, status) == count, route
    assert after.predictions("purple", True) - before.predictions("purple", True) == 10
    assert after.predictions(noisy, False) - before.predictions(noisy, False) == 2


def test_tells_where_the_time_goes(stack: Stack) -> None:
    before = scrape(stack)
    started = time.monotonic()
    upload(stack, PICTURE)
    upload(stack, PICTURE, PICTURE)
    elapsed = time.monotonic() - started
    after = scrape(stack)

    def more(name: str, labels: Mapping[str, str] | None = None) -> float:
        return after.value(name, labels) - before.value(name, labels)

    answered = {"route": "/predict", "status": "200"}
    assert more("request_seconds_count", answered) == 2
    assert (more("queue_seconds_count"), more("inference_seconds_count")) == (2, 2)
    total, gateway = more("request_seconds_sum", answered), more("gateway_seconds_total", {"route": "/predict"})
    queue, inference = more("queue_seconds_sum"), more("inference_seconds_sum")
    assert queue > 0
    assert 0 < gateway < gateway + queue + inference < total < elapsed


def test_tells_what_is_deployed(stack: Stack) -> None:
    samples = scrape(stack)
    assert samples.value("workers_ready") == 2
    assert samples.value("in_distribution_baseline", {"version": "1.0"}) == ACCEPTED
    assert samples.value("training_share", {"version": "1.0", "class": "azure"}) == pytest.approx(0.1)
    assert samples.value("images_waiting", {"size": "small"}) == 0


def test_a_probe_is_no_prediction(stack: Stack) -> None:
    def count(samples: Samples) -> float:
        return sum(value for (name, _), value in samples.items() if name == "classifier_predictions_total")

    before = scrape(stack)
    requests.get(f"{stack.url}/ready")
    assert count(scrape(stack)) == count(before)


def test_processes_that_are_killed_leave_their_counts_and_not_their_queue(stack: Stack) -> None:
    asked = scrape(stack).requests("/metrics", 200)
    gateway, workers = stack.processes(GATEWAY), stack.processes(WORKER)
    pids = {process.pid for process in gateway}
    with ThreadPoolExecutor(30) as pool:
        for worker in workers:
            worker.suspend()
        waiting = [pool.submit(upload, stack, PICTURE) for _ in range(30)]
        time.sleep(0.5)  # so that there is a queue
        for process in gateway:
            if process.ppid() in pids:
                process.send_signal(signal.SIGKILL)
        for worker in workers:
            worker.resume()
    assert any(isinstance(each.exception(), requests.ConnectionError) for each in waiting)
    wait_until(lambda: requests.get(f"{stack.url}/ready").ok)
    samples = scrape(stack)
    assert samples.value("images_waiting", {"size": "small"}) == 0
    assert samples.requests("/metrics", 200) > asked


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A gateway that one image fills, with no TorchServe behind it."""
    monkeypatch.setattr(limits, "MAX_WAITING_IMAGES", 1)
    config = write_config(tmp_path / "config.properties")
    return create_app({"TORCHSERVE_CONFIG": config, "KEY_FILE": tmp_path / "key_file.json"}).test_client()


def test_tells_that_there_is_no_model(client: FlaskClient) -> None:
    reply = client.get("/metrics")
    assert reply.status_code == 200
    assert Samples(reply.text).value("workers_ready") == 0
    assert "baseline" not in reply.text


def test_counts_what_waits_and_what_is_turned_away_before_flask(client: FlaskClient) -> None:
    def read() -> Samples:
        return Samples(client.get("/metrics").text)

    torchserve = Held()
    gate = client.application.extensions["gate"] = Gate(calls=1, timeout=10)
    full = Batches(torchserve, gate.small, calls=1)
    before = read()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(full.predict, b"1")
        wait_until(lambda: torchserve.calls == [[b"1"]])
        pool.submit(full.predict, b"2")
        wait_until(gate.small.full)
        assert client.post("/predict", data={"file": (io.BytesIO(PICTURE), "3.png")}).status_code == 503
        during = read()
        torchserve.go_on.set()
    assert during.value("images_waiting", {"size": "small"}) == 1
    assert during.requests("/predict", 503) - before.requests("/predict", 503) == 1
    assert read().value("images_waiting", {"size": "small"}) == 0
