"""The gateway as a client with many images sees it.

Whatever answers at the URL, a method here returns what the gateway says, or raises GatewayGone with a sentence.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from itertools import chain, repeat
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from gateway.backend import Answer, Refusal
from gateway.limits import MAX_IMAGE_BYTES
from scripts.serving.defaults import KEY_HEADER, KEY_VARIABLE, is_this_machine
from training.outcome import Stopped

ABOUT_THE_IMAGE = (400, 413, 415)  # the gateway will always refuse this image
RETRY_STATUSES = (408, 429, 500, 502, 503, 504)  # the gateway may answer otherwise next time
RETRY_SECONDS = 60  # without an answer, after which a request is given up
DELAYS = (0.5, 1, 2, 4, 8)  # seconds between tries; the last is repeated
TIMEOUT = (10, 60)  # seconds to connect, and between two bytes of the reply
READ_DELAYS = (0, 0.5, 1)  # seconds before each try to read a file
JSON = dict[str, Any]
NO_ANSWER = 0  # in the place of a status, if the gateway has not refused the image itself


class GatewayGone(Stopped):
    """Nobody at the URL can predict. The message says why."""


class PassingError(Exception):
    """A request that failed, but may succeed when it is made again `after` seconds or later."""

    def __init__(self, reason: str, after: float = 0) -> None:
        super().__init__(reason)
        self.after = after


class Token(requests.auth.AuthBase):
    """Sends a token as Bearer."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def read_secret(file: Path) -> str:
    """Read the token or key in a file. Raises Stopped if it has none."""
    try:
        secret = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise Stopped(f"The secret in {file} cannot be read ({reason_of(error)}); name another file.") from None
    return checked_secret(secret, str(file))


def checked_secret(secret: str, place: str) -> str:
    """Return a token or key from a place that it names. Raises Stopped if it cannot be sent."""
    if not (secret.isascii() and secret.isprintable()) or len(secret.split()) != 1:
        raise Stopped(f"{place} must hold a token or key and nothing else, in one line without blanks.")
    return secret


