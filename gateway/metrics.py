"""The counts and times of the gateway, as Prometheus reads them at /metrics.

If PROMETHEUS_MULTIPROC_DIR names a folder, each gunicorn process counts in its own files there, and any of them returns
the sum. Without it a process returns its own counts.
"""

import os
from collections.abc import Iterator
from functools import cache, lru_cache

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway.backend import Details, Prediction

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
NO_ROUTE = "none"  # the label that all paths share which lead nowhere
ANY = "any"  # the label of all classes of a model that has more than MAX_CLASSES, as each would cost a series
MAX_CLASSES = 100
MAX_CLIENTS = 100
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)

CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
SCORES = (-10, -5, -2, -1, -0.5, 0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 5, 10, 20)  # a cosine, or an energy

_COUNTED = CollectorRegistry()
_REQUEST = Histogram(
    "classifier_request_seconds",
    "A request, from its headers to its answer.",
    ["route", "status"],
    buckets=SECONDS,
    registry=_COUNTED,
)
_CLIENT = Counter(
    "classifier_client_requests",
    "Requests with the API key of a client.",
    ["client", "status"],
    registry=_COUNTED,
)
_GATEWAY = Counter(
    "classifier_gateway_seconds",
    "Seconds that all requests together spent in the gateway itself.",
    ["route"],
    registry=_COUNTED,
)
QUEUE = Histogram(
    "classifier_queue_seconds",
    "How long an image waited in the gateway for its call to TorchServe.",
    buckets=SECONDS,
    registry=_COUNTED,
)
INFERENCE = Histogram(
    "classifier_inference_seconds",
    "A call to TorchServe for predictions, of one image or of several.",
    buckets=SECONDS,
    registry=_COUNTED,
)
IMAGES_WAITING = Gauge(
    "classifier_images_waiting",
    "Images that wait for their call to TorchServe: small ones, those of a canary, and all others.",
    ["size"],
    multiprocess_mode="livesum",
    registry=_COUNTED,
)
_CONFIDENCE = Histogram(
    "classifier_confidence",
    "The confidence of a prediction. Its mean is the accuracy to expect, if the model is calibrated for such images.",
    ["version"],
    buckets=CONFIDENCES,
    registry=_COUNTED,
)
_SCORE = Histogram(
    "classifier_in_distribution_score",
    "How much an image is like the training images, as the model's score has it.",
    ["version"],
    buckets=SCORES,
    registry=_COUNTED,
)
_PREDICTIONS = Counter(
    "classifier_predictions",
    "Predicted images.",
    ["version", "class", "in_distribution"],
    registry=_COUNTED,
)

_COMPARED = Counter(
    "classifier_compared",
    "Answers of the served version and of one that is rolled on live traffic, and images that this one fails on.",
    ["version", "failed"],
    registry=_COUNTED,
)


def count_request(route: str | None, status: int, seconds: float, gateway_seconds: float) -> None:
    """Count a request by the rule of its URL, which is None where no rule fits."""
    request, gateway = _of_route(route or NO_ROUTE, status)
    request.observe(seconds)
    gateway.inc(gateway_seconds)


@cache  # as prometheus_client takes longer to find them than to count
def _of_route(route: str, status: int) -> tuple[Histogram, Counter]:
    return _REQUEST.labels(route, status), _GATEWAY.labels(route)


def count_client(name: str, status: int) -> None:
    """Count a request with the API key of a client. Those after MAX_CLIENTS clients share a label."""
    if len(_clients) < MAX_CLIENTS:
        _clients.add(name)
    _of_client(name if name in _clients else ANY, status).inc()


_clients: set[str] = set()


@cache
def _of_client(name: str, status: int) -> Counter:
    return _CLIENT.labels(name, status)


def count_prediction(prediction: Prediction) -> None:
    in_distribution = "true" if prediction["in_distribution"] else "false"
    few = len(prediction["class_probabilities"]) <= MAX_CLASSES
    class_name = prediction["predicted_class"] if few else ANY
    version = prediction["version"]
    _of_class(version, class_name, in_distribution).inc()
    confidence, score = _of_version(version)
    confidence.observe(prediction["confidence"])
    score.observe(prediction["in_distribution_score"])


@lru_cache(MAX_CLASSES)
def _of_version(version: str) -> tuple[Histogram, Histogram]:
    return _CONFIDENCE.labels(version), _SCORE.labels(version)


@lru_cache(10 * MAX_CLASSES)
def _of_class(version: str, class_name: str, in_distribution: str) -> Counter:
    return _PREDICTIONS.labels(version, class_name, in_distribution)


def count_compared(version: str, failed: bool) -> None:
    _COMPARED.labels(version, "true" if failed else "false").inc()


def exposition(details: Details | None) -> bytes:
    """Return all that was counted, and the `details` of the deployed model, if there is one, in Prometheus's format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)
    else:
        registry.register(_COUNTED)
    registry.register(_Deployed(details))
    return generate_latest(registry)


class _Deployed(Collector):
    """The deployed model's figures about itself, as gauges."""

    def __init__(self, details: Details | None) -> None:
        self._details = details

    def collect(self) -> Iterator[Metric]:
        workers = self._details["workers"] if self._details else 0
        yield GaugeMetricFamily(
            "classifier_workers_ready",
            "Processes of the default version that can predict; embedded, calls at once.",
            workers,
        )
        if self._details:
            yield _baseline(self._details)
            yield _validation_accuracy(self._details)
            yield _training_shares(self._details)


def _validation_accuracy(details: Details) -> Metric:
    """Return the accuracy on the validation images; a card of ready-made weights does not have it."""
    gauge = GaugeMetricFamily(
        "classifier_validation_accuracy",
        "Share of the validation images that the version has right.",
        labels=["version"],
    )
    if validation := details["card"].get("metrics", {}).get("validation"):
        gauge.add_metric([details["version"]], validation["accuracy"])
    return gauge


def _training_shares(details: Details) -> Metric:
    """Return the share of each class in the training images; older cards do not have it."""
    gauge = GaugeMetricFamily(
        "classifier_training_share",
        "Share of the training images that are of the class. Their distance from the predicted shares tells of change.",
        labels=["version", "class"],
    )
    classes, counts = details["card"]["classes"], details["card"].get("data", {}).get("class_counts", [])
    if len(classes) <= MAX_CLASSES:
        for name, count in zip(classes, counts, strict=bool(counts)):
            gauge.add_metric([details["version"], name], count / sum(counts))
    return gauge


def _baseline(details: Details) -> Metric:
    """Return the share of validation images that the version calls in distribution; older cards do not have it."""
    gauge = GaugeMetricFamily(
        "classifier_in_distribution_baseline",
        "Share of the validation images that the version calls in distribution.",
        labels=["version"],
    )
    calibration = details["card"]["calibration"]["in_distribution"]
    if "accepted" in calibration:
        gauge.add_metric([details["version"]], calibration["accepted"])
    return gauge
