"""The gateway: a Flask service that turns the documented contract into TorchServe calls and serves the page."""

import json
from pathlib import Path
from threading import Semaphore
from typing import Any, NoReturn

from flasgger import Swagger
from flask import Config, Flask
from flask.json.provider import DefaultJSONProvider
from flask_cors import CORS

from gateway import access, errors, routes
from gateway.admission import Admission
from gateway.batches import Batches
from gateway.torchserve import TorchServe, TorchServeNodes

ROOT = Path(__file__).parent
EXPLANATIONS = 2  # at once, as each takes the time of dozens of predictions
TIMEOUT = 15  # seconds; less than responseTimeout in handler/model-config.yaml, after which the worker is killed
SWAGGER = {
    "openapi": "3.0.3",
    "title": "Image classifier",
    "specs": [{"endpoint": "openapi", "route": "/swagger.json"}],
    "specs_route": "/swagger/",
    "static_url_path": "/swagger/static",
    "headers": [],
    "uiversion": 3,
    "auth": {},
}


class StrictJSON(DefaultJSONProvider):
    """JSON by the letter: no key twice and no NaN comes in; keys go out in their order, that of the classes."""

    sort_keys = False

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return json.loads(s, object_pairs_hook=_unique, parse_constant=_no_json)


def create_app(config: dict[str, Any] | None = None) -> Flask:
    """Make the application. Settings come from `config` or from variables GATEWAY_<name>:

    TORCHSERVE_CONFIG and KEY_FILE (paths of TorchServe's on this machine), or else TORCHSERVE (the URLs of its nodes
    with commas between them, or one that leads to them all) and TOKEN_FILE (path of the token they ask for); TIMEOUT
    (seconds), CALLS (to TorchServe at once, with small images and with large ones), CORS_ORIGINS.
    """
    app = Flask(__name__, static_folder=None)
    app.config.update(TORCHSERVE="", TORCHSERVE_CONFIG="config.properties", KEY_FILE="key_file.json")
    app.config.update(TOKEN_FILE="token", TIMEOUT=TIMEOUT, CALLS=2, CORS_ORIGINS="*")  # noqa: S106
    app.config.from_prefixed_env("GATEWAY")
    app.config.update(config or {})
    app.json = StrictJSON(app)
    torchserve = _torchserve(app.config)
    batches = Batches(torchserve, app.config["CALLS"], app.config["TIMEOUT"])
    app.extensions.update(torchserve=torchserve, batches=batches)
    app.extensions["explaining"] = Semaphore(EXPLANATIONS)
    access.register(app)
    app.register_blueprint(routes.blueprint)
    errors.register(app)
    CORS(app, origins=app.config["CORS_ORIGINS"], expose_headers=[access.ID, "Retry-After"])
    Swagger(app, config=SWAGGER, template_file=str(ROOT / "openapi.yaml"))
    app.wsgi_app = Admission(app)  # type: ignore[method-assign]
    return app


def _torchserve(config: Config) -> TorchServe:
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
