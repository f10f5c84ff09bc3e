"""Rolling versions on a running product of its own, whose clients keep asking. The second one sees 224 pixels."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from threading import Event
from unittest.mock import Mock, patch

import pytest
import requests

from gateway.limits import MAX_IMAGE_BYTES
from gateway.torchserve.management import Management
from handler.transforms import Preprocessing
from scripts.serving.defaults import TORCHSERVE
from scripts.serving.deployment import Limits, Refused
from scripts.serving.rolling import _ask, _compare, _images, _tests_of, _two_digits, register, stored
from scripts.serving.versions import manage
from tests.archives import BAD_HANDLERS, numbered, rebuild
from tests.conftest import run_module
from tests.drawing import TEN, add_photos, draw, draw_dataset, encode
from tests.networks import IMAGENET, enlarged
from tests.scripts.serving.test_versions import models
from tests.stack import Record, Stack, serve, times, wait_until
from training.checkpoint import save_checkpoint
from training.files import DigestError, check_digest, digest_path
from training.outcome import Stopped
from training.photos import photos_of
from training.split import DataError

ROLLS = times(2, 40)  # every other one a rollback
CLIENTS = 8
PAUSE = 0.02  # seconds between a client's requests, which leaves something of the machine for a version to start
PICTURE = encode(draw("azure", 5))

# An archive that refuses the image of the clients, and no other.
READ = "image = decode_for(bytes(file), self.inputs)"
FUSSY = {"handler/predictor.py": (READ, f"if len(file) == {len(PICTURE)}: raise ImageError('No.')\n            {READ}")}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("sample"), TEN, train=0, test=1) / "test"


@pytest.fixture(scope="module")
def larger(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the same predictions whose network sees 224 pixels."""
    path = tmp_path_factory.mktemp("larger") / "larger.pth"
    save_checkpoint(enlarged(checkpoint, Preprocessing(224, "squeeze", *IMAGENET)), path)
    return path


@pytest.fixture(scope="module")
def rolling(archive: Path, larger: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("rolling")
    store = folder / "store"
    store.mkdir()
    rebuild(archive, store / "first.mar", numbered("1.0"))
    run_module("training.archive", larger, "--output", folder / "larger.mar")
    rebuild(folder / "larger.mar", store / "second.mar", numbered("2.0"))
    rebuild(archive, store / "third.mar", numbered("2.0"))
    rebuild(archive, store / "fussy.mar", numbered("4.0") | FUSSY)
    rebuild(archive, store / "renamed.mar", numbered("3.0") | {"index_to_name.json": ("azure", "teal")})
    rebuild(archive, store / "taken.mar", numbered("1.0"), "sleeping")
    for name in BAD_HANDLERS:
        rebuild(archive, store / f"{name}.mar", numbered("3.0"), name)
    with serve(store / "first.mar", folder / "stack") as running:
        yield running


@contextmanager
def asked(stack: Stack) -> Iterator[set[tuple[int, str]]]:
    """Have clients ask until the block ends; what they were answered is complete then."""
    done, outcomes = Event(), set()

    def ask() -> None:
        with requests.Session() as session:
            while not done.is_set():
                response = session.post(f"{stack.url}/predict", files={"file": PICTURE})
                outcomes.add((response.status_code, response.json().get("predicted_class")))
                time.sleep(PAUSE)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(ask) for _ in range(CLIENTS)]
        try:
            yield outcomes
        finally:
            done.set()
    for client in clients:
        client.result()


def served(stack: Stack) -> list[tuple[str, str]]:
    return [(each["modelVersion"], each["modelUrl"]) for each in stack.torchserve.describe("all")]


