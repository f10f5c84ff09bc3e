"""Export a checkpoint as TorchScript or ONNX, proven equal to the classifier it came from.

    classifier export cifar10_whitened_resnet --output build/resnet.pt
    classifier export cifar10_cnn --output build/cnn.onnx

If --output ends in .onnx, the file is ONNX, for engines other than PyTorch; otherwise it is TorchScript.
"""

import io
import time
import warnings
import zipfile
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from handler.onnx_engine import open_network
from handler.predictor import Network
from handler.transforms import INPUT_SIZE, decode_image, test_transform
from training import commands
from training.checkpoint import Checkpoint, load_checkpoint
from training.data import seeded
from training.files import written_whole
from training.outcome import Stopped
from training.project import ROOT

EXAMPLES = ROOT / "ui" / "examples"
ONNX_SUFFIX = ".onnx"
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
        # TorchScript is deprecated, but TorchServe needs it.
        warnings.simplefilter("ignore", FutureWarning)
        script = _without_debug_info(torch.jit.freeze(torch.jit.script(classifier)))
        exported = torch.jit.load(io.BytesIO(script))
    _compare(classifier, exported, "TorchScript", examples)
    with written_whole(path) as temporary:
        temporary.write_bytes(script)


def export_onnx(checkpoint: Checkpoint, path: Path, examples: Path = EXAMPLES) -> None:
    """Write ONNX to `path`, for engines other than PyTorch; otherwise the same as `export`."""
    classifier = checkpoint.classifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter itself uses deprecated functions
        program: Any = torch.onnx.export(
            classifier,
            (_random_inputs(),),
            input_names=["images"],
            output_names=["logits", "in_distribution_score"],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            verbose=False,
        )
    ClearMetadataAndDocStringPass()(program.model)  # removes the paths of this machine
    with written_whole(path) as temporary:
        temporary.write_bytes(program.model_proto.SerializeToString(deterministic=True))
        _compare(classifier, open_network(temporary, threads=1), "ONNX", examples)


def _without_debug_info(module: torch.jit.ScriptModule) -> bytes:
    """Serialise a module without the paths of this machine, so that equal modules give equal bytes."""
    saved, stripped = io.BytesIO(), io.BytesIO()
    torch.jit.save(module, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(stripped, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    return stripped.getvalue()


def _random_inputs() -> Tensor:
    return torch.randn(64, 3, INPUT_SIZE, INPUT_SIZE, generator=seeded(0))


def _real_inputs(examples: Path) -> Tensor:
    paths = sorted(examples.glob("*.jpg"))
    if not paths:
        raise ExportError(f"{examples} has no JPEG images to compare on; name a folder that has some with --examples.")
    return torch.stack([test_transform(decode_image(path.read_bytes())) for path in paths])


@torch.inference_mode()
def _compare(classifier: nn.Module, exported: Network, kind: str, examples: Path) -> None:
    for name, images in (("random", _random_inputs()), ("real", _real_inputs(examples))):
        for batch in (images, images[:1]):
            for output, expected in zip(exported(batch), classifier(batch), strict=True):
                difference, largest = (output - expected).abs().max().item(), expected.abs().max().item()
                if not difference <= TOLERANCE * largest:  # also if it is not a number
                    raise ExportError(
                        f"{kind} differs from the classifier by {difference:.1e} on {name} images, "
                        f"where the largest output is {largest:.1e}. Nothing was written; train the checkpoint again, "
                        "or install the versions of requirements.lock."
                    )


@torch.inference_mode()
def milliseconds(path: Path, batch_size: int = 16) -> float:
    """Return the median milliseconds that an export takes for an image on one core, optimised as in the handler."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model: Network = (
            open_network(path, threads=1)
            if path.suffix == ONNX_SUFFIX
            else torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.load(path).eval()))
        )
    images, times = torch.randn(batch_size, 3, INPUT_SIZE, INPUT_SIZE), []
    for _ in range(40):
        started = time.perf_counter()
        model(images)
        times.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return median(times) / batch_size * 1000


@commands.command("export", help=__doc__)
@commands.checkpoint
@commands.output("the file to write: ONNX if it ends in .onnx, else TorchScript", required=True)
@click.option(
    "--examples",
    type=commands.PATH,
    default=EXAMPLES,
    metavar="FOLDER",
    help="JPEG images to compare on (default: ui/examples)",
)
def main(checkpoint: Path, output: Path, examples: Path) -> None:
    write = export_onnx if output.suffix == ONNX_SUFFIX else export
    write(load_checkpoint(checkpoint), output, examples)
    print(
        f"wrote {output}, equal to the classifier within {TOLERANCE:.1e} of its largest logit on random and "
        f"real images; "
        f"{milliseconds(output):.2f} ms an image on one core, in batches of 16"
    )


if __name__ == "__main__":
    main()
