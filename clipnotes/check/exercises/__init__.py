"""Self-checks. A chapter's right answers, typical wrong ones and hints stand in one file beside this one,
chNN.py:

    EXERCISES = {"ranks": Exercise(reference=ranks, twins=[(from_0, "count from 1"), ...], hint=...,
                                   cases=tables)}

and the notebook has, below the stub, check.exercise("00.ranks", ranks).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from clipnotes.check.attempts import all_code, is_stub, named, not_attempted, own_functions, unwrapped
from clipnotes.check.parity import explained, pairs, verdict

Cases = Callable[[], Sequence[tuple]]


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One exercise: what is right, how typical mistakes look, and how an answer is tried.

    reference: the right function, class or value.
    twins: two or more wrong answers, of the same kind as the reference, each with its own hint.
    hint: what to think of where an answer is wrong in another way.
    cases: gives the same inputs at each call: two or more tuples of arguments. Not for a value.
    use: (answer, *case) -> what is compared with the reference's; without it the answer is called. With a
        component: (answer) -> its candidate, where the answer is only a part of it.
    component: the official numbers of `check.parity` judge, "clip.loss", and give the cases.
    judge: answer -> True, or the hint for what is wrong, where an answer cannot be compared by values.
    bug: the wrong version in the notebook that is to be mended; what behaves like it is not attempted.
    anew: the names of the parts of the chapter and of the library that the answer may not be, inherit from or
        call; none that it needs otherwise, as `cross_entropy` in F.cross_entropy.
    """

    reference: Any
    twins: Sequence[tuple[Any, str]]
    hint: str
    cases: Cases | None = None
    use: Callable[..., Any] | None = None
    component: str = ""
    judge: Callable[..., bool | str] | None = None
    bug: Any = None
    anew: Sequence[str] = ()
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if len(self.twins) < 2:
            raise ValueError("An exercise needs two or more typical wrong answers, each with its hint.")
        if callable(self.reference) and not (self.cases or self.component or self.judge):
            raise ValueError("A function or a class is tried by cases, a component or a judge: give one.")
        if self.bug and not (self.cases or self.component):
            raise ValueError("A bug is known by what it does: give cases.")


@dataclass(frozen=True)
class Stopped:
    """What came of an answer that raised an error."""

    kind: str
    message: str
    error: Exception = field(compare=False)


# ---------------------------------------------------------------- comparing