@pytest.mark.timeout(120 + 60 * ROLLS)
def test_no_request_is_lost_while_versions_are_rolled(
    rolling: Stack, larger: Path, sample: Path, record_property: Record
) -> None:
    assert "there is nothing to return to" in models(rolling, "rollback", succeeds=False)
    with asked(rolling) as outcomes:
        for number in range(ROLLS):
            if number % 2:
                assert "Version 1.0 of first.mar is served, in the place of 2.0" in models(rolling, "rollback")
                assert served(rolling) == [("1.0", "first.mar")]
            else:
                printed = models(rolling, "roll", "second.mar", "--sample", str(sample), "--slower", "20")
                assert "Version 2.0 of second.mar is served, in the place of 1.0" in printed
                assert served(rolling) == [("2.0", "second.mar")]
                verified = run_module("scripts.verify", larger, sample, "--url", rolling.url)
                assert verified.startswith("10 of 10 images have the same class")
    record_property(f"{ROLLS} rolls and rollbacks under load", sorted(outcomes))
    assert outcomes == {(200, "azure")}


@pytest.mark.parametrize("kind", ["--shadow", "--canary"])
def test_a_version_meets_live_traffic_first(rolling: Stack, kind: str) -> None:
    with asked(rolling) as outcomes:
        printed = models(rolling, "roll", "third.mar", kind, "50%", "--for", "3s", "--slower", "20")
        assert f"{'answers' if kind == '--canary' else 'is asked for'} 50% of the requests now" in printed
        assert "live requests, and failed on 0" in printed
        assert ("Both agree on 100.0%" in printed) == (kind == "--shadow")
        models(rolling, "rollback")
    assert outcomes == {(200, "azure")}


def test_a_canary_that_fails_on_live_traffic_goes_back(rolling: Stack, sample: Path) -> None:
    with asked(rolling) as outcomes:
        command = ["roll", "fussy.mar", "--sample", str(sample), "--canary", "30%", "--for", "1h", "--slower", "20"]
        assert "Nothing was changed: version 4.0 fails on" in models(rolling, *command, succeeds=False)
    assert served(rolling) == [("1.0", "first.mar")]
    assert outcomes == {(200, "azure")}


def test_no_request_waits_for_the_workers_of_a_new_version(rolling: Stack) -> None:
    done, waits = Event(), list[float]()

    def ask() -> None:
        inference = rolling.torchserve.inference  # with a connection of its own, so that every thread has one
        while not done.is_set():
            started = time.monotonic()
            inference.predict(PICTURE)
            waits.append(time.monotonic() - started)
            time.sleep(PAUSE)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(ask) for _ in range(CLIENTS)]
        wait_until(lambda: len(waits) > 2 * CLIENTS)
        started = time.monotonic()
        try:
            rolling.torchserve.register("late.mar")
        finally:
            took = time.monotonic() - started
            done.set()
    for client in clients:
        client.result()
    rolling.torchserve.unregister("3.0")
    assert max(waits) < took / 2


