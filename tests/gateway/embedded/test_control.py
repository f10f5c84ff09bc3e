"""What the processes of a gateway are asked over their sockets, and what becomes of those that are gone or fail."""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.backend import BackendError, ImageRefused, NoSuchVersion, TooSlow, Unavailable, WorkerDied
from gateway.embedded import control
from gateway.embedded.control import answer, knock, open_socket, predict

Start = Callable[[control.Asked], None]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Begin to answer as a further process would."""
    numbers = iter(range(1, 10))

    def start(asked: control.Asked) -> None:
        monkeypatch.setattr(os, "getpid", lambda: next(numbers))
        answer(open_socket(tmp_path), asked)

    return start


def raising(error: Exception) -> control.Asked:
    def asked(image: bytes | None, version: str | None) -> Any:
        raise error

    return asked


def test_every_process_is_asked(start: Start, tmp_path: Path) -> None:
    questions: list[Any] = []
    for _ in range(2):
        start(lambda *question: questions.append(question))
    assert knock(tmp_path, 5) == 2
    assert questions == [(None, None)] * 2


def test_a_process_predicts_an_image(start: Start, tmp_path: Path) -> None:
    start(lambda image, version: {"predicted_class": f"{len(image or b'')} bytes by {version}"})
    assert predict(tmp_path, 5, bytes(100_000), "2.0")["predicted_class"] == "100000 bytes by 2.0"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ImageRefused("No image at all.", 415), ImageRefused, "No image at all"),
        (NoSuchVersion("There is no version 7."), NoSuchVersion, "no version 7"),
        (RuntimeError("no weights"), BackendError, "RuntimeError: no weights"),
    ],
)
def test_it_says_why_it_cannot(
    error: Exception, kind: type[Exception], said: str, start: Start, tmp_path: Path
) -> None:
    start(raising(error))
    for _ in range(2):  # and goes on
        with pytest.raises(kind, match=said) as raised:
            predict(tmp_path, 5, b"", None)
        assert getattr(raised.value, "status", None) == getattr(error, "status", None)
        with pytest.raises(BackendError, match=said):
            knock(tmp_path, 5)


def test_a_process_that_has_ended_is_forgotten(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / "0.socket"))
    start(lambda *question: None)
    for said in (b"", b"nothing\n", b"{}\n"):  # nor does it mind who asks nothing
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(tmp_path / "1.socket"))
            other.sendall(said)
    assert knock(tmp_path, 5) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1.socket"]


def test_without_a_process_the_gateway_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="The gateway does not run; start it"):
        knock(tmp_path, 5)


def test_a_process_that_takes_too_long_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    start(lambda *question: time.sleep(1))
    with pytest.raises(TooSlow):
        knock(tmp_path, 0.1)


@pytest.mark.parametrize(("deaths", "kind"), [(2, None), (control.MAX_TRIES, Unavailable)])
def test_a_process_that_dies_is_asked_again_when_there_is_another(
    deaths: int, kind: type[Exception] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SECONDS_TO_START", 0)
    listener = open_socket(tmp_path)

    def die() -> None:
        for _ in range(deaths):
            listener.accept()[0].close()
        answer(listener, lambda *question: None)

    threading.Thread(target=die).start()
    if kind:
        with pytest.raises(kind, match="keep dying"):
            knock(tmp_path, 5)
    else:
        assert knock(tmp_path, 5) == 1


def test_an_image_that_kills_the_process_has_no_answer(tmp_path: Path) -> None:
    listener = open_socket(tmp_path)
    threading.Thread(target=lambda: listener.accept()[0].close()).start()
    with pytest.raises(WorkerDied):
        predict(tmp_path, 5, b"crash", None)
