"""Whether /live, /ready and /health tell the states of the product apart."""

from pathlib import Path

import requests

from tests.stack import JAVA, Stack, serve, wait_until


def states(stack: Stack) -> tuple[int, int, int, object]:
    """Return the statuses of /live, /ready and /health, and why there is no model or else how many workers it has."""
    live, ready, health = (requests.get(f"{stack.url}/{path}") for path in ("live", "ready", "health"))
    return (
        live.status_code,
        ready.status_code,
        health.status_code,
        health.json().get("reason", health.json().get("workers")),
    )


def test_states_are_told_apart(archive: Path, tmp_path: Path) -> None:
    with serve(archive, tmp_path) as stack:
        wait_until(lambda: states(stack) == (200, 200, 200, 2))
        stack.torchserve.scale(1)
        wait_until(lambda: states(stack) == (200, 200, 200, 1))
        stack.torchserve.scale(0)
        wait_until(lambda: states(stack) == (200, 503, 503, "The model is not ready yet."))
        stack.torchserve.unregister("1.0")
        wait_until(lambda: states(stack) == (200, 503, 503, "No model is registered."))
        (java,) = stack.processes(JAVA)
        java.kill()
        wait_until(lambda: states(stack) == (200, 503, 503, "TorchServe cannot be reached."))
        wait_until(lambda: states(stack) == (200, 200, 200, 2))