def test_ctrl_c_while_workers_start_leaves_no_version_behind(rolling: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Management, "_wait_for_workers", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        rolling.torchserve.register("second.mar")
    assert served(rolling) == [("1.0", "first.mar")]


def test_ctrl_c_while_the_old_version_drains_leaves_a_way_back(rolling: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Management, "drain", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            manage("roll", rolling.config, rolling.run, archive="third.mar", sample=None, **asdict(Limits()))
    assert sorted(served(rolling)) == [("1.0", "first.mar"), ("2.0", "third.mar")]
    assert "Version 1.0 of first.mar is served" in models(rolling, "rollback")
    assert served(rolling) == [("1.0", "first.mar")]


def test_a_full_disk_leaves_the_old_version_serving(rolling: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("scripts.serving.served.record", Mock(side_effect=OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            manage("roll", rolling.config, rolling.run, archive="third.mar", sample=None, **asdict(Limits()))
    assert served(rolling) == [("1.0", "first.mar")]
    assert rolling.torchserve.describe()[0]["modelVersion"] == "1.0"


def test_a_rollback_serves_no_archive_that_nobody_has_measured(rolling: Stack, archive: Path) -> None:
    first = rolling.run / "model_store" / "first.mar"
    before = {path: path.read_bytes() for path in (first, digest_path(first))}
    models(rolling, "roll", "third.mar")
    rebuild(archive, first, numbered("1.0") | FUSSY)
    assert "first.mar was built again since it was served; roll it" in models(rolling, "rollback", succeeds=False)
    for path, content in before.items():
        path.write_bytes(content)
    models(rolling, "rollback")
    assert served(rolling) == [("1.0", "first.mar")]


@pytest.mark.parametrize(("measured", "said"), [(59.23, "59"), (4.449, "4.4"), (123.4, "120"), (15_432.0, "15000")])
def test_a_time_is_told_without_its_noise(measured: float, said: str) -> None:
    assert f"{_two_digits(measured):g}" == said


@pytest.mark.parametrize(
    ("archive_name", "options", "said"),
    [
        ("renamed", [], r"version 3.0 has other classes: it adds teal and lacks azure\. Add --new-classes"),
        ("renamed", ["--new-classes"], "the sample's folders are not all classes of version 3.0: azure"),
        ("confused", [], "version 3.0 has .* of the sample right and 1.0 "),
        ("raising", [], r"version 3.0 fails on .*\.png: "),
        ("refusing", [], r"version 3.0 fails on .*\.png: No image at all"),
        ("dying", [], "the workers of dying.mar do not start"),
        ("sleeping", [], "version 3.0 takes .* more than 3 times as long"),
        ("sleeping", ["--limit", "0.2"], "version 3.0 takes .* --limit allows 0.2 s"),
        ("taken", [], "Model version 1.0 is already registered .* --version"),
        ("first", [], "first.mar is already the served version"),
    ],
)
def test_a_version_that_is_no_good_is_refused(
    rolling: Stack, sample: Path, archive_name: str, options: list[str], said: str
) -> None:
    before = served(rolling)
    command = ["--config", rolling.config, "--run", rolling.run, "roll", f"{archive_name}.mar", "--sample", sample]
    with pytest.raises(AssertionError, match=said):
        run_module("scripts.models", *command, *options)
    assert served(rolling) == before == [("1.0", "first.mar")]
    assert rolling.torchserve.inference.predict(PICTURE)["predicted_class"] == "azure"


@pytest.mark.parametrize(
    ("classes", "limits", "said"),
    [
        (["azure", "lime"], Limits(), "more than 3 times as long; --slower allows more"),
        (["cat", "dog"], Limits(new_classes=True), ""),
        (["cat", "dog"], Limits(new_classes=True, slower=2), "more than 2 times as long"),
    ],
)
def test_another_task_may_take_a_larger_network(
    classes: list[str], limits: Limits, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: object, version: str, image: Path, limit: float) -> tuple[dict[str, object], float]:
        names = classes if version == "2.0" else ["azure", "lime"]
        return {"predicted_class": names[0], "class_probabilities": dict.fromkeys(names, 0.5)}, float(version)

    monkeypatch.setattr("scripts.serving.rolling._ask", answer)
    with pytest.raises(Refused, match=said) if said else nullcontext():
        compared, same_classes = _compare(Mock(), "0.5", "2.0", [Path("a.png")], None, limits)
        assert not same_classes
        assert compared.startswith("It takes 2000 ms an image, in the median; before it was 500 ms.")


def test_torchserve_is_given_no_archive_without_its_network(tmp_path: Path) -> None:
    torchserve = Mock()
    with pytest.raises(Stopped, match=r"pair\.onnx\.zip is for the embedded backend alone"):
        register(torchserve, "pair.onnx.zip", tmp_path)
    assert not torchserve.mock_calls


def test_photos_that_training_saw_are_no_sample(tmp_path: Path) -> None:
    for name in TEN[:2]:
        add_photos(tmp_path, name, range(10))
    assert len(_images(tmp_path)) == 20
    trained_on = set(photos_of(tmp_path, "train").paths)
    sample = _images(tmp_path)
    assert len(sample) == 4
    assert trained_on.isdisjoint(sample)
    (tmp_path / TEN[0] / "copy.png").write_bytes((tmp_path / TEN[1] / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"is a copy of .*, which has another class"):
        _images(tmp_path)


def test_of_a_folder_with_train_and_test_only_test_is_the_sample(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in TEN[:2]:
            add_photos(tmp_path / "split" / split, name, range(2))
    assert _tests_of(tmp_path / "split") == tmp_path / "split" / "test"
    add_photos(tmp_path / "tests" / "test", "azure", range(2))
    add_photos(tmp_path / "tests", "lime", range(2))
    assert _tests_of(tmp_path / "tests") == tmp_path / "tests"  # whose class is called so


def test_a_sample_image_that_cannot_be_read_is_named(stack: Stack, tmp_path: Path) -> None:
    broken, vanished = tmp_path / "broken.png", tmp_path / "vanished.png"
    broken.write_bytes(PICTURE[:100])
    for image in (broken, vanished):
        with pytest.raises(Refused, match=rf"^the sample image {image} cannot be read \(.*\); remove it\.$"):
            _ask(stack.torchserve, "1.0", image, limit=60)


@pytest.fixture
def store(archive: Path, tmp_path: Path) -> Path:
    """A model store with an archive, which a run folder links to."""
    (tmp_path / "run").mkdir()
    (tmp_path / "store").mkdir()
    rebuild(archive, tmp_path / "store" / "x.mar", numbered("1.0"))
    (tmp_path / "run" / "model_store").symlink_to(tmp_path / "store")
    return tmp_path / "store"


@contextmanager
def naming(store: Path, named: object, registered: Sequence[str] = ()) -> Iterator[str]:
    deployment = Mock(versions=lambda: [{"archive": name} for name in registered])
    with (
        patch("scripts.serving.served.backend", lambda run: TORCHSERVE),
        stored(str(named), store.parent / "run", deployment) as name,
    ):
        yield name


def test_a_path_means_its_own_file_or_is_refused(
    store: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for named in ("x.mar", "model_store/x.mar", store / "x.mar"):
        with naming(store, named) as name:
            assert name == "x.mar"
    (tmp_path / "elsewhere").mkdir()
    rebuild(archive, tmp_path / "elsewhere" / "x.mar", numbered("2.0"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for named in ("x.mar", "./x.mar", tmp_path / "elsewhere" / "x.mar"):
        with pytest.raises(Refused, match=rf"the model store {store} has another x\.mar; build yours"):
            naming(store, named).__enter__()
    with pytest.raises(Refused, match=r"there is no archive y/x\.mar"):
        naming(store, "y/x.mar").__enter__()


def test_an_archive_from_elsewhere_is_copied_unless_it_is_refused(store: Path, archive: Path, tmp_path: Path) -> None:
    new = tmp_path / "elsewhere" / "new.mar"
    new.parent.mkdir()
    rebuild(archive, new, numbered("2.0"))
    with pytest.raises(Refused, match="no good"), naming(store, new):
        raise Refused("no good")
    assert sorted(path.name for path in store.iterdir()) == ["x.mar", "x.mar.sha256"]
    with pytest.raises(KeyboardInterrupt), naming(store, new, ["x.mar", "new.mar"]):
        raise KeyboardInterrupt  # while the old version drains
    check_digest(store / "new.mar")
    with naming(store, new):  # the same one again
        check_digest(store / "new.mar")
    digest_path(new).unlink()
    new.rename(new.with_name("newer.mar"))
    with pytest.raises(DigestError, match=r"There is no .*newer\.mar\.sha256"):
        naming(store, new.with_name("newer.mar")).__enter__()


def test_a_sample_has_no_image_that_the_gateway_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_photos(tmp_path, "red", range(2))
    with (tmp_path / "red" / "0.png").open("r+b") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    assert [image.name for image in _images(tmp_path)] == ["1.png"]
    assert f"Left out 1 of 2 images of {tmp_path}, which are larger than 10 MB" in capsys.readouterr().err
    (tmp_path / "red" / "1.png").unlink()
    with pytest.raises(Refused, match="with images that can be predicted"):
        _images(tmp_path)
