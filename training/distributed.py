"""One run in several processes, which torchrun starts. Without torchrun, these functions serve a single process."""

import os
import shutil
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

from training.cache import FOLDER
from training.outcome import Stopped

T = TypeVar("T")


def start() -> None:
    """Join the processes that torchrun has started: by NCCL if there are GPUs, one for each, or by gloo on CPUs."""
    if "RANK" not in os.environ:
        return
    if torch.cuda.is_available():
        if int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
            raise Stopped(f"There are {torch.cuda.device_count()} GPUs here; start no more processes than that.")
        torch.cuda.set_device(device())
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def stop() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def device() -> torch.device:
    """Return the device of this process: its GPU if there are any, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def has_bfloat16(device: torch.device, count_cpu: bool) -> bool:
    """Return whether a device multiplies in bfloat16: a GPU or, if a CPU counts too, one with AVX-512 or AMX for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if count_cpu and device.type == "cpu" else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """Let PyTorch compile a model for a GPU; without Triton or a C compiler, it stays as it is, as elsewhere."""
    possible = device.type == "cuda" and find_spec("triton") and any(map(shutil.which, ("cc", "gcc", "clang")))
    if not possible:
        return model
    # What is compiled is run again, so it does not lie where other users of the machine could put their code.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(FOLDER.absolute() / "compiled"))
    return torch.compile(model)  # type: ignore[return-value]


def parallel(model: nn.Module) -> nn.Module:
    """Wrap a model: its gradients become means over the processes, and its batch norms see all their images."""
    if world_size() == 1:
        return model
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
        elif isinstance(module, nn.BatchNorm2d):  # timm's, which is followed by an activation
            module.__class__ = GlobalBatchNormAct2d
    return DistributedDataParallel(model, forward_sync_buffers=False)


def total(values: Tensor) -> Tensor:
    """Return the sum of the processes' tensors."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def agreed(value: T) -> T:
    """Return the value of the first process, in every process."""
    values = [value]
    if world_size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def equal(value: object) -> bool:
    """Return whether all processes have the same value."""
    values = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(values, value)
    return all(other == value for other in values)


class _Total(torch.autograd.Function):
    """The sum over the processes, with gradients for all of them."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        return total(values.clone())

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return total(gradient.clone())


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on any device; torch's SyncBatchNorm needs GPUs."""

    momentum: float

    def forward(self, given: Tensor) -> Tensor:
        if not self.training:
            return super().forward(given)
        self._check_input_dim(given)
        images = given.to(torch.promote_types(given.dtype, torch.float32))  # bfloat16 cannot count to 1,000
        count = total(images.new_tensor(images.numel() / self.num_features))
        mean = _Total.apply(images.sum(dim=(0, 2, 3))) / count
        centred = images - mean[:, None, None]
        variance = _Total.apply(centred.square().sum(dim=(0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(given.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        self.get_buffer("num_batches_tracked").add_(1)
        self.get_buffer("running_mean").lerp_(mean, self.momentum)
        self.get_buffer("running_var").lerp_(variance, self.momentum)


class GlobalBatchNormAct2d(GlobalBatchNorm2d):
    """timm's batch norm with an activation in the same module, over the images of all processes."""

    drop: nn.Module
    act: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(images)))
