import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from handler import transforms
from handler.transforms import Preprocessing
from tests.commands import FORKS
from tests.drawing import draw, draw_dataset
from training import cache, decoding
from training.cache import CachedPixels, CacheError
from training.data import Images, load_images, load_training_images, read_files, stratified_split
from training.decoding import decode

INPUTS = [Preprocessing(32), Preprocessing(48, "crop")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache that takes data sets of any size."""
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "cache")
    monkeypatch.setattr(cache, "MIN_BYTES", -1)
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded, in order."""
    files: list[Path] = []

    def read(preprocessing: list[Preprocessing], path: Path) -> Any:
        files.append(path)
        return original(preprocessing, path)

    original = decoding._read
    monkeypatch.setattr(decoding, "_read", read)
    return files


def make_files(folder: Path, count: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        draw("red", number).save(path)
    return paths


def pixels_of(paths: list[Path]) -> list[torch.Tensor]:
    """Return what a decoder in memory makes of files."""
    return [each[:] for each in read_files(paths, INPUTS).pixels]


def test_a_data_set_in_the_cache_trains_as_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    root = draw_dataset(tmp_path / "photos", ["red", "lime"], 12, 4)
    in_memory = load_training_images(root, INPUTS)
    request.getfixturevalue("folder")
    cached = load_training_images(root, INPUTS)
    assert isinstance(in_memory.pixels, torch.Tensor)
    assert isinstance(cached.pixels, CachedPixels)

    def same(one: Images, other: Images) -> None:
        assert one.fingerprint() == other.fingerprint()
        for ours, theirs in zip(one.inputs.batches(5), other.inputs.batches(5), strict=True):
            assert all(map(torch.equal, ours, theirs))

    same(in_memory, cached)
    for parts in zip(stratified_split(in_memory, 0.3, 1), stratified_split(cached, 0.3, 1), strict=True):
        same(*parts)


def test_cached_pixels_are_chosen_as_those_of_a_tensor(folder: Path, tmp_path: Path) -> None:
    cached, _ = decode(make_files(tmp_path / "files", 7), INPUTS, "reading")
    for each, preprocessing in zip(cached.pixels, INPUTS, strict=True):
        everything = each[:]
        assert everything.shape == each.shape == (7, 3, preprocessing.size, preprocessing.size)
        chosen: tuple[Any, ...] = (
            2,
            slice(1, 6, 2),
            slice(3, 3),
            torch.tensor([5, 0, 5]),
            torch.tensor([True, False] * 3 + [True]),
        )
        for index in chosen:
            assert torch.equal(each[index], everything[index])
            assert torch.equal(pickle.loads(pickle.dumps(each))[index], everything[index])  # noqa: S301
        assert isinstance(each, CachedPixels)
        assert torch.equal(each.subset(torch.tensor([6, 1, 3])).subset(slice(1, None))[:], everything[[1, 3]])


def test_a_second_start_decodes_nothing_and_one_with_more_photos_decodes_those(
    folder: Path, tmp_path: Path, decoded: list[Path]
) -> None:
    paths = make_files(tmp_path / "files", 10)
    first = pixels_of(paths[:6])
    assert sorted(decoded) == paths[:6]
    decoded.clear()
    assert all(map(torch.equal, pixels_of(paths[:6]), first))
    assert not decoded
    moved = paths[0].rename(tmp_path / "moved.png")
    assert torch.equal(pixels_of([*paths[1:], moved])[0][-1], first[0][0])
    assert sorted(decoded) == paths[6:]


def test_a_changed_file_and_another_input_are_decoded_again(
    folder: Path, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = make_files(tmp_path / "files", 1)
    before = pixels_of([path])
    draw("blue", 1).save(path)
    after = pixels_of([path])
    assert not torch.equal(before[0], after[0])
    read_files([path], INPUTS[:1])
    read_files([path], [Preprocessing(32, "pad")])
    read_files([path], [Preprocessing(32, "pad", (0, 0, 0))])
    monkeypatch.setattr(cache, "PIXELS_VERSION", transforms.PIXELS_VERSION + 1)
    pixels_of([path])
    assert len(decoded) == 6


def test_copies_are_decoded_once(folder: Path, tmp_path: Path, decoded: list[Path]) -> None:
    (path,) = make_files(tmp_path / "files", 1)
    copy = tmp_path / "copy.png"
    copy.write_bytes(path.read_bytes())
    first, second = pixels_of([path, copy])[0]
    assert torch.equal(first, second)
    assert len(decoded) == 1


def test_files_that_cannot_be_read_are_all_named(folder: Path, tmp_path: Path) -> None:
    good, *bad = make_files(tmp_path / "files", 4)
    bad[0].write_bytes(b"broken")
    bad[1].write_bytes(b"broken")
    bad[2].unlink()
    inputs, problems = decode([good, *bad], INPUTS, "reading")
    assert not inputs.pixels
    for path in bad:
        assert len([line for line in problems if line.startswith(f"{path}: ")]) == 1
    assert len(problems) == 3


def interrupt(paths: list[Path], folder: Path) -> None:
    """Decode files in a process that is killed in the middle."""

    def killed() -> Any:
        for number, path in enumerate(paths):
            if number == 5:
                os._exit(9)
            yield decoding._read(INPUTS, path)

    cache.FOLDER, cache.FLUSHED = folder, 2
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    cache.load(paths, digests, INPUTS, lambda files: killed(), "reading")


@pytest.mark.slow
def test_after_a_kill_the_next_start_continues(
    folder: Path, tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_files(tmp_path / "files", 9)
    process = FORKS.Process(target=interrupt, args=(paths, folder))
    process.start()
    process.join()
    assert process.exitcode == 9
    found = pixels_of(paths)
    assert sorted(decoded) == paths[4:]
    monkeypatch.setattr(cache, "MIN_BYTES", 2**60)
    assert all(map(torch.equal, found, pixels_of(paths)))


def read(folder: Path, paths: list[Path], gate: Any, results: Any) -> None:
    cache.FOLDER, cache.MIN_BYTES = folder, -1
    gate.wait()
    results.put([int(each.sum()) for each in pixels_of(paths)])


@pytest.mark.slow
def test_two_processes_fill_the_cache_together(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_files(tmp_path / "files", 30)
    gate, results = FORKS.Barrier(2), FORKS.Queue()
    halves = [paths[:20], paths[10:]]
    processes = [FORKS.Process(target=read, args=(folder, half, gate, results)) for half in halves]
    for process in processes:
        process.start()
    sums = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    (store,) = (path for path in folder.iterdir() if path.is_dir())
    assert (store / "keys").stat().st_size == 30 * 32
    monkeypatch.setattr(cache, "MIN_BYTES", 2**60)
    assert sorted(sums) == sorted([int(each.sum()) for each in pixels_of(half)] for half in halves)


@pytest.mark.parametrize("lost", ["pixels", "keys", ""])
def test_the_cache_may_be_deleted_at_any_time(folder: Path, tmp_path: Path, lost: str) -> None:
    paths = make_files(tmp_path / "files", 4)
    inputs = read_files(paths, INPUTS)
    before = [each[:] for each in inputs.pixels]
    (store,) = (path for path in folder.iterdir() if path.is_dir())
    for name in (lost,) if lost else ("pixels", "keys", "lock"):
        (store / name).unlink()
    assert torch.equal(inputs.pixels[1][2], before[1][2])  # a run that goes on
    assert torch.equal(inputs.subset(torch.tensor([2])).pixels[1][0], before[1][2])
    again = pixels_of(list(reversed(paths)))
    assert all(torch.equal(one, other.flip(0)) for one, other in zip(again, before, strict=True))


def test_a_full_disk_is_named_with_the_space_that_is_needed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match=r"cannot be written \(No space left on device\). It takes .* GB"):
        read_files(make_files(tmp_path / "files", 1), INPUTS)


def test_digests_of_settled_files_are_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes(paths: list[Path]) -> list[bytes | str]:
        seen.extend(paths)
        return [path.read_bytes()[-32:] for path in paths]

    seen: list[Path] = []
    paths = make_files(tmp_path / "files", 3)
    cache.digests_of(paths, hashes)
    cache.digests_of(paths, hashes)
    assert seen == paths * 2  # they have just been written, and may change again within the same tick
    monkeypatch.setattr(cache, "SETTLED_NS", -1)
    first = cache.digests_of(paths, hashes)
    seen.clear()
    draw("blue", 1).save(paths[1])
    second = cache.digests_of(paths, hashes)
    assert seen == [paths[1]]
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, False, True]


def test_small_data_sets_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "cache")
    root = draw_dataset(tmp_path / "photos", ["red", "lime"], 4, 4)
    assert isinstance(load_images(root, "train", INPUTS).pixels, torch.Tensor)
    assert not (tmp_path / "cache").exists()