def same(answer: Any, right: Any, tolerance: float) -> bool:
    """Equal: numbers and tensors within `tolerance`, shapes and the rest exactly."""
    if isinstance(right, bool):
        answer = answer.item() if isinstance(answer, Tensor) and answer.numel() == 1 else answer
        return type(answer) is bool and answer == right
    if isinstance(right, (str, Stopped)) or right is None:
        return type(answer) is type(right) and answer == right
    if isinstance(right, dict):
        return (
            isinstance(answer, dict)
            and answer.keys() == right.keys()
            and all(same(answer[k], right[k], tolerance) for k in right)
        )
    if isinstance(right, (list, tuple)) and not all(isinstance(r, (int, float)) for r in right):
        return (
            isinstance(answer, (list, tuple))
            and len(answer) == len(right)
            and all(same(a, r, tolerance) for a, r in zip(answer, right, strict=True))
        )
    try:
        answer, right = torch.as_tensor(answer).detach().cpu(), torch.as_tensor(right).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return False
    if answer.shape != right.shape:
        return False
    return torch.allclose(answer.double(), right.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def _other_shape(answer: Any, right: Any) -> str:
    """A sentence on the first tensor of another shape, or nothing."""
    if isinstance(answer, (list, tuple)) and isinstance(right, (list, tuple)):
        return next(filter(None, map(_other_shape, answer, right)), "")
    if isinstance(answer, Tensor) and isinstance(right, Tensor) and answer.shape != right.shape:
        return f"its shape is {tuple(answer.shape)}, not {tuple(right.shape)}. "
    return ""


def expect(
    answer: Any,
    right: Any,
    hint: str,
    *,
    mistakes: Sequence[tuple[Any, str]] = (),
    tolerance: float = 1e-5,
    name: str = "answer",
) -> None:
    """The self-check of one value: prints "correct" or "not attempted", or raises AssertionError: a hint.

    answer: a value, or a function without arguments that computes it: `lambda: my_loss(x)`. None and a stub's
    NotImplementedError mean that nothing was written yet; nbgrader's autograding raises AssertionError for
    it.
    right: the right value (number, text, tensor, or lists of these, compared within `tolerance`, shapes
    included), or a function that takes the answer and returns True, False, or the hint for what is wrong with
    it.
    hint: what to think of when the answer is wrong. mistakes: pairs of a typical wrong answer and its own
    hint.
    """
    asked = answer
    try:
        answer = answer() if callable(answer) else answer
    except Exception as error:
        if is_stub(error, asked):
            return not_attempted(name)
        stopped = f"It stops with {type(error).__name__}: {error}"
        raise AssertionError(f"{name}: not yet. {stopped}\nHint: {hint}") from error
    if answer is None:
        return not_attempted(name)
    found = right(answer) if callable(right) else same(answer, right, tolerance)
    if isinstance(found, str):
        found, hint = False, found
    for wrong, reason in mistakes:
        hint = reason if not found and same(answer, wrong, tolerance) else hint
    assert found, f"{name}: not yet. Hint: {_other_shape(answer, right)}{hint}"
    print(f"{name}: correct")


# ---------------------------------------------------------------- exercises


def exercise(id: str, answer: Any, *more: Any) -> None:
    """The self-check of an exercise: prints "ranks: correct" or "ranks: not attempted", or raises
    AssertionError: a hint.

    id: chapter's number, dot, name: "00.ranks"; the exercise stands in clipnotes/check/exercises/ch00.py.
    answer: what the reader wrote: a function, a class or a value. more: parts of the chapter that the trial
    needs; each case ends in them.
    Not attempted is None, a stub that raises NotImplementedError, and a bug that stands as it stood;
    nbgrader's autograding raises AssertionError for it. Raises ValueError for an unknown id.
    """
    task, name = find(id), id.partition(".")[2]
    if answer is None:
        return not_attempted(name)
    assert callable(answer) or not callable(task.reference), (
        f"{name}: not yet. Hint: write a function or a class; this is a {type(answer).__name__}.")
    if part := borrowed(answer, task.anew):
        raise AssertionError(f"{name}: not yet. Hint: write it anew, without {part} of the chapter.")
    found = outcome(task, answer, more)
    if found is None or (task.bug and same(found, outcome(task, task.bug, more), task.tolerance)):
        return not_attempted(name)
    hint = mistake(task, answer, found, more)
    if stopped := next((f for f in found if hint and isinstance(f, Stopped)), None):
        text = f"It stops with {stopped.kind}: {stopped.message}"
        raise AssertionError(f"{name}: not yet. {text}\nHint: {hint}") from stopped.error
    assert not hint, f"{name}: not yet. Hint: {hint}"
    print(f"{name}: correct")


def find(id: str) -> Exercise:
    """The exercise of an id. Raises ValueError where there is none."""
    number, _, name = id.partition(".")
    module = f"{__name__}.ch{number}"
    if not number.isdigit() or find_spec(module) is None:
        raise ValueError(f"There are no exercises of a chapter {number!r}. An id looks like '03.chain'.")
    known = import_module(module).EXERCISES
    if name not in known:
        raise ValueError(f"There is no exercise {id!r}. Chapter {number} has: {', '.join(known)}.")
    return known[name]


def outcome(task: Exercise, answer: Any, more: tuple = ()) -> list[Any] | None:
    """What comes of an answer in each case: a value or Stopped; of a value itself. None: it is a stub."""
    if task.component:
        trials = [lambda: [got for got, *_ in _pairs(task, answer, more)]]
    elif task.cases:
        use = task.use or (lambda answer, *case: answer(*case))
        trials = [lambda case=case: use(answer, *case, *more) for case in task.cases()]
    else:
        trials = [lambda: task.judge(answer, *more) if task.judge else answer]
    found = []
    for trial in trials:
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                found.append(trial())
        except Exception as error:
            if is_stub(error, answer):
                return None
            found.append(Stopped(type(error).__name__, str(error), error))
    return found


def _pairs(task: Exercise, answer: Any, more: tuple) -> list[tuple]:
    return pairs(task.component, task.use(answer, *more) if task.use else answer)


def mistake(task: Exercise, answer: Any, found: list[Any], more: tuple = ()) -> str:
    """The hint for an answer whose outcome is `found`, or nothing where it is right."""
    said = _wrong(task, answer, found, more)
    if not said:
        return ""
    if task.judge and found[0] is False:  # without a reason one mistake looks like another
        return said
    own = [hint for wrong, hint in task.twins if same(found, outcome(task, wrong, more), task.tolerance)]
    return own[0] if own else said


def _wrong(task: Exercise, answer: Any, found: list[Any], more: tuple) -> str:
    if task.component:
        try:
            verdict(task.component, _pairs(task, answer, more))
            return ""
        except Exception as error:
            return f"{task.hint}\n{explained(task.component, error)}"
    if task.judge:
        said = task.judge(answer, *more) if task.cases else found[0]
        return "" if said is True else said if isinstance(said, str) else task.hint
    right = outcome(task, task.reference, more)
    if broken := next((r for r in right if isinstance(r, Stopped)), None):
        raise RuntimeError("The trial of this exercise does not work, whatever the answer.") from broken.error
    if any(f is None and r is not None for f, r in zip(found, right, strict=True)):
        return f"it gives None: is a `return` missing? {task.hint}"
    return "" if same(found, right, task.tolerance) else _other_shape(found, right) + task.hint


def borrowed(answer: Any, names: Sequence[str]) -> str:
    """The part, one of `names`, that an answer is, inherits from or calls, where it should be written anew;
    or nothing.

    A class may inherit from no other class of the notebook or of the library at all.
    """
    if not names:
        return ""
    answer = unwrapped(getattr(answer, "__self__", answer))
    if isinstance(answer, nn.Module):
        answer = type(answer)
    if isinstance(answer, type):
        for base in answer.__mro__[1:]:
            own = base.__module__ == answer.__module__ or base.__module__.startswith("clipnotes.")
            if own or base.__name__ in names:
                return base.__name__
    used = {getattr(answer, "__name__", type(answer).__name__)}
    for function in own_functions(answer):
        used |= {name for code in all_code(function) for name in code.co_names + code.co_freevars}
        used |= {unwrapped(value).__name__ for value in named(function)}
    return next((name for name in names if name in used), "")
