"""The application and its settings."""

import json
import math
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from flasgger import Swagger
from flask import Config, Flask, Request, redirect, request
from flask.json.provider import DefaultJSONProvider
from flask_cors import CORS
from werkzeug import Response
from werkzeug.routing import MapAdapter

from gateway import error_handlers, feedback, keys, open_inference, request_log, routes
from gateway.admission import Admission, Gate
from gateway.backend import Backend
from gateway.batches import Batches
from gateway.embedded.backend import Embedded
from gateway.limits import TIMEOUT
from gateway.torchserve.api import Api
from gateway.torchserve.inference import Inference
from gateway.traffic import Traffic

ROOT = Path(__file__).parent
USABLE_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in a period, or "max"


class Setting(NamedTuple):
    """A setting of the gateway. The environment sets it as GATEWAY_<name>; docs/howto/settings.md lists them all."""

    name: str
    default: str | int
    help: str
    least: int = 0  # of a number
    whole: bool = False


SETTINGS = (
    Setting("TORCHSERVE_CONFIG", "config.properties", "the configuration of the TorchServe on this machine"),
    Setting("KEY_FILE", "key_file.json", "the file into which that TorchServe writes its keys"),
    Setting("TORCHSERVE", "", "the URLs of several nodes with commas between them, or one URL that leads to them all"),
    Setting("TOKEN_FILE", "token", "a file with the token of these nodes; a changed token is followed"),
    Setting("MODEL_DIR", "", "an unpacked archive, or several with versions.json, which the gateway then runs itself"),
    Setting("TIMEOUT", TIMEOUT, "seconds for an answer, half of them to wait for the model, half for the model", 1),
    Setting(
        "CALLS",
        2,
        "calls to the model at once in each process, with small images and with everything else",
        1,
        whole=True,
    ),
    Setting("CORS_ORIGINS", "*", "the web pages that may read its answers, a JSON list; by default any page"),
    Setting("MODEL_NAME", "classifier", "the model's name in the Open Inference Protocol, below /v2/models"),
    Setting("API_KEYS_FILE", "", "a file of API keys, which 'classifier key' makes; without it everyone may ask"),
    Setting("OPEN_METRICS", 0, "1 answers /metrics without an API key"),
    Setting(
        "LOG_PREDICTIONS", 0, "1 keeps the class and confidence of each prediction in the log, for 'classifier drift'"
    ),
    Setting("TRAFFIC_FILE", "", "a file that 'classifier models roll' writes for a roll on live traffic"),
    Setting("FEEDBACK_DIR", "", "a folder for images whose right class people have told, at /feedback"),
    Setting("FEEDBACK_MEGABYTES", 1000, "how large that folder may become"),
    Setting("FEEDBACK_DAYS", 90, "how long it keeps an image that nobody has reviewed"),
    Setting("FEEDBACK_SHARE", 0, "the share, 0 to 1, of outliers and unsure predictions (single images) to keep too"),
)
SWAGGER = {
    "openapi": "3.0.3",
    "title": "Image classifier",
    "specs": [{"endpoint": "openapi", "route": "/swagger.json"}],
    "specs_route": "/swagger/",
    "static_url_path": "/swagger/static",
    "headers": [],
    "uiversion": 3,
    "auth": {},
    "ui_params_text": "RELATIVE",  # of templates/flasgger/head.html
    "swagger_ui_bundle_js": "static/swagger-ui-bundle.js",
    "swagger_ui_standalone_preset_js": "static/swagger-ui-standalone-preset.js",
    "jquery_js": "static/lib/jquery.min.js",
}


class Gateway(Flask):
    """Spares each request what this application has not.

    These are coroutines for views, rules for hosts and WebSockets, and other origins if none asks.
    """

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None:
            return None
        environ = request.environ
        host, query = environ.get("HTTP_HOST", ""), environ["QUERY_STRING"]
        if not USABLE_HOST.fullmatch(host):  # others take Python seconds to encode
            host = f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
        return self.url_map.bind(host, default_method=request.method, path_info=request.path, query_args=query)

    def allow_origins(self) -> None:
        """Answer other web pages as CORS_ORIGINS says. A request without an origin, of a program, costs nothing."""
        exposed = [request_log.ID, "Retry-After", open_inference.HEADER_LENGTH]
        CORS(self, origins=self.config["CORS_ORIGINS"], expose_headers=exposed)
        allow: Callable[[Response], Any] = self.after_request_funcs[None].pop()

        @self.after_request
        def allow_if_asked(response: Response) -> Response:
            if "HTTP_ORIGIN" in request.environ:
                return allow(response)
            response.headers.add("Vary", "Origin")  # a cache keeps no such reply for a page
            return response


