"""Replace the served version by another one under load, and return to it.

First the new version has to prove itself beside the old one. `classifier models` has the commands.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from gateway.backend import NO_MODEL, BackendError, NoSuchVersion, Prediction, TooSlow, Unavailable
from gateway.limits import MAX_IMAGE_BYTES
from scripts.batch.images import find_images
from scripts.serving import served
from scripts.serving.archives import check_archive
from scripts.serving.defaults import TORCHSERVE_LOG
from scripts.serving.deployment import Deployment, Limits, Refused
from scripts.serving.traffic import Live, meet
from training.files import digest_path, sha256, written_whole
from training.folders import PLACES_FILE, few, label_of, roots_of
from training.outcome import say
from training.project import CHECKPOINTS, EXAMPLES

WARMING_PREDICTIONS = 8


@contextmanager
def stored(named: str, run: Path, deployment: Deployment) -> Iterator[str]:
    """Yield the file name of the archive that is named by it, or by a path from here, the store or the folder `run`.

    One from elsewhere is copied into the model store, and goes again if the block raises before it is registered.
    Raises Refused if the store has another one of its name, and Stopped if it cannot be served.
    """
    path, store = Path(named), (run / served.STORE).resolve()
    meant = next((place for place in (path, store / path, run / path, CHECKPOINTS / path) if place.is_file()), None)
    if meant is None:
        raise Refused(f"there is no archive {named}, here or in the model store {store}; name one that is there.")
    place = store / path.name
    if place.exists():
        if not place.samefile(meant) and sha256(place) != sha256(meant):
            raise Refused(f"the model store {store} has another {path.name}; build yours under another name.")
        yield path.name
        return
    check_archive(meant, served.backend(run))
    try:
        for source, target in ((digest_path(meant), digest_path(place)), (meant, place)):
            with written_whole(target) as copy:
                shutil.copyfile(source, copy)
        say(f"Copied {meant.absolute()} into the model store, {store}.")
        yield path.name
    except BaseException:
        with suppress(BackendError):
            if path.name not in {version["archive"] for version in deployment.versions()}:
                place.unlink(missing_ok=True)
                digest_path(place).unlink(missing_ok=True)
        raise


def register(deployment: Deployment, archive: str, run: Path) -> str:
    """Register an archive of the model store; returns its version. Raises Stopped if it cannot be served."""
    check_archive(run / served.STORE / archive, served.backend(run))
    return deployment.register(archive)


def roll(
    deployment: Deployment, archive: str, run: Path, sample: Path | None, limits: Limits, live: Live | None = None
) -> str:
    """Serve `archive` instead of the served version; returns a sentence. Raises Refused if it is worse.

    Both predict the images of `sample`, whose folders have the names of classes. Without a sample they predict the
    page's examples, which do not tell the accuracy. If they are no worse, they meet `live` traffic.
    """
    sample = _tests_of(sample) if sample else None
    images = _images(sample)
    old = _served(deployment)
    if archive == old["archive"]:
        raise Refused(
            f"{archive} is already the served version, and a rollback could not return to it; use another file name."
        )

    def check(new: str) -> str:
        compared, same_classes = _compare(deployment, old["version"], new, images, sample, limits)
        if not live:
            return compared
        measured = sample is not None and same_classes
        return f"{compared} {meet(live, old['version'], new, run, limits, same_classes, measured)}"

    return _replace(deployment, old, archive, run, check)


def rollback(deployment: Deployment, run: Path) -> str:
    """Serve the version again that the last roll, or rollback, has replaced; returns a sentence. Raises Refused."""
    old, last = _served(deployment), served.last_roll(run)
    if last is None:
        raise Refused("there is nothing to return to, because no version was rolled.")
    if any(last["new"][key] != value for key, value in old.items()):
        raise Refused(
            f"there is nothing to return to: version {old['version']} of {old['archive']} is served, "
            "and no roll has put it there."
        )
    before = last["old"]

    def check(new: str) -> str:
        if new != before["version"]:
            raise Refused(f"{before['archive']} was version {before['version']}, but now is {new}; roll it instead.")
        for image in _images(None):
            _ask(deployment, new, image, Limits.seconds)
        return "It answers."

    kept = [version["archive"] for version in deployment.versions() if version["version"] == before["version"]]
    loaded = before["version"] if kept == [before["archive"]] else None  # as if a roll was interrupted at its end
    digest = served.digest(run, before["archive"])
    if not loaded and digest and before.get("digest", digest) != digest:
        raise Refused(f"{before['archive']} was built again since it was served; roll it instead.")
    return _replace(deployment, old, before["archive"], run, check, loaded)


def _tests_of(sample: Path) -> Path:
    """Return the test photos of a folder with train and test, or else the folder. Raises DataError."""
    if not (sample / "test").is_dir():
        return sample
    from training.class_folders import has_splits  # here, because it loads PyTorch

    return sample / "test" if has_splits(sample) else sample


def _images(sample: Path | None) -> list[Path]:
    """Return the images of a sample: if training has split it, those that no training saw. Raises Refused."""
    folder = sample or EXAMPLES
    if (folder / PLACES_FILE).is_file():
        from training.photos import photos_of  # here, because it loads PyTorch
        from training.split import raise_any

        photos = photos_of(folder, "test")
        raise_any(photos.problems)
        images = photos.paths
    else:
        images = list(find_images([folder])) if folder.is_dir() else []
    small = [image for image in images if image.stat().st_size <= MAX_IMAGE_BYTES]
    if len(small) < len(images):
        large = f"{len(images) - len(small):,} of {len(images):,} images of {folder}"
        say(f"Left out {large}, which are larger than {MAX_IMAGE_BYTES // 2**20} MB; the gateway refuses those too.")
    if not small:
        raise Refused(f"there is no folder {folder} with images that can be predicted; name one with --sample.")
    return small


def _served(deployment: Deployment) -> dict[str, str]:
    for version in deployment.versions():
        if version["default"]:
            return {"archive": version["archive"], "version": version["version"]}
    raise Unavailable(NO_MODEL)


def _replace(
    deployment: Deployment,
    old: dict[str, str],
    archive: str,
    run: Path,
    check: Callable[[str], str],
    loaded: str | None = None,
) -> str:
    """Register `archive`, serve it unless `check` raises, and unregister the old version once it is idle.

    `loaded` is the version of the archive if it is still registered.
    """
    with ExitStack() as undo:
        new = loaded
        if not new:
            try:
                new = register(deployment, archive, run)
            except (TooSlow, Unavailable):
                raise Refused(f"the workers of {archive} do not start; {run / TORCHSERVE_LOG} says why.") from None
            undo.callback(_take_back, deployment, new)
        result = check(new)
        deployment.set_default(new)
        undo.callback(deployment.set_default, old["version"])
        digest = served.digest(run, old["archive"])
        kept = old | ({"digest": digest} if digest else {})
        served.record(deployment, run, {"old": kept, "new": {"archive": archive, "version": new}})
        undo.pop_all()
    deployment.drain(old["version"])
    deployment.unregister(old["version"])
    served.record(deployment, run)
    return f"Version {new} of {archive} is served, in the place of {old['version']} of {old['archive']}. {result}"


def _take_back(deployment: Deployment, new: str) -> None:
    try:
        deployment.unregister(new)
    except NoSuchVersion:
        pass  # TorchServe has been started again, without it
    except (BackendError, Refused) as error:
        say(f"Version {new} could not be unregistered: {error}")


def _compare(
    deployment: Deployment, old: str, new: str, images: list[Path], sample: Path | None, limits: Limits
) -> tuple[str, bool]:
    """Let both versions predict every image; returns a comparison, and whether both have the same classes.

    Raises Refused if the new one may not be served.
    """
    for image in islice(cycle(images), WARMING_PREDICTIONS):
        _ask(deployment, new, image, limits.seconds)
    same_classes = _compare_classes(deployment, old, new, images, sample, limits)
    labelled, roots = sample is not None, roots_of([sample] if sample else [])
    seconds: dict[str, list[float]] = {old: [], new: []}
    right = {old: 0, new: 0}
    for image in images:
        for version in (old, new):  # in turn, so that both meet the same load
            answer, took = _ask(deployment, version, image, limits.seconds)
            seconds[version].append(took)
            right[version] += answer["predicted_class"] == label_of(image, roots, answer["class_probabilities"])
    times = {version: f"{_two_digits(1000 * median(took)):g} ms" for version, took in seconds.items()}
    shares = {version: f"{count / len(images):.2%}" for version, count in right.items()}
    slower = limits.slowest(same_classes)
    if median(seconds[new]) > slower * median(seconds[old]):
        raise Refused(
            f"version {new} takes {times[new]} an image and {old} {times[old]}, "
            f"more than {slower:g} times as long; --slower allows more."
        )
    if labelled and same_classes and right[old] - right[new] > limits.tolerance * len(images):
        raise Refused(f"version {new} has {shares[new]} of the sample right and {old} {shares[old]}; see --tolerance.")
    speed = f"It takes {times[new]} an image, in the median; before it was {times[old]}."
    if not labelled:
        return f"{speed} How much it has right was not measured; --sample does.", same_classes
    before = f"; before it was {shares[old]}" if same_classes else ""
    return f"{speed} It has {shares[new]} of {len(images)} images right{before}.", same_classes


def _two_digits(value: float) -> float:
    """Round to two significant digits, because the third is noise in the time of a few images."""
    return float(f"{value:.2g}")


def _compare_classes(
    deployment: Deployment, old: str, new: str, images: list[Path], sample: Path | None, limits: Limits
) -> bool:
    """Return whether both versions have the same classes. Raises Refused if not, unless you allow it."""
    classes = {
        version: set(_ask(deployment, version, images[0], limits.seconds)[0]["class_probabilities"])
        for version in (old, new)
    }
    if classes[old] != classes[new] and not limits.new_classes:
        changes = {"adds": classes[new] - classes[old], "lacks": classes[old] - classes[new]}
        listed = " and ".join(f"{verb} {few(sorted(names))}" for verb, names in changes.items() if names)
        raise Refused(f"version {new} has other classes: it {listed}. Add --new-classes to allow that.")
    roots = roots_of([sample] if sample else [])
    strange = {label_of(image, roots, classes[new]) for image in images} - classes[new]
    if sample and strange:
        raise Refused(f"the sample's folders are not all classes of version {new}: {few(sorted(strange))}.")
    return classes[old] == classes[new]


def _ask(deployment: Deployment, version: str, image: Path, limit: float) -> tuple[Prediction, float]:
    """Return a version's answer and the seconds it took. Raises Refused without one, or when it takes too long."""
    try:
        content = image.read_bytes()
    except OSError as error:
        raise Refused(f"the sample image {image} cannot be read ({error.strerror}); remove it.") from None
    started = time.monotonic()
    try:
        answer = deployment.predict(content, version)
    except BackendError as error:
        if not isinstance(error, (TooSlow, Unavailable)) and _default_refuses(deployment, content):
            raise Refused(f"the sample image {image} cannot be read ({error}); remove it.") from None
        raise Refused(f"version {version} fails on {image}: {error}") from None
    took = time.monotonic() - started
    if took > limit:
        raise Refused(f"version {version} takes {took:.1f} s for {image}; --limit allows {limit:g} s.")
    return answer, took


def _default_refuses(deployment: Deployment, content: bytes) -> bool:
    """Return whether the served version refuses an image too, so that the image is to blame."""
    try:
        deployment.predict(content)
    except BackendError:
        return True
    return False
