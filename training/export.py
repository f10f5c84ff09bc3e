"""Export a checkpoint as TorchScript or ONNX, proven equal to the classifier it came from.

    classifier export cifar10_whitened_resnet --output build/resnet.pt
    classifier export cifar10_cnn --output build/cnn.onnx

If --output ends in .onnx, the file is ONNX, for engines other than PyTorch; otherwise it is TorchScript. With --int8
it computes with 8-bit integers, and is refused unless that pays on this machine.
"""

import io
import logging
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import click
import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import optimizer
from torch import Tensor
from torch.nn import functional as F

from handler import memory
from handler.onnx_engine import open_network
from handler.transforms import Preprocessing
from training import commands
from training.checkpoint import Checkpoint, load_checkpoint
from training.data import read_files, seeded
from training.files import written_whole
from training.folders import find
from training.inputs import call
from training.outcome import Stopped
from training.project import EXAMPLES

ONNX_SUFFIX = ".onnx"
MAX_EXAMPLES = 16  # real images to compare on
RANDOM_IMAGES, RANDOM_LARGE_IMAGES = 64, 8  # to compare on; 64 large ones take minutes in a heavy network
LARGEST_SMALL = 64  # pixels
LEAST_ROUNDS, ROUNDS = 5, 20  # whose median time counts
MEASURING_SECONDS = 2  # after which LEAST_ROUNDS are enough
Exported = Callable[[Any], tuple[Tensor, ...]]  # takes images as `Classifier` or `ClassifierOfSeveralInputs` does
# Of the largest value of an output, because float32 rounds sums in proportion to their largest terms. The order of a
# sum depends on the processor: with AVX-512, AVX2 and SSE4.1, the released networks differ by 10 steps of float32.
TOLERANCE = 64 * torch.finfo(torch.float32).eps


class ExportError(Stopped, RuntimeError):
    """An export does not compute the same as the network."""


def export(checkpoint: Checkpoint, path: Path, examples: Path = EXAMPLES) -> None:
    """Write TorchScript to `path`. Its inputs and outputs are those of `Classifier`.

    Raises ExportError, and writes nothing, if it differs from the eager classifier by more than TOLERANCE.
    """
    classifier = checkpoint.classifier()
    with warnings.catch_warnings():
        # TorchScript is deprecated, but TorchServe needs it on a GPU.
        warnings.simplefilter("ignore", FutureWarning)
        script = _without_debug_info(torch.jit.freeze(torch.jit.script(classifier)))
        exported = torch.jit.load(io.BytesIO(script))
    _compare(checkpoint, exported, "TorchScript", examples)
    with written_whole(path) as temporary:
        temporary.write_bytes(script)


def export_onnx(checkpoint: Checkpoint, path: Path, examples: Path = EXAMPLES) -> None:
    """Write ONNX to `path`, for engines other than PyTorch; otherwise the same as `export`."""
    images, any_number = _random_images(checkpoint.inputs, RANDOM_LARGE_IMAGES), {0: torch.export.Dim("images")}
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of what the exporter does
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter itself uses deprecated functions
        program: Any = torch.onnx.export(
            checkpoint.classifier(),
            (images if len(images) > 1 else images[0],),
            input_names=["images", *(f"images_{number}" for number in range(2, len(images) + 1))],
            output_names=["logits", "in_distribution_score"],
            dynamic_shapes=([any_number] * len(images) if len(images) > 1 else any_number,),
            verbose=False,
            optimize=False,  # it would put the batch norms into the weights, which then need all their digits
        )
        for optimise in (optimizer.inline, optimizer.fold_constants, optimizer.remove_unused_nodes):
            optimise(program.model)
    ClearMetadataAndDocStringPass()(program.model)  # removes the paths of this machine
    with written_whole(path) as temporary:
        temporary.write_bytes(_halved(program.model_proto).SerializeToString(deterministic=True))
        _compare(checkpoint, open_onnx(temporary), "ONNX", examples)


