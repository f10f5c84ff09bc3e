"""The gateway as a client with many images sees it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from scripts.options import Stopped

BUSY = (429, 503)
TRIES = 5
TIMEOUT = 60  # seconds
Answer = dict[str, Any]  # what the gateway says of one image, or {"error": …}


class GatewayGone(Stopped):
    """The gateway or its model has gone away while it was asked."""


class Gateway:
    """A client of the gateway at `url`; `connections` requests can be under way at once."""

    def __init__(self, url: str, connections: int) -> None:
        self.url, self.connections = url, connections
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy for the web does not lead to a gateway on this machine
        busy = Retry(
            TRIES, connect=0, status_forcelist=BUSY, allowed_methods=None, backoff_factor=0.5, raise_on_status=False
        )
        self.session.mount(self.url, HTTPAdapter(pool_maxsize=connections, max_retries=busy))

    def classes(self) -> list[str]:
        """Return the class names. Raises Stopped where the gateway or the model is not there."""
        try:
            return self._classes()
        except requests.RequestException:
            raise Stopped(
                f"There is no model to ask at {self.url}; start one with 'make serve' or name its --url."
            ) from None

    def predict_all(self, groups: list[list[Path]], done: int = 0) -> Iterator[list[Answer]]:
        """Yield what `predict` returns for each group, in order; `done` images have their answers already."""
        with (
            ThreadPoolExecutor(self.connections) as pool,
            tqdm(initial=done, total=done + sum(map(len, groups)), unit="image", disable=None) as bar,
        ):
            for answers in pool.map(self.predict, groups):
                bar.update(len(answers))
                yield answers

    def predict(self, paths: list[Path]) -> list[Answer]:
        """Return the gateway's answer for each file, or {"error": …} with the reason why there is none.

        Raises GatewayGone where the reason is that the gateway or the model has gone away.
        """
        answers = self._ask(paths)
        if isinstance(answers, list):
            return answers
        if len(paths) > 1:
            return [answer for path in paths for answer in self.predict([path])]  # whichever failed then fails alone
        if "error" in answers:
            self._check_presence()
        return [answers]

    def _ask(self, paths: list[Path]) -> Any:
        try:
            files = [("file", ("image", path.read_bytes())) for path in paths]
            return self.session.post(f"{self.url}/predict", files=files, timeout=TIMEOUT).json()
        except OSError as error:  # of a file or, as requests' errors are OSErrors too, of the connection
            return {"error": f"{type(error).__name__}: {error}"}

    def _check_presence(self) -> None:
        try:
            self._classes()
        except requests.RequestException:
            raise GatewayGone(
                f"There is no model to ask at {self.url} any more; once there is, the same command goes on."
            ) from None

    def _classes(self) -> list[str]:
        response = self.session.get(f"{self.url}/classes", timeout=TIMEOUT)
        response.raise_for_status()
        return response.json()["classes"]
