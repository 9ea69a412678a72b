"""Parity: the reader's own code against numbers that the official release has computed.

One module a method, one function a component: parity("groupvit.gumbel", ...) takes `gumbel` from groupvit.py
beside this file. A new method is a new file. It holds RELEASE, and for each component a function

    @component()
    def gumbel(candidate, tensors, config):
        \"\"\"What the candidate takes and gives. Usual mistakes: what is shown where it differs.\"\"\"
        yield got, expected            # or got, expected, tolerance

which puts the candidate to use on the tensors of the golden file. Sizes are read from there, never written
down.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import cleandoc, signature
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor, nn

from clipnotes.check.attempts import is_stub, not_attempted
from clipnotes.check.claims import shown
from clipnotes.files import shared

TOLERANCE = 1e-5  # allowed difference, in units of max(1, largest expected value)
Tensors = dict[str, Tensor]
Config = dict[str, Any]
Pairs = Iterator[tuple]  # what the candidate gives, what the release gives, and another tolerance


@dataclass(frozen=True)
class Component:
    """One component of a method: how a candidate is compared, in which golden file, with which release."""

    compare: Callable[[Any, Tensors, Config], Pairs]
    file: str
    release: str | None
    note: str

    @property
    def oracle(self) -> str:
        """The release that has computed its golden file: repository at commit."""
        return self.release or import_module(self.compare.__module__).RELEASE

    @property
    def mistakes(self) -> str:
        """The paragraph "Usual mistakes" of its docstring, in one line."""
        text = cleandoc(self.compare.__doc__ or "").partition("Usual mistakes:")[2]
        return " ".join(text.split())


def component(file: str = "", release: str | None = None, note: str = "") -> Callable[[Callable], Component]:
    """Mark a function as a component.

    file: its golden file without the ending, where it is not METHOD_COMPONENT. release: where it is another
    one than the module's RELEASE. note: what the page Parity says about the comparison.
    """

    def mark(compare: Callable[[Any, Tensors, Config], Pairs]) -> Component:
        method = compare.__module__.rpartition(".")[2]
        return Component(compare, file or f"{method}_{compare.__name__}", release, note)

    return mark


def components() -> list[str]:
    """The names of all components."""
    methods = sorted(module.name for module in iter_modules(__path__))
    return [f"{method}.{name}" for method in methods for name, value in vars(_module(method)).items()
            if isinstance(value, Component)]


def _module(method: str) -> Any:
    return import_module(f"{__name__}.{method}")


def find(name: str) -> Component:
    """A component by its name. Raises ValueError, with all names, where there is none."""
    method, _, part = name.partition(".")
    known = method in {module.name for module in iter_modules(__path__)}
    found = getattr(_module(method), part, None) if known else None
    if not isinstance(found, Component):
        known = ", ".join(components())
        raise ValueError(f"There are no official numbers for {name!r}. There are some for: {known}.")
    return found


def golden(name: str) -> tuple[Tensors, Config]:
    """The official inputs, weights and outputs of one component, and its constants. name: as in `parity`.

    Keys start with "in/", "weights/" or "out/". Raises ValueError for an unknown name.
    """
    from safetensors import safe_open

    file = find(name).file
    path = shared(f"golden/{file}.safetensors")
    if path is None:
        raise ValueError(f"{file}.safetensors with the numbers for {name!r} is missing: install again.")
    with safe_open(path, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        return tensors, json.loads((opened.metadata() or {}).get("config", "{}"))


# ---------------------------------------------------------------- what the methods' files share


def cases(tensors: Tensors, pattern: str) -> list[str]:
    """What the one group of `pattern` stands for in the names of tensors: "in/scale_(.+)" finds a and b."""
    found = [re.fullmatch(pattern, key) for key in tensors]
    return [match[1] for match in found if match]


def build(candidate: Any, **named: Any) -> Any:
    """A module as it is; else candidate(**named), or by position where the reader chose other names."""
    if isinstance(candidate, nn.Module):
        return candidate
    try:
        signature(candidate).bind(**named)
    except (TypeError, ValueError):
        return candidate(*named.values())
    return candidate(**named)


def accepted(candidate: Any, **constants: Any) -> dict[str, Any]:
    """Those constants of the file, None where it has none, that a candidate takes under these names.

    It has fixed the others, as the release has.
    """
    taken = signature(candidate).parameters
    return {name: value for name, value in constants.items() if name in taken and value is not None}


def load(
    module: nn.Module, tensors: Tensors, prefix: str = "weights/", ignore: tuple[str, ...] = ()
) -> nn.Module:
    """Load the official weights strictly; name what is missing or left over, but for keys that begin with
    `ignore`.
    """
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    own = {k for k in module.state_dict() if not (k.startswith(ignore) or k.endswith("num_batches_tracked"))}
    missing, extra = sorted(set(weights) - own), sorted(own - set(weights))
    assert not missing and not extra, (
        f"The weights have other names than in the release. Only there: {', '.join(missing[:3]) or 'none'}; "
        f"only in yours: {', '.join(extra[:3]) or 'none'}."
    )
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise AssertionError(f"A weight has another shape than in the release: {error}") from error
    return module.eval()


def difference(got: Any, expected: Tensor) -> float:
    """Largest difference in units of max(1, largest expected value); shapes and integers must be equal."""
    got = torch.as_tensor(got).detach().cpu()
    assert got.shape == expected.shape, (
        f"The shape is {tuple(got.shape)}, the release's is {tuple(expected.shape)}."
    )
    if not expected.is_floating_point():
        return 0.0 if torch.equal(got.long(), expected.long()) else math.inf
    gap = (got.double() - expected.double()).abs().max() / max(1.0, expected.abs().max().item())
    return gap.item() if torch.isfinite(gap) else math.inf


# ---------------------------------------------------------------- the comparison


@torch.no_grad()
def pairs(name: str, candidate: Any) -> list[tuple]:
    """What a candidate gives and what the release gives, pair by pair. Raises what the candidate raises."""
    return list(find(name).compare(candidate, *golden(name)))


def verdict(name: str, found: list[tuple]) -> tuple[float, float]:
    """The worst difference of all pairs, and the largest that is allowed (0.0: exactly equal).

    Raises AssertionError where a pair differs by more.
    """
    gaps = []
    for got, expected, *own in found:
        tolerance = own[0] if own else TOLERANCE if expected.is_floating_point() else 0.0
        gaps.append((difference(got, expected), tolerance))
    if too_large := [gap for gap in gaps if gap[0] > gap[1]]:
        worst, tolerance = max(too_large)
        raise AssertionError(f"{name} differs from the release by {worst:.1e}, {tolerance:.0e} is allowed.")
    return max(gap for gap, _ in gaps), max(tolerance for _, tolerance in gaps)


def explained(name: str, error: Exception) -> AssertionError:
    """Why a comparison failed, and the component's usual mistakes."""
    text = str(error) or type(error).__name__
    text = text if text.startswith(name) else f"{name} could not be compared. {text}"
    return AssertionError(f"{text}\nUsual causes: {find(name).mistakes}")