def _halved(model: ModelProto) -> ModelProto:
    """Store as float16 what loses nothing by that, as the weights of a checkpoint; an engine widens it as it loads."""
    widened = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.dtype == np.float32 and np.array_equal(values, halves):
            widened.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(halves, f"{tensor.name}.half"))
    nodes = [*widened, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _without_debug_info(module: torch.jit.ScriptModule) -> bytes:
    """Serialise a module without the paths of this machine, so that equal modules give equal bytes."""
    saved, stripped = io.BytesIO(), io.BytesIO()
    torch.jit.save(module, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(stripped, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    return stripped.getvalue()


def open_onnx(file: Path | bytes) -> Exported:
    """Open an ONNX file, or what it holds, for tensors, as TorchScript is; it runs on one thread."""
    network = open_network(file, threads=1)

    def run(images: Tensor | list[Tensor]) -> tuple[Tensor, ...]:
        arrays = [each.numpy() for each in (images if isinstance(images, list) else [images])]
        return tuple(map(torch.from_numpy, network(arrays)))

    return run


def _random_images(inputs: list[Preprocessing], count: int) -> list[Tensor]:
    """Return random normalised images (count, 3, S, S) for each input: the first half is blurred, for pairs."""
    generator, blurred = seeded(0), (count + 1) // 2
    made = []
    for each in inputs:
        coarse = torch.randn(blurred, 3, 4, 4, generator=generator)
        noise = torch.randn(count - blurred, 3, each.size, each.size, generator=generator)
        made.append(torch.cat([F.interpolate(coarse, size=each.size, mode="bicubic"), noise]))
    return made


def _real_images(inputs: list[Preprocessing], examples: Path) -> list[Tensor]:
    paths = find(examples).images[:MAX_EXAMPLES]
    if not paths:
        raise ExportError(f"{examples} has no images to compare on; name a folder that has some with --examples.")
    return next(read_files(paths, inputs).batches(len(paths)))


@torch.inference_mode()
def _compare(checkpoint: Checkpoint, exported: Exported, kind: str, examples: Path) -> None:
    classifier, inputs = checkpoint.classifier(), checkpoint.inputs
    small = all(each.size <= LARGEST_SMALL for each in inputs)
    random = _random_images(inputs, RANDOM_IMAGES if small else RANDOM_LARGE_IMAGES)
    for name, images in (("random", random), ("real", _real_images(inputs, examples))):
        expected = _compared(checkpoint, call(classifier, images))
        largest = [output.abs().max().item() for output in expected]
        for part in (slice(None), slice(1), slice(-1, None)):
            outputs = _compared(checkpoint, call(exported, [each[part] for each in images]))
            for output, right, scale in zip(outputs, expected, largest, strict=True):
                difference = (output - right[part]).abs().max().item()
                if not difference <= TOLERANCE * scale:  # also if it is not a number
                    raise ExportError(
                        f"{kind} differs from the classifier by {difference:.1e} on {name} images, "
                        f"where the largest output is {scale:.1e}. Nothing was written; train the checkpoint again, "
                        "or install the versions of requirements.lock."
                    )


def _compared(checkpoint: Checkpoint, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the outputs to compare: for a pair probabilities, because rounding decides over logits far below 0."""
    logits, scores = outputs
    return (logits.softmax(dim=1) if "pair" in checkpoint.card["recipe"] else logits), scores


def optimised(script: Path | BinaryIO) -> Exported:
    """Load a TorchScript file, optimised as in the handler on a GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model: Exported = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.load(script).eval()))
    return model


@torch.inference_mode()
def milliseconds(model: Exported, inputs: list[Preprocessing], batch_size: int = 16) -> float:
    """Return the median milliseconds that an export takes for an image on one core.

    Only time on the core counts, so that other programs matter less.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    memory.keep()  # as a worker does
    images, times = _random_images(inputs, batch_size), list[float]()
    while len(times) < LEAST_ROUNDS or (len(times) < ROUNDS and sum(times) < MEASURING_SECONDS):
        started = time.thread_time()
        call(model, images)
        times.append(time.thread_time() - started)
    torch.set_num_threads(threads)
    return median(times) / batch_size * 1000


def _export_int8(checkpoint: Checkpoint, output: Path, data: Path | None) -> str:
    from training.quantise import export_int8  # which loads this module

    if output.suffix != ONNX_SUFFIX:
        raise Stopped(f"With --int8 the file is ONNX; name one that ends in {ONNX_SUFFIX}.")
    quantised = export_int8(checkpoint, output, data)
    return (
        f"wrote {output}, {quantised.faster:.2f} times as fast; right on {quantised.accuracy:.2%} of the validation "
        f"images instead of {quantised.before:.2%}; images are in distribution from a score of "
        f"{quantised.threshold:.4g}"
    )


@commands.command("export", help=__doc__)
@commands.checkpoint
@commands.output("the file to write: ONNX if it ends in .onnx, else TorchScript", required=True)
@click.option(
    "--examples",
    type=commands.PATH,
    default=EXAMPLES,
    metavar="FOLDER",
    help="images to compare on (default: ui/examples)",
)
@click.option("--int8", is_flag=True, help="ONNX of 8-bit integers, fitted on the validation images")
@commands.data("with --int8: photos that it was trained on")
def main(checkpoint: Path, output: Path, examples: Path, int8: bool, data: Path | None) -> None:
    loaded = load_checkpoint(checkpoint)
    if int8:
        print(_export_int8(loaded, output, data))
        return
    write = export_onnx if output.suffix == ONNX_SUFFIX else export
    write(loaded, output, examples)
    model = open_onnx(output) if output.suffix == ONNX_SUFFIX else optimised(output)
    print(
        f"wrote {output}, equal to the classifier within {TOLERANCE:.1e} of its largest logit on random and "
        f"real images; "
        f"{milliseconds(model, loaded.inputs):.2f} ms an image on one core, in batches of 16"
    )


if __name__ == "__main__":
    main()
