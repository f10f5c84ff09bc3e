"""Many images on many machines: Ray Data runs an archive's own code over them and leaves a folder of Parquet files.

A worker reads a group of images, predicts their classes, and writes a file whose name depends on the images. The file
is complete or absent. If a worker or machine dies, Ray repeats its group, and the group still has one file. Ray's own
`write_parquet` would leave torn files after a kill, and needs one more process on every machine.
"""

import json
import logging
import os
import re
import secrets
import sys
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.dataset
from tqdm import tqdm

from scripts.batch import rows as rows_module
from scripts.batch.ray import worker
from scripts.batch.ray.sources import GROUP, Source, files_in, find_sources, open_folder
from scripts.batch.ray.worker import UNFINISHED, Classifier, Folder
from scripts.batch.rows import FIGURES, FORMS, Row, columns
from scripts.serving.archives import check_archive
from training.outcome import Stopped

if TYPE_CHECKING:
    from ray.data import Dataset

BLOCK = 4 * 1024 * 1024  # bytes of images from a Parquet file that one worker takes at once
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # a cluster that is not there is known after a minute, not a quarter of an hour
}
LOCAL_RAY_SETTINGS = {  # a Ray that is started for one command is reached from this machine alone, and with a key
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listens on loopback, on Linux as well
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(),
}


def predict(
    named: list[str],
    absent: Collection[str],
    archive: Path,
    output: str,
    address: str | None,
    top_k: int | None = None,
) -> tuple[list[Row], list[Row], list[str]]:
    """Predict the images that paths and URLs name, except those that have a row in the output already.

    Returns three lists: the rows without probabilities; such rows for images that are not in the output because they
    could not be read, as the paths in `absent`; and the classes. Raises Stopped.
    """
    classes = classes_of(archive)
    folder = open_output(output)
    sources = list(find_sources(named, absent))
    given = [file for source in sources for file in source.files]
    check_once(given, "the named places")
    names = columns(classes, top_k)
    before = read_rows(folder, names)
    done, predicted = before["file"], set(before["predicted_class"].drop_null().to_pylist())
    if not (set(done.to_pylist()) <= set(given) and predicted <= set(classes)):
        raise other(folder)
    again: list[Row] = []
    if len(done) < len(given):
        with cluster(address), tqdm(initial=len(done), total=len(given), unit="image", disable=None) as bar:
            for written, unread in run(sources, archive.read_bytes(), done, folder, top_k):
                again += [[file, None, None, None, why] for file, why in unread.items()]
                bar.update(written)
    rows = read_rows(folder, names)
    files = rows["file"].to_pylist()
    check_once(files, folder.name)
    if missing := set(given).difference(files, (row[0] for row in again)):
        raise Stopped(f"{len(missing):,} images have no row in {folder.name}; run the same command again for them.")
    return list(map(list, zip(*(column.to_pylist() for column in rows.columns), strict=True))), again, classes


def classes_of(archive: Path) -> list[str]:
    """Return the class names of an archive. Raises Stopped if it cannot be served."""
    check_archive(archive)
    with zipfile.ZipFile(archive) as file:
        names = json.loads(file.read("index_to_name.json"))
    return [names[str(index)] for index in range(len(names))]


def open_output(name: str) -> Folder:
    """Open or make the folder of the rows, and remove unfinished files that a kill has left. Raises Stopped."""
    if Path(name).suffix in FORMS:
        raise Stopped(f"--engine ray writes a folder of Parquet files, which cannot end in {Path(name).suffix}.")
    folder = open_folder(name)
    try:
        folder.filesystem.create_dir(folder.path)
        for path in folder.files():
            if UNFINISHED.search(path):
                folder.filesystem.delete_file(path)
    except OSError as error:
        raise Stopped(f"{folder.name} cannot be written to ({error}); name another --output.") from None
    return folder


