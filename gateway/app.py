"""The application and its settings."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

from flasgger import Swagger
from flask import Config, Flask, Request, redirect
from flask.json.provider import DefaultJSONProvider
from flask_cors import CORS
from werkzeug import Response

from gateway import error_handlers, request_log, routes
from gateway.admission import Admission, Gate
from gateway.batches import Batches
from gateway.embedded import Backend, Embedded
from gateway.torchserve.client import TorchServe, TorchServeNodes

ROOT = Path(__file__).parent
TIMEOUT = 15  # seconds; less than responseTimeout in handler/model-config.yaml, after which the worker is killed
SETTINGS = {
    "TORCHSERVE_CONFIG": "config.properties",
    "KEY_FILE": "key_file.json",
    "TORCHSERVE": "",
    "TOKEN_FILE": "token",
    "MODEL_DIR": "",
    "TIMEOUT": TIMEOUT,
    "CALLS": 2,
    "CORS_ORIGINS": "*",
}
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


class InMemory(Request):
    """Keeps uploads in memory, which the gate bounds; the folder for temporary files may be full."""

    def _get_file_stream(self, *arguments: object, **options: object) -> BytesIO:
        return BytesIO()


class StrictJSON(DefaultJSONProvider):
    """JSON by the letter: no key twice and no NaN comes in; keys go out in their order, that of the classes."""

    sort_keys = False

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return json.loads(s, object_pairs_hook=_unique, parse_constant=_no_json)


def create_app(config: dict[str, Any] | None = None) -> Flask:
    """Make the application. Settings come from `config` or from variables GATEWAY_<name>:

    TORCHSERVE_CONFIG and KEY_FILE (paths of TorchServe's on this machine); or else TORCHSERVE (the URLs of its nodes
    with commas between them, or one that leads to them all) and TOKEN_FILE (path of the token they ask for); or else
    MODEL_DIR (an archive, unpacked, to run in this process). TIMEOUT (seconds), CALLS (to the model at once in each
    process, with small images and with everything else), CORS_ORIGINS.
    """
    app = Flask(__name__, static_folder=None)
    app.request_class = InMemory
    app.config.update(SETTINGS)
    app.config.from_prefixed_env("GATEWAY")
    app.config.update(config or {})
    app.json = StrictJSON(app)
    backend = _backend(app.config)
    gate = Gate(app.config["CALLS"], app.config["TIMEOUT"])
    app.extensions.update(backend=backend, gate=gate, batches=Batches(backend, gate.small, app.config["CALLS"]))
    request_log.register(app)
    app.register_blueprint(routes.blueprint)
    error_handlers.register(app)
    CORS(app, origins=app.config["CORS_ORIGINS"], expose_headers=[request_log.ID, "Retry-After"])
    Swagger(app, config=SWAGGER, template_file=str(ROOT / "openapi.yaml"))
    app.add_url_rule("/swagger", view_func=_add_slash)
    app.wsgi_app = Admission(app)  # type: ignore[method-assign]
    return app


def _add_slash() -> Response:
    return redirect("swagger/")  # relative; Werkzeug's own redirect would leave the path of a proxy


def _backend(config: Config) -> Backend:
    if config["MODEL_DIR"]:
        return Embedded(Path(config["MODEL_DIR"]), config["CALLS"])
    if addresses := config["TORCHSERVE"].replace(",", " ").split():
        return TorchServeNodes(addresses, Path(config["TOKEN_FILE"]), config["TIMEOUT"])
    return TorchServe(Path(config["TORCHSERVE_CONFIG"]), Path(config["KEY_FILE"]), config["TIMEOUT"])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) < len(pairs):
        raise ValueError("A key is there twice.")
    return items


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON.")
