"""What a restart serves: on the running product, and by the file that says so."""

import shutil
from pathlib import Path

import psutil
import pytest
import requests

from scripts.serving import served
from scripts.serving.defaults import TORCHSERVE
from tests.archives import numbered, rebuild
from tests.conftest import run_module
from tests.drawing import draw, encode
from tests.stack import GATEWAY, JAVA, WORKER, Stack, serve, wait_until
from training.files import digest_path
from training.outcome import Stopped

PICTURE = encode(draw("red", 2))


@pytest.fixture
def store(archive: Path, tmp_path: Path) -> Path:
    """A model store with first.mar, second.mar and third.mar, versions 1.0, 2.0 and 3.0."""
    folder = tmp_path / "store"
    folder.mkdir()
    for name, version in (("first", "1.0"), ("second", "2.0"), ("third", "3.0")):
        rebuild(archive, folder / f"{name}.mar", numbered(version))
    return folder


def models(stack: Stack, *arguments: str) -> str:
    return run_module("scripts.models", "--config", stack.config, "--run", stack.run, *arguments)


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait(10)


def version(stack: Stack) -> str:
    """Return which version answers; empty while none does."""
    reply = requests.post(f"{stack.url}/predict", files={"file": PICTURE})
    return reply.json()["version"] if reply.ok else ""


@pytest.mark.timeout(600)
def test_a_rolled_version_outlives_torchserve_and_the_server(store: Path, tmp_path: Path) -> None:
    with serve(store / "first.mar", tmp_path) as stack:
        models(stack, "roll", "second.mar", "--slower", "50")
        models(stack, "register", "third.mar")
        kill(stack.processes(JAVA)[0])
        wait_until(lambda: version(stack) == "2.0", 120)
        assert any(
            "Version 2.0 of second.mar is served, because it has replaced first.mar" in line for line in stack.output
        )
        assert [each["version"] for each in stack.torchserve.inference.versions()] == ["2.0", "3.0"]
        assert len(list((stack.run / "scratch" / "models").iterdir())) == 2  # those of the dead TorchServe are gone

        assert "Version 1.0 of first.mar is served" in models(stack, "rollback")
        models(stack, "unregister", "3.0")
        models(stack, "rollback")
        (java,) = stack.processes(JAVA)
        gateways = stack.processes(GATEWAY)
        java.suspend()  # so that it cannot end by itself
        stack.process.kill()
        stack.process.wait()
        for process in gateways:
            process.wait(60)
        assert java.is_running()

    with serve(store / "first.mar", tmp_path) as stack:
        assert f"TorchServe, process {java.pid}, was left behind by an earlier server" in stack.output[0]
        assert not java.is_running()
        assert "Version 2.0 of second.mar is served" in stack.output[1]
        assert version(stack) == "2.0"
        assert [each["version"] for each in stack.torchserve.inference.versions()] == ["2.0"]
        assert "Version 1.0 of first.mar is served" in models(stack, "rollback")
        assert "Version 2.0 of second.mar is served" in models(stack, "rollback")
        assert "Version 1.0 of first.mar is served" in models(stack, "rollback")
        assert version(stack) == "1.0"

        shutil.rmtree((stack.run / "memory").resolve())  # as what tidies temporary folders may
        wait_until(lambda: requests.get(f"{stack.url}/metrics").ok)
        kill(stack.processes(WORKER)[0])
        kill(next(process for process in stack.processes(GATEWAY) if process.ppid() != stack.process.pid))
        wait_until(stack.workers)
        wait_until(lambda: len(stack.processes(GATEWAY)) == 3)
        assert {version(stack) for _ in range(8)} == {"1.0"}
        assert requests.get(f"{stack.url}/metrics").ok


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Path:
    """The folder of a server of first.mar, in whose place second.mar was rolled."""
    folder = tmp_path / "run"
    folder.mkdir()
    served.begin(store / "first.mar", folder, TORCHSERVE)
    first, second = (
        {"archive": f"{name}.mar", "version": number} for name, number in (("first", "1.0"), ("second", "2.0"))
    )
    with served._changing(folder) as state:
        digest = digest_path(store / "second.mar").read_text().split()[0]
        state.update(versions=[second | {"digest": digest}], last_roll={"old": first, "new": second})
    return folder


