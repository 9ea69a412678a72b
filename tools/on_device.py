"""A whole chapter on another device, no cell changed: how tools/gpu_check.py meets the GPU in `tiny` mode.

In `tiny` mode a chapter computes on the CPU, so that its numbers are those of the page. `everything_on("cuda")` lets
each new tensor, and so each model, lie on the GPU, and brings to it what meets it there. Random numbers are drawn on
the CPU first: both devices see the same ones, and what differs is how they are computed. The toy world's pictures and
the reader's own are made on the CPU, as always.
"""

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_any, tree_map_only

MAKERS = _device_constructors() | {torch.from_numpy}
DRAWN = {value for name, value in inspect.getmembers(nn.init, inspect.isfunction) if name.endswith("_")} | {
    Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.bernoulli_, Tensor.random_, torch.bernoulli,
    torch.multinomial, Tensor.multinomial, torch.rand_like, torch.randn_like, torch.randint_like}
STAY = {Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as}  # these say themselves where things go
RECURRENT = ("lstm", "gru", "_pack_padded_sequence", "_pad_packed_sequence")  # lengths stay on the CPU
READ = {Tensor.numpy, Tensor.__array__}


def changes_in_place(function: Callable) -> bool:
    name = getattr(function, "__name__", "")
    return name == "__setitem__" or name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


class EverythingOn(TorchFunctionMode):
    """Every new tensor lies on the device, and a tensor of the CPU that meets one from there is moved."""

    def __init__(self, device: str):
        super().__init__()
        self.device = torch.device(device)

    def here(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.device.type == self.device.type

    def moved(self, values: Any, device: str | torch.device) -> Any:
        """Tensors on the device; numbers without dimensions may stay."""
        return tree_map_only(Tensor, lambda t: t.to(device) if t.ndim or t.device.type != "cpu" else t, values)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function in READ:
            return function(args[0].cpu(), *args[1:], **kwargs)
        if function in MAKERS and kwargs.get("device") is None and "out" not in kwargs:
            learns = kwargs.pop("requires_grad", False)
            made = function(*self.moved(args, "cpu"), **kwargs).to(self.device)
            return made.requires_grad_() if learns else made
        if function in STAY or not tree_any(self.here, (args, kwargs)):
            return function(*args, **kwargs)
        if function in DRAWN or kwargs.get("generator") is not None:
            return self.drawn(function, args, kwargs)
        if getattr(function, "__name__", "") in RECURRENT:
            return function(args[0], args[1].cpu(), *args[2:], **kwargs)
        if changes_in_place(function) and args and isinstance(args[0], Tensor):
            return function(args[0], *self.moved(args[1:], args[0].device), **self.moved(kwargs, args[0].device))
        return function(*self.moved(args, self.device), **self.moved(kwargs, self.device))

    def drawn(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Random numbers of the CPU, on the device."""
        with torch.no_grad():
            found = function(*self.moved(args, "cpu"), **self.moved(kwargs, "cpu"))
            target = args[0] if args else kwargs.get("tensor")
            return target.copy_(found) if changes_in_place(function) else found.to(self.device)


def on_the_cpu(function: Callable) -> Callable:
    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return plain


def everything_on(device: str) -> None:
    """From here on, for the rest of this process."""
    from clipnotes import hub, toyworld

    makers = [name for name in sys.modules if name.startswith((toyworld.__name__, hub.__name__))]
    for module in map(sys.modules.get, makers):
        for name, value in vars(module).items():
            if inspect.isfunction(value) or hasattr(value, "cache_info"):
                setattr(module, name, on_the_cpu(value))
    EverythingOn(device).__enter__()
