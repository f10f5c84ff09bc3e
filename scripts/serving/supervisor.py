"""A process that is started, watched, started again and stopped, its output in a file of bounded size."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from training.outcome import Stopped

STOP_TIMEOUT = 40  # seconds for requests in flight; more than gunicorn's graceful_timeout
LEFT_TIMEOUT = 5  # seconds for a process that an earlier command left behind, which has had its SIGTERM
MAX_DEATHS, YOUNG_SECONDS = 3, 10  # 3 deaths in a row, each within 10 s of a start, are "keeps dying"
LOG_LINES = 15
MAX_LOG_BYTES = 32 * 2**20  # of a log; one older file of this size is kept beside it
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
LIBC = ctypes.CDLL(None)


class Service:
    """A child process in its own process group, restarted when it dies. Its output goes to a log file.

    `arguments` returns the last arguments of the command at each start; the folder `scratch` is emptied then. A process
    that `reopens` its log on SIGUSR1 loses no line of it when the log is full.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        folder: Path,
        env: dict[str, str],
        log: Path,
        *,
        arguments: Callable[[], list[str]] = list,
        scratch: Path | None = None,
        reopens: bool = False,
    ) -> None:
        self.name, self.command, self.folder, self.env, self.log = name, command, folder, env, log
        self.arguments, self.scratch, self.reopens = arguments, scratch, reopens
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.young_deaths = 0
        if log.exists():
            log.replace(_older(log))

    def start(self) -> None:
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir(exist_ok=True)  # network drives may have kept something
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command + self.arguments(),
                cwd=self.folder,
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this command alone, which then stops things in order
                preexec_fn=_end_with(os.getpid()),
            )
        with contextlib.suppress(OSError):  # on a full disk it is served without
            pid = self.process.pid
            pid_file(self.log).write_text(f"{pid} {_start_time(pid)} {self.log.resolve()}")
        self.started = time.monotonic()

    def watch(self) -> None:
        """Start the process again if it has died. Raises Stopped with its last words if it keeps dying."""
        if self.process and self.process.poll() is None:
            self._bound_log(self.process)
            return
        self.young_deaths = self.young_deaths + 1 if time.monotonic() < self.started + YOUNG_SECONDS else 0
        self._kill()
        if self.young_deaths >= MAX_DEATHS:
            raise Stopped(f"{self.name} keeps dying. {self.last_lines()}")
        say(f"{self.name} has ended and is started again.")
        self.start()

    def stop(self) -> None:
        if self.process:
            self.process.terminate()  # it stops its own children, which get no second signal
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                say(f"{self.name} did not stop within {STOP_TIMEOUT} s and is killed.")
            self._kill()
            pid_file(self.log).unlink(missing_ok=True)

    def last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"The last lines of {self.log}:", *(f"    {line}" for line in lines)])

    def _kill(self) -> None:
        """Kill what is left of the group."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):  # nothing is left
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _bound_log(self, process: subprocess.Popen[bytes]) -> None:
        """Begin the log again if it is full; the older lines stay in one file beside it."""
        if not self.log.exists() or self.log.stat().st_size <= MAX_LOG_BYTES:
            return
        with contextlib.suppress(OSError):  # on a full disk the older lines go, and make room
            if self.reopens:
                self.log.replace(_older(self.log))
                process.send_signal(signal.SIGUSR1)
                return
            shutil.copyfile(self.log, _older(self.log))
        os.truncate(self.log, 0)


def end_left_behind(name: str, log: Path) -> None:
    """End a service that an earlier command has started and left behind, as one that is killed may.

    If the folder was copied, the service is that of the original.
    """
    file = pid_file(log)
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid, started, place = file.read_text().split(maxsplit=2)
        if place == str(log.resolve()) and started == _start_time(int(pid)):
            say(f"{name}, process {pid}, was left behind by an earlier server in {log.parent}, and is ended.")
            until = time.monotonic() + LEFT_TIMEOUT
            while started == _start_time(int(pid)):
                if time.monotonic() > until:
                    os.killpg(int(pid), signal.SIGKILL)
                time.sleep(0.05)
    file.unlink(missing_ok=True)


def pid_file(log: Path) -> Path:
    return log.with_suffix(".pid")


def put_aside(log: Path) -> None:
    """Rename a log to a name that nothing reads any more; the older one goes."""
    _older(log).unlink(missing_ok=True)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.before"))


def _older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def _start_time(pid: int) -> str:
    """Return a text that only this process of its number has, of all in time; empty if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "" if state in "ZX" else f"{boot}/{fields[18]}"  # starttime, the 22nd field of proc(5)


def _end_with(parent: int) -> Callable[[], None]:
    """Return the first call of a child: it asks the kernel for a signal when `parent` ends, however that happens."""

    def ask_for_signal() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return ask_for_signal


def say(line: str) -> None:
    with contextlib.suppress(OSError):  # a full disk or a closed terminal ends nothing
        print(line, flush=True)