def test_the_same_archive_brings_back_what_was_rolled(run: Path, store: Path) -> None:
    served.begin(store / "first.mar", run, TORCHSERVE)
    assert served.archives(run) == ["second.mar"]
    assert served.last_roll(run)


def test_an_upgrade_that_packs_the_same_checkpoint_again_keeps_what_was_rolled(
    run: Path, store: Path, archive: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "first.pth"
    checkpoint.write_bytes(b"weights")
    served.begin(store / "first.mar", run, TORCHSERVE, checkpoint)
    with served._changing(run) as state:
        digest = digest_path(store / "second.mar").read_text().split()[0]
        state["versions"] = [{"archive": "second.mar", "version": "2.0", "digest": digest}]
        before = digest_path(store / "first.mar").read_text().split()[0]
        old = {"archive": "first.mar", "version": "1.0", "digest": before}
        state["last_roll"] = {"old": old, "new": {"archive": "second.mar", "version": "2.0"}}
    rebuild(archive, store / "first.mar", {"index_to_name.json": ("azure", "teal")})
    assert not served.begin(store / "first.mar", run, TORCHSERVE, checkpoint)
    assert served.archives(run) == ["second.mar"]
    last = served.last_roll(run)
    assert last
    assert last["old"]["digest"] == served.digest(run, "first.mar") != before  # so a rollback finds it as it was
    checkpoint.write_bytes(b"other weights")
    assert served.begin(store / "first.mar", run, TORCHSERVE, checkpoint)
    assert served.archives(run) == ["first.mar"]


def test_an_upgrade_that_brings_another_default_keeps_what_was_rolled(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    default = tmp_path / "first.pth"
    monkeypatch.setattr(served, "RELEASED", default)
    for weights in (b"weights", b"other weights"):
        default.write_bytes(weights)
        assert not served.begin(store / "first.mar", run, TORCHSERVE, default)
    assert served.archives(run) == ["second.mar"]
    assert capsys.readouterr().out.endswith("has replaced first.mar; return with 'classifier models rollback'.\n")


def test_another_archive_is_served_itself_and_that_is_said(
    run: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.begin(store / "third.mar", run, TORCHSERVE)
    assert served.archives(run) == ["third.mar"]
    assert not served.last_roll(run)
    assert capsys.readouterr().out == (
        "third.mar is served, because you named it; before, Version 2.0 of second.mar was.\n"
    )


def test_an_archive_that_was_built_again_is_served_itself(run: Path, store: Path, archive: Path) -> None:
    rebuild(archive, store / "first.mar", numbered("1.1"))
    served.begin(store / "first.mar", run, TORCHSERVE)
    assert served.archives(run) == ["first.mar"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda store: (store / "second.mar").unlink(), "There is no archive"),
        (lambda store: (store / "second.mar").write_bytes(b"torn"), "is not the archive that second.mar.sha256"),
        (lambda store: rebuild(store / "first.mar", store / "second.mar", {}), "second.mar was built again since"),
    ],
    ids=["gone", "torn", "another"],
)
def test_a_rolled_archive_that_is_not_whole_is_named(
    run: Path, store: Path, damage: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(store)
    assert served.archives(run) == ["first.mar"]
    printed = capsys.readouterr().out
    assert "Version 2.0 of second.mar is not served again." in printed
    assert said in printed
    assert "first.mar is served instead, because you named it.\n" in printed
    assert served.archives(run) == ["first.mar"]
    assert capsys.readouterr().out == ""


def test_a_damaged_file_is_named(run: Path, store: Path) -> None:
    (run / served.FILE).write_text("{")
    with pytest.raises(Stopped, match=r"served\.json is damaged; remove it"):
        served.begin(store / "first.mar", run, TORCHSERVE)