class StrictJSON(DefaultJSONProvider):
    """JSON by the letter: no key twice and no NaN comes in; keys go out in their order, that of the classes."""

    sort_keys = False

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return json.loads(s, object_pairs_hook=_unique, parse_constant=_no_json)


def create_app(config: dict[str, Any] | None = None) -> Flask:
    """Make the application. SETTINGS come from `config`, or else from the environment.

    MODEL_DIR decides what runs the model, or else TORCHSERVE with TOKEN_FILE, or else TORCHSERVE_CONFIG with KEY_FILE.
    """
    app = Gateway(__name__, static_folder=None)
    app.config.update({setting.name: setting.default for setting in SETTINGS})
    _read_environment(app.config)
    app.config.update(config or {})
    _check(app.config)
    app.json = StrictJSON(app)
    backend = _backend(app.config)
    gate = Gate(app.config["CALLS"], app.config["TIMEOUT"])
    app.extensions.update(backend=backend, gate=gate, batches=Batches(backend, gate.small, _small_calls(app.config)))
    if app.config["TRAFFIC_FILE"]:
        half = max(1, _small_calls(app.config) // 2)  # as a canary has half of the requests at most
        app.extensions["traffic"] = Traffic(Path(app.config["TRAFFIC_FILE"]), gate, backend, half)
    request_log.register(app)
    if app.config["API_KEYS_FILE"]:
        keys.register(app, _shared_folder())
    app.register_blueprint(routes.blueprint)
    app.register_blueprint(open_inference.blueprint)
    app.register_blueprint(feedback.blueprint)
    if app.config["FEEDBACK_DIR"]:
        app.extensions["feedback"] = _feedback(app.config)
    error_handlers.register(app)
    app.allow_origins()
    Swagger(app, config=SWAGGER, template_file=str(ROOT / "openapi.yaml"))
    app.add_url_rule("/swagger", view_func=_add_slash)
    app.wsgi_app = Admission(app)  # type: ignore[method-assign]
    return app


def _read_environment(config: Config) -> None:
    """Take settings from variables GATEWAY_<name>: numbers and lists as JSON, texts as they are, so 1.10 stays 1.10."""
    config.from_prefixed_env("GATEWAY")
    for name, default, *_ in SETTINGS:
        given = os.environ.get(f"GATEWAY_{name}")
        if isinstance(default, str) and name != "CORS_ORIGINS" and given is not None:
            config[name] = given


def _check(config: Config) -> None:
    """Raise ValueError if a setting that is a number by default is none, because each request would fail of it."""
    for name, default, _, least, whole in SETTINGS:
        value = config[name]
        if isinstance(default, int):
            number = isinstance(value, (int, float)) and math.isfinite(value)
            if not number or value < least or (whole and not isinstance(value, int)):
                raise ValueError(f"GATEWAY_{name} is {value!r}, and has to be a number such as {default}.")


def _add_slash() -> Response:
    return redirect("swagger/")  # relative; Werkzeug's own redirect would leave the path of a proxy


def _small_calls(config: Config) -> int:
    """Return how many calls to make at once with small images that share them.

    If this process runs the model, more calls than cores only make each call smaller. Two processes share the cores.
    """
    cores = _cores() // 2 if config["MODEL_DIR"] else config["CALLS"]
    return max(1, min(config["CALLS"], cores))


def _cores() -> int:
    """Return how many cores this process may use. A container may have a quota of the machine's."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # there is none
        quota, period = map(int, CPU_QUOTA.read_text().split())
        cores = min(cores, math.ceil(quota / period))
    return cores


def _shared_folder() -> Path:
    """Return a folder that all processes of the gateway have in common."""
    return Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR") or tempfile.mkdtemp(prefix="classifier-"))


def _feedback(config: Config) -> feedback.Feedback:
    return feedback.Feedback(
        Path(config["FEEDBACK_DIR"]),
        config["FEEDBACK_MEGABYTES"] * 10**6,
        config["FEEDBACK_DAYS"] * 86_400,
        config["FEEDBACK_SHARE"],
        _shared_folder() / feedback.RECENT,
    )


def _backend(config: Config) -> Backend:
    if config["MODEL_DIR"]:
        return Embedded(Path(config["MODEL_DIR"]), config["CALLS"])
    if addresses := config["TORCHSERVE"].replace(",", " ").split():
        return Inference(Api.of_several_nodes(addresses, Path(config["TOKEN_FILE"]), config["TIMEOUT"]))
    config_file, key_file = Path(config["TORCHSERVE_CONFIG"]), Path(config["KEY_FILE"])
    return Inference(Api.of_this_machine(config_file, key_file, config["TIMEOUT"]))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) < len(pairs):
        raise ValueError("A key is there twice.")
    return items


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON.")
