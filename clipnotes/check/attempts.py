"""What a stub is, and what an answer's own code is: shared by self-checks and parity."""

import functools
import inspect
import os
from types import CodeType, FunctionType
from typing import Any


def not_attempted(name: str) -> None:
    """Say that nothing was written yet. Where nbgrader grades or validates, a cell without an error earns all
    points: there it raises AssertionError.
    """
    assert os.environ.get("NBGRADER_EXECUTION") not in ("autograde", "validate"), f"{name}: not attempted"
    print(f"{name}: not attempted")


def is_bare(error: BaseException) -> bool:
    return type(error) is NotImplementedError and not error.args


def is_stub(error: BaseException, answer: Any) -> bool:
    """Did the answer's own code raise NotImplementedError without a message? PyTorch's has one, and means a
    mistake.
    """
    if not is_bare(error):
        return False
    place = error.__traceback__
    while place.tb_next:
        place = place.tb_next
    return any(place.tb_frame.f_code in all_code(function) for function in own_functions(answer))


def unwrapped(answer: Any) -> Any:
    """What is behind decorators, methods and functools.partial."""
    while True:
        if isinstance(answer, functools.partial):
            answer = answer.func
        elif inspect.ismethod(answer):
            answer = answer.__func__
        elif isinstance(answer, FunctionType) and hasattr(answer, "__wrapped__"):
            answer = answer.__wrapped__
        else:
            return answer


def own_functions(answer: Any) -> list[FunctionType]:
    """A function itself, or the methods of a class or of an instance's class. A lambda stands for what it
    calls, too.
    """
    answer = unwrapped(answer)
    if isinstance(answer, FunctionType):
        called = named(answer) if answer.__name__ == "<lambda>" else []
        others = [value for value in called if unwrapped(value) is not answer]
        return [answer] + [f for value in others for f in own_functions(value)]
    methods = vars(answer if isinstance(answer, type) else type(answer)).values()
    plain = [getattr(m, "__func__", None) or getattr(m, "fget", None) or m for m in methods]
    return [f for f in map(unwrapped, plain) if isinstance(f, FunctionType)]


def all_code(function: FunctionType) -> set[CodeType]:
    """A function's code and that of all that is defined inside."""
    found, waiting = set(), [function.__code__]
    while waiting:
        found.add(code := waiting.pop())
        waiting += [const for const in code.co_consts if isinstance(const, CodeType)]
    return found


def named(function: FunctionType) -> list[Any]:
    """The functions and classes that a function names: globals, what it closes over, its defaults."""
    space = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        space[name] = cell.cell_contents
    names = {name for code in all_code(function) for name in code.co_names + code.co_freevars}
    values = [space[name] for name in sorted(names & set(space))]
    values += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return [value for value in values if isinstance(unwrapped(value), (FunctionType, type))]