def read_rows(folder: Folder, names: list[str]) -> pyarrow.Table:
    """Return the rows of the output, without the probabilities. Raises Stopped if it has other columns than `names`."""
    first = ["file", *FIGURES]
    paths = [path for path in files_in(folder) if path.endswith(".parquet")]
    if not paths:
        return pyarrow.table({name: pyarrow.array([], pyarrow.string()) for name in first})
    try:
        rows = pyarrow.dataset.dataset(paths, filesystem=folder.filesystem, format="parquet")
        if rows.schema.names != names:
            raise other(folder)
        return rows.to_table(columns=first)
    except (OSError, ValueError) as error:
        raise Stopped(
            f"{folder.name} cannot be read ({error}); remove what is torn, and run the command again."
        ) from None


def other(folder: Folder) -> Stopped:
    return Stopped(
        f"{folder.name} holds rows of other images or classes, or with another --top-k; remove it to start over."
    )


def check_once(files: list[str], place: str) -> None:
    """Raise Stopped if a name is there twice."""
    for file, count in Counter(files).most_common(1):
        if count > 1:
            raise Stopped(f"{file} is {count} times in {place}; name each image once.")


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connect to the Ray that `address` or RAY_ADDRESS names, or start one on this machine until the block ends."""
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ |= RAY_SETTINGS if address else RAY_SETTINGS | LOCAL_RAY_SETTINGS  # Ray reads them as it is imported
    import ray

    ray.cloudpickle.register_pickle_by_value(worker)
    ray.cloudpickle.register_pickle_by_value(rows_module)
    with redirect_stdout(sys.stderr), _private_folder() as private:  # where Ray's notes belong
        # Ray lets all users of the machine write into its folder, so that of its own lies where none of them gets.
        place: dict[str, Any] = {} if address else {"_temp_dir": private}
        try:
            ray.init(
                address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **place
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise Stopped(f"There is no Ray at {address or 'hand'} ({reason}); name its --address.") from None
        try:
            yield
        except ray.exceptions.RayError as error:
            raise Stopped(
                f"Ray stopped before the end ({last_error(str(error))}); the same command continues."
            ) from None
        finally:
            ray.shutdown()


@contextmanager
def _private_folder() -> Iterator[str]:
    """Make a folder in one that is this user's alone. Its path is short, because sockets lie there."""
    at = "/tmp" if sys.platform == "darwin" else None  # noqa: S108
    with TemporaryDirectory(prefix="ray-", dir=at, ignore_cleanup_errors=True) as private:
        yield f"{private}/r"


def last_error(text: str) -> str:
    """Return the line of a remote traceback, with advice of Ray's behind it, that names the error."""
    lines = text.splitlines()
    return ([line for line in lines if re.match(r"[\w.]+Error: ", line)] or lines)[-1]


def run(
    sources: list[Source], archive: bytes, done: pyarrow.Array, folder: Folder, top_k: int | None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Have Ray predict all images that are not done.

    Yields for each written group the number of its rows, and the reason for each image that could not be read.
    """
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    everywhere = ray.data.ActorPoolStrategy(min_size=1, initial_size=cores, max_size=cores)
    for source in sources:
        groups = dataset_of(source).map_batches(
            Classifier,
            fn_constructor_args=(archive, source.contents, done, folder, top_k),
            batch_size=GROUP,
            batch_format="pyarrow",
            compute=everywhere,
            num_cpus=0.5,  # so that those of a machine that died find room beside the others, and need not wait for it
            scheduling_strategy="SPREAD",
        )
        for row in groups.iter_rows():
            yield row["written"], dict(zip(row["unread"], row["why"], strict=True))


def dataset_of(source: Source) -> "Dataset":
    import ray.data

    if isinstance(source.images, list):
        return ray.data.from_arrow(source.images)
    folder, fields = source.images
    # With a core for each of these tasks, as the newer reader takes, a cluster full of classifiers would wait for ever.
    context = ray.data.DataContext.get_current()
    context.use_datasource_v2, context.target_max_block_size = False, BLOCK
    return ray.data.read_parquet(folder.path, filesystem=folder.filesystem, columns=fields, num_cpus=0)