class Gateway:
    """A client of the gateway at `url`, which sends `connections` requests at once.

    A user and password in the URL are sent, and so is the token in `token_file`; else what .netrc has for the host. So
    is the gateway's own API key, which is in `key_file` or else the variable CLASSIFIER_KEY. The environment names a
    proxy (not used for this machine itself) and a certificate authority. Set `stop` to end waiting.
    Raises Stopped for a URL or file that cannot be used.
    """

    def __init__(
        self, url: str, connections: int, token_file: Path | None = None, key_file: Path | None = None
    ) -> None:
        try:
            address = urlsplit(url)
            host, _ = address.hostname, address.port
        except ValueError:
            host = None
        if not host or address.scheme not in ("http", "https"):
            raise Stopped("--url must be an address such as http://127.0.0.1:5001.")
        # What is printed names no password.
        self.url = url.replace(address.netloc, address.netloc.rpartition("@")[2], 1)
        self.connections, self.stop = connections, Event()
        self.session = requests.Session()
        self.session.mount(self.url, HTTPAdapter(pool_maxsize=connections))
        self.session.verify = os.environ.get("SSL_CERT_FILE") or True  # requests itself knows REQUESTS_CA_BUNDLE
        if address.username is not None:
            user, password = unquote(address.username), unquote(address.password or "")
            self.session.auth = requests.auth.HTTPBasicAuth(user.encode(), password.encode())
        if token_file:
            self.session.auth = Token(read_secret(token_file))
        if key_file:
            self.session.headers[KEY_HEADER] = read_secret(key_file)
        elif key := os.environ.get(KEY_VARIABLE):
            self.session.headers[KEY_HEADER] = checked_secret(key, KEY_VARIABLE)
        self.proxies = {"no_proxy": host} if is_this_machine(host) else {}
        self.answered = time.monotonic()

    def classes(self) -> list[str]:
        """Return the class names. Raises GatewayGone."""
        answer = self._get("classes")
        names = answer.get("classes")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self._another("classes")
        return names

    def card(self) -> JSON:
        """Return the card of the default version, with its number. Raises GatewayGone."""
        return self._get("model")

    def predict_all(self, groups: list[list[Path]], done: int = 0) -> Iterator[list[Answer]]:
        """Yield what `predict` returns for each group, in order; `done` images have their answers already."""
        self.answered = time.monotonic()
        with (
            ThreadPoolExecutor(self.connections) as pool,
            tqdm(initial=done, total=done + sum(map(len, groups)), unit="image", disable=None) as bar,
        ):
            try:
                for answers in pool.map(self.predict, groups):
                    bar.update(len(answers))
                    yield answers
            except KeyboardInterrupt:
                self.stop.set()  # the pool waits for its threads
                raise

    def predict(self, paths: list[Path]) -> list[Answer]:
        """Return the gateway's answer for each file, or a Refusal with NO_ANSWER and the reason.

        That reason is not the image's: the file cannot be read now, or the gateway answers others only. Raises
        GatewayGone if it answers none.
        """
        contents = list(map(self._read, paths))
        answers = iter(self._ask([content for content in contents if isinstance(content, bytes)]))
        return [
            next(answers) if isinstance(content, bytes) else _unanswered(reason_of(content)) for content in contents
        ]

    def _read(self, path: Path) -> bytes | Exception:
        for delay in READ_DELAYS:  # a network drive may be away for a moment
            self.stop.wait(delay)
            try:
                with path.open("rb") as file:
                    return file.read(MAX_IMAGE_BYTES + 1)  # which is enough to be told that it is too large
            except (FileNotFoundError, PermissionError, IsADirectoryError, ValueError) as error:
                return error  # the last for a name that no file can have
            except OSError as error:
                failure = error
        return failure

    def _ask(self, images: list[bytes]) -> list[Answer]:
        if not images:
            return []
        try:
            reply = self._patiently(images)
        except PassingError as error:
            self._get("ready")  # else it is not these images
            reply = _unanswered(str(error))
        if isinstance(reply, list):
            return reply
        if len(images) > 1:
            return [answer for image in images for answer in self._ask([image])]  # whichever failed then fails alone
        return [reply]

    def _patiently(self, images: list[bytes]) -> list[Answer] | Answer:
        """Ask until there is an answer. Raises PassingError if none comes in time, and GatewayGone."""
        started, delays = time.monotonic(), chain(DELAYS, repeat(DELAYS[-1]))
        while True:
            try:
                answer = self._post(images)
            except PassingError as error:
                waiting = max(next(delays), error.after)
                # Many images are not waited for one after the other if none is answered.
                if time.monotonic() + waiting > min(started, self.answered) + RETRY_SECONDS or self.stop.wait(waiting):
                    raise
            else:
                self.answered = time.monotonic()
                return answer

    def _post(self, images: list[bytes]) -> list[Answer] | Answer:
        """Return an answer for each image, or one for all that they are refused.

        Raises PassingError, and GatewayGone for a reply that does not come from the gateway.
        """
        try:
            response = self._request("POST", "predict", files=[("file", ("image", image)) for image in images])
        except OSError as error:  # requests' errors are OSErrors
            raise PassingError(self._failure(error)) from None
        answer = _json(response)
        status = response.status_code
        if status == HTTPStatus.OK:
            answers = answer if isinstance(answer, list) else [answer]
            if len(answers) == len(images) and all(map(_is_answer, answers)):
                return answers
            raise PassingError(str(self._another("predict")))
        if status in ABOUT_THE_IMAGE and _is_failure(answer):
            return {"error": answer["error"], "status": status, "success": False}
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            size = sum(map(len, images)) / 1e6
            return _unanswered(
                f"The proxy refuses uploads of this size ({size:.1f} MB); raise its client_max_body_size."
            )
        if status in RETRY_STATUSES:
            raise PassingError(self._refusal(response, answer), _seconds(response.headers.get("Retry-After", "")))
        raise GatewayGone(self._refusal(response, answer))

    def _get(self, route: str) -> JSON:
        """Return the JSON object of a route. Raises GatewayGone."""
        try:
            response = self._request("GET", route)
        except OSError as error:
            raise GatewayGone(self._failure(error)) from None
        answer = _json(response)
        if response.status_code != HTTPStatus.OK:
            raise GatewayGone(self._refusal(response, answer))
        if not isinstance(answer, dict):
            raise self._another(route)
        return answer

    def _request(self, method: str, route: str, **options: Any) -> requests.Response:
        # A redirection would turn a POST into a GET, or lead to a page that asks to log in.
        return self.session.request(
            method, f"{self.url}/{route}", timeout=TIMEOUT, proxies=self.proxies, allow_redirects=False, **options
        )

    def _failure(self, error: OSError) -> str:
        """Say why there was no reply."""
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
            return (
                f"The certificate of {self.url} cannot be trusted ({why}); "
                "name its certificate authority in REQUESTS_CA_BUNDLE."
            )
        match error:
            case requests.exceptions.SSLError():
                return f"There is no TLS at {self.url}; begin the --url with http://, or have its certificate mended."
            case requests.exceptions.ProxyError():
                return f"The proxy that the environment names does not lead to {self.url}; set NO_PROXY, or mend it."
            case requests.exceptions.ReadTimeout():
                return f"The gateway at {self.url} took longer than {TIMEOUT[1]} s."
            case requests.exceptions.ConnectionError() | requests.exceptions.Timeout():
                return f"There is no gateway at {self.url}; start one with 'classifier serve', or name another --url."
            case requests.exceptions.RequestException():
                return str(self._another(type(error).__name__))
        return f"{self.url} cannot be reached ({reason_of(error)}); see REQUESTS_CA_BUNDLE."

    def _refusal(self, response: requests.Response, answer: Any) -> str:
        """Say why a reply is no answer."""
        sent = "Authorization" in response.request.headers
        match response.status_code:
            case 401 if _is_failure(answer) and KEY_HEADER in response.request.headers:
                return f"{self.url} does not take the API key that was sent; ask for a new one."
            case 401 if _is_failure(answer):
                return f"{self.url} asks for an API key; name a file with yours as --key, or set {KEY_VARIABLE}."
            case 401 if sent:
                return f"{self.url} does not take the password or token that was sent; look it up and try again."
            case 401:
                return f"{self.url} asks for a password or token; write it into ~/.netrc, or name a --token-file."
            case 403:
                return f"{self.url} refuses access (status 403); ask who runs it."
            case 407:
                return "The proxy that the environment names asks for a password; write it into the proxy's URL there."
            case 301 | 302 | 303 | 307 | 308:
                place = _without_query(response.headers.get("Location", "nowhere"))
                return f"{self.url} leads to {place}; name the gateway's own address as --url."
        if isinstance(answer, dict) and isinstance(why := answer.get("error", answer.get("reason")), str):
            return f"The gateway at {self.url} cannot predict: {why}"
        if response.status_code in (502, 503, 504):
            return f"The proxy at {self.url} does not reach the gateway behind it (status {response.status_code})."
        return str(self._another(response.request.path_url.rpartition("/")[2], f" (status {response.status_code})"))

    def _another(self, route: str, status: str = "") -> GatewayGone:
        return GatewayGone(
            f"Something else than the gateway answers at {self.url}/{route}{status}; name another --url."
        )


def reason_of(error: Exception) -> str:
    """Return why a file cannot be read or written, in a few words."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _without_query(url: str) -> str:
    return url.partition("?")[0]  # what follows may be secret


def may_pass(answer: Answer) -> bool:
    """Say whether a later try may predict an image, because the refusal was not about the image."""
    return not answer["success"] and answer["status"] not in ABOUT_THE_IMAGE


def _unanswered(reason: str) -> Refusal:
    return {"error": reason, "status": NO_ANSWER, "success": False}


def _json(response: requests.Response) -> Any:
    """Return the JSON of a reply, or None if it has none."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _is_answer(answer: Any) -> bool:
    match answer:
        case {
            "success": True,
            "predicted_class": str(),
            "confidence": float() | int(),
            "class_probabilities": dict(),
        }:
            return True
        case {"status": int()}:
            return _is_failure(answer)
    return False


def _is_failure(answer: Any) -> bool:
    match answer:
        case {"success": False, "error": str()}:
            return True
    return False


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdecimal() else 0
