"""A process that is started, watched, started again and stopped, its output in a file."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

STOP_TIMEOUT = 40  # seconds for requests in flight; more than gunicorn's graceful_timeout
MAX_DEATHS, YOUNG = 3, 10  # so many in a row, each in so many seconds of its start, are "keeps dying"
LOG_LINES = 15


class ServeError(RuntimeError):
    """Something that stops the command; the message says what to do."""


class Service:
    """A child process in a group of its own, restarted when it dies, its output in a log file."""

    def __init__(self, name: str, command: list[str], folder: Path, env: dict[str, str], log: Path) -> None:
        self.name, self.command, self.folder, self.env, self.log = name, command, folder, env, log
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.young_deaths = 0
        self.log.write_bytes(b"")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this command alone, which then stops things in order
            )
        self.started = time.monotonic()

    def watch(self) -> None:
        """Start the process again if it has died. Raises ServeError with its last words if it keeps dying."""
        if self.process and self.process.poll() is None:
            return
        self.young_deaths = self.young_deaths + 1 if time.monotonic() < self.started + YOUNG else 0
        self._kill()
        if self.young_deaths >= MAX_DEATHS:
            raise ServeError(f"{self.name} keeps dying. {self.last_lines()}")
        say(f"{self.name} has ended and is started again.")
        self.start()

    def stop(self) -> None:
        if self.process:
            self.process.terminate()  # it stops its own children, which are not asked a second time
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                say(f"{self.name} did not stop within {STOP_TIMEOUT} s and is killed.")
            self._kill()

    def last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"The last lines of {self.log}:", *(f"    {line}" for line in lines)])

    def _kill(self) -> None:
        """Kill what is left of the group."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):  # nothing is left
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def say(line: str) -> None:
    print(line, flush=True)