def parity(name: str, candidate: Any) -> float | None:
    """Compare the reader's own class or function with the numbers of the official release.

    name: method, dot, component: "groupvit.grouping_block"; an unknown one lists all. What the candidate
    takes and gives is said by the component's function, `grouping_block` in
    clipnotes/check/parity/groupvit.py. A module class, an instance, or a function that builds one will do.
    Arguments are passed by the names given there, or in that order where a reader chose others. Weights are
    loaded under the release's names, strictly.
    Returns the worst difference in units of max(1, largest expected value), and shows one line: 1e-5 is
    allowed where the component does not say otherwise, integers are exact. What was not attempted (None, or a
    stub that raises NotImplementedError) is said to be so: None; nbgrader's autograding raises AssertionError
    for it.
    Raises AssertionError with the usual mistakes where the candidate differs, ValueError for an unknown name.
    """
    part = find(name)
    if candidate is None:
        return not_attempted(name)
    try:
        worst, allowed = verdict(name, pairs(name, candidate))
    except Exception as error:
        if is_stub(error, candidate):
            return not_attempted(name)
        raise explained(name, error) from error
    bound = f"at most {_power(allowed)}" if allowed else "exactly"
    entry = dict(id=name, oracle=part.oracle, tolerance=allowed, note=part.note)
    shown("parity", entry, f"{name}: equal to the release ({bound})")
    return worst


def _power(tolerance: float) -> str:
    """0.05, but 1e-5, not 1e-05."""
    return f"{tolerance:g}" if tolerance >= 1e-3 else f"{tolerance:.0e}".replace("e-0", "e-")


def no_oracle(name: str, why: str) -> None:
    """Say that a component has no official implementation to compare with, and put it on the parity page."""
    entry = dict(id=name, oracle=None, tolerance=None, note=why)
    shown("parity", entry, f"{name}: no oracle exists ({why})")
