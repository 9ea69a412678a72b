"""A GPU for machines without one: a device "gpu" that holds tensors, and complains where devices are mixed.

Inside `with fake_gpu():` .to("gpu") and device="gpu" work, backward and autocast too, and every value is computed
on the CPU. What a real GPU refuses is refused: an operation on tensors of two devices (numbers without dimensions
excepted), an index of the GPU into a tensor of the CPU, .numpy() without .cpu(), a generator of the CPU for a tensor
of the GPU. Speed and rounding are the CPU's. It has to be imported before the first backward of a process, when torch
counts its devices.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

aten = torch.ops.aten
PACKED = (aten._pack_padded_sequence.default, aten._pack_padded_sequence_backward.default)  # lengths stay on the CPU
MOVES = (aten._to_copy.default, aten.copy_.default, *PACKED)  # what may see two devices
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
FUSED = (torch.lstm, torch.gru)  # each device has a kernel of its own for these


class Backend:
    """What torch asks of a device's module, torch.gpu."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Random numbers are the CPU's, which is seeded by itself."""

    def get_rng_state(self, device: int) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: int) -> None:
        """As above: torch.random.fork_rng, in any later test of this process, restores the CPU's by itself."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")  # older ones cannot pretend
if AVAILABLE:
    backend_registration._setup_privateuseone_for_python_backend("gpu", Backend())
autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")  # kept alive
autocast.fallback(torch.library.fallthrough_kernel)  # allowed, and changes no dtype


class OnGPU(Tensor):
    """A tensor that says it lies on the GPU; its values are in `inner`, on the CPU."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGPU":
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device("gpu", 0))

    def __init__(self, inner: Tensor):
        self.inner = inner

    def __repr__(self, **options) -> str:
        return f"{self.inner!r} on the pretended GPU"

    def __format__(self, form: str) -> str:
        return format(self.item(), form)

    def tolist(self) -> list:
        return self.cpu().tolist()

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in FUSED:
            found = function(*tree_map_only(OnGPU, Tensor.cpu, args), **(kwargs or {}))
            return tree_map_only(Tensor, lambda t: t.to("gpu"), found)
        return torch._C._disabled_torch_function_impl(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def refuse_mixed(function, args: tuple, kwargs: dict) -> None:
    """Raise RuntimeError, as CUDA does, where tensors of both devices meet."""
    if function in PACKED and isinstance(args[1], OnGPU):
        raise RuntimeError("'lengths' of sequences belong on the CPU")
    if function in MOVES:
        return
    if function in INDEXED and isinstance(args[0], OnGPU):
        args = (args[0], *args[2:])  # an index of the CPU is moved for you
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
    if any(isinstance(t, OnGPU) for t in tensors) and any(not isinstance(t, OnGPU) and t.ndim for t in tensors):
        raise RuntimeError("Expected all tensors to be on the same device, but found at least two: gpu and cpu, "
                           f"in {function}.")


def compute(function, args: tuple, kwargs: dict):
    """Run an operation on the CPU; what it gives lies where `device` says, or where its arguments lie."""
    refuse_mixed(function, args, kwargs)
    first = args[:1] if function is aten.copy_.default else (args, kwargs)  # copy_ stays where its target is
    on_gpu = any(isinstance(t, OnGPU) for t in tree_iter(first))
    args_inside, kwargs_inside = tree_map_only(OnGPU, lambda t: t.inner, (args, kwargs))
    if kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == "gpu"
        kwargs_inside["device"] = torch.device("cpu")
    if on_gpu and kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a 'gpu' device type for generator but found 'cpu', in {function}.")
    if function is aten._to_copy.default:
        kwargs_inside.pop("non_blocking", None)
    result = function(*args_inside, **kwargs_inside)
    if not on_gpu:
        return result
    if function in PACKED:  # the numbers of sequences a step stay on the CPU, too
        return tree_map_only(Tensor, lambda t: OnGPU(t) if t.is_floating_point() else t, result)
    result = tree_map_only(Tensor, OnGPU, result)
    return return_and_correct_aliasing(function, args, kwargs, result)


class Values(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


@contextlib.contextmanager
def fake_gpu() -> Iterator[str]:
    """Pretend that this machine has a GPU; gives the name of its device."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(values, device="gpu") is made here, then moved
    try:
        with Values():
            yield "gpu"
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
