"""Self-checks: they take the right answer, refuse each typical wrong one with its own hint, and are not fooled."""

import ast
import functools
import importlib
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clipnotes import check
from clipnotes.check import exercises
from clipnotes.check.exercises import Exercise, find, mistake, outcome
from notebooks import ROOT, TEMPLATE, chapters, code_cells, defined, facts, read

FOLDER = ROOT / "clipnotes" / "check" / "exercises"
NOTEBOOKS = {path.name[:2]: path for path in (TEMPLATE, *chapters())}


def ids() -> list[str]:
    """The ids of all exercises of all chapters."""
    found = []
    for path in sorted(FOLDER.glob("ch*.py")):
        module = importlib.import_module(f"clipnotes.check.exercises.{path.stem}")
        found += [f"{path.stem[2:]}.{name}" for name in module.EXERCISES]
    return found


@functools.cache
def asked(number: str) -> dict[str, SimpleNamespace]:
    """What a chapter's notebook asks: id -> the kind of the exercise, and the sources of `more`."""
    kinds, calls = {}, {}
    for cell in code_cells(read(NOTEBOOKS[number])):
        if name := facts(cell).get("exercise"):
            kinds[f"{number}.{name}"] = facts(cell)["kind"]
        for node in ast.walk(ast.parse(cell.source)) if "check.exercise(" in cell.source else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "check.exercise":
                calls[node.args[0].value] = [ast.unparse(argument) for argument in node.args[2:]]
    return {id: SimpleNamespace(kind=kinds.get(id), more=more) for id, more in calls.items()}


@functools.cache
def space(number: str) -> dict:
    """The names that a chapter defines."""
    return vars(defined(NOTEBOOKS[number]))


def lent(id: str) -> tuple:
    """What the notebook lends to the trial of an exercise."""
    number = id[:2]
    more = asked(number)[id].more if id in asked(number) else []
    return tuple(eval(source, dict(space(number))) for source in more)


def stub(*given, **named):
    raise NotImplementedError


class Stub(nn.Module):
    def __init__(self, *given, **named):
        raise NotImplementedError


# ---------------------------------------------------------------- every exercise of every chapter


@pytest.mark.parametrize("id", ids())
def test_the_reference_is_right(id):
    task = find(id)
    found = outcome(task, task.reference, lent(id))
    assert mistake(task, task.reference, found, lent(id)) == ""


@pytest.mark.parametrize("id", ids())
def test_each_typical_mistake_gets_its_own_hint(id):
    task, hints = find(id), []
    for wrong, hint in task.twins:
        said = mistake(task, wrong, outcome(task, wrong, lent(id)), lent(id))
        assert said == hint, f"{said!r} is said, not {hint!r}"
        hints.append(hint)
    assert len(set(hints)) == len(hints) and task.hint not in hints


@pytest.mark.parametrize("id", ids())
def test_what_is_not_written_is_not_attempted(id, capsys):
    task = find(id)
    empty = None if not callable(task.reference) else Stub if isinstance(task.reference, type) else stub
    for answer in (None, empty, task.bug):
        check.exercise(id, answer, *lent(id))
    assert capsys.readouterr().out == f"{id[3:]}: not attempted\n" * 3


@pytest.mark.parametrize("id", ids())
def test_cases_are_several_and_the_same_at_each_call(id):
    task = find(id)
    if task.cases:
        assert len(task.cases()) >= 2
        assert exercises.same(list(task.cases()), list(task.cases()), 0.0)


@pytest.mark.parametrize("id", ids())
def test_the_notebook_asks_for_it(id):
    assert id in asked(id[:2]), f"no cell of {NOTEBOOKS[id[:2]].name} has check.exercise({id!r}, ...)"


@pytest.mark.parametrize("id", [id for id in ids() if id in asked(id[:2]) and asked(id[:2])[id].kind == "rebuild"])
def test_the_chapter_s_own_part_is_no_answer(id):
    names = space(id[:2])
    parts = [names[name] for name in find(id).anew if name in names]
    assert parts, "a rebuild exercise names the chapter's parts that it may not use: anew=[...]"
    for part in parts:
        wrapped = [part, functools.partial(part), lambda *given, part=part, **named: part(*given, **named)]
        wrapped += [type("Mine", (part,), {})] if isinstance(part, type) else []
        for answer in wrapped:
            with pytest.raises(AssertionError, match="Hint: write it anew"):
                check.exercise(id, answer, *lent(id))


# ---------------------------------------------------------------- the mechanism


def twice(x):
    return 2 * x


def square(x):
    return x * x


def shift_by_two(x):
    return x + 2


def task(**changes) -> Exercise:
    """Twice a number: 2 fools the square and x + 2, 3 does not."""
    given = dict(reference=twice, twins=[(square, "that is the square"), (shift_by_two, "that adds two")],
                 hint="what is twice?", cases=lambda: [(torch.tensor(2.0),), (torch.tensor(3.0),)])
    return Exercise(**given | changes)


@pytest.fixture
def asks(monkeypatch):
    """check.exercise("99.it", answer) with a task of the test's own."""

    def ask(answer, *more, **changes):
        monkeypatch.setattr(exercises, "find", lambda id: task(**changes))
        check.exercise("99.it", answer, *more)

    return ask


def said(asks, answer, *more, **changes) -> str:
    """What a wrong answer is told."""
    with pytest.raises(AssertionError, match="^it: not yet. ") as told:
        asks(answer, *more, **changes)
    return str(told.value)


def test_right_answers(asks, capsys):
    asks(lambda x: x + x)
    asks(torch.no_grad()(twice))
    asks(functools.partial(torch.mul, 2))
    assert capsys.readouterr().out == "it: correct\n" * 3


def test_a_wrong_answer_that_passes_one_case_is_refused(asks):
    assert said(asks, square) == "it: not yet. Hint: that is the square"
    assert said(asks, lambda x: 2 + x) == "it: not yet. Hint: that adds two"
    assert said(asks, lambda x: torch.tensor(4.0)) == "it: not yet. Hint: what is twice?"
    assert said(asks, 4.0) == "it: not yet. Hint: write a function or a class; this is a float."


def test_an_answer_that_stops_says_where_and_gets_the_hint(asks):
    def halves(x):
        return x[7]

    text = said(asks, halves)
    assert text.startswith("it: not yet. It stops with IndexError: ") and text.endswith("\nHint: what is twice?")
    assert "\nHint: no index" in said(asks, halves, twins=[(lambda x: x[7], "no index"), (square, "no")])
    with pytest.raises(AssertionError) as told:
        asks(halves)
    assert isinstance(told.value.__cause__, IndexError)  # the reader sees the own line


def test_other_shapes_and_forgotten_returns_are_named(asks):
    assert "its shape is (1,), not (). what is twice?" in said(asks, lambda x: 2 * x[None])
    assert "it gives None: is a `return` missing? what is twice?" in said(asks, lambda x: None)


def test_a_trial_that_does_not_work_takes_no_answer(asks):
    with pytest.raises(RuntimeError, match="does not work, whatever the answer"):
        asks(lambda x: x / "2", use=lambda answer, x: answer(x, x))


def test_inputs_that_an_answer_changes_do_not_help_it(asks):
    def in_place(x):
        return x.mul_(0)

    assert "what is twice?" in said(asks, in_place)


def test_chance_is_the_same_for_all(asks, capsys):
    before = torch.get_rng_state()
    asks(lambda x: x * torch.rand(3), reference=lambda x: torch.rand(3) * x)
    assert capsys.readouterr().out == "it: correct\n" and torch.equal(before, torch.get_rng_state())


def test_values_are_exercises_too(asks, capsys):
    values = dict(reference=["cat", "dog"], twins=[(["dog", "cat"], "the other way"), (["cat"], "two")], cases=None)
    asks(["cat", "dog"], **values)
    asks(None, **values)
    assert capsys.readouterr().out == "it: correct\nit: not attempted\n"
    assert said(asks, ["dog", "cat"], **values).endswith("the other way")
    assert said(asks, twice, **values).endswith("what is twice?")


def test_classes_are_used_and_more_is_lent(asks, capsys):
    class Twice(nn.Module):
        def __init__(self, width, factor=2):
            super().__init__()
            self.linear, self.factor = nn.Linear(width, width), factor

        def forward(self, x):
            return self.factor * self.linear(x)

    class Once(Twice):
        def __init__(self, width):
            super().__init__(width, 1)

    class Mine(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear = nn.Linear(width, width)

        def forward(self, x):
            return self.linear(x) + self.linear(x)

    trial = dict(reference=Twice, twins=[(Once, "once"), (lambda n: lambda x: x, "nothing")],
                 cases=lambda: [(3,), (5,)], use=lambda answer, width, ones: answer(width)(ones(2, width)))
    asks(Mine, torch.ones, **trial)
    assert capsys.readouterr().out == "it: correct\n"
    assert said(asks, Once, torch.ones, **trial).endswith("Hint: once")


def test_official_numbers_judge_a_component(asks, capsys):
    def loss(u, v, scale):
        logits, labels = scale * u @ v.T, torch.arange(len(u))
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    def one_way(u, v, scale):
        return F.cross_entropy(scale * u @ v.T, torch.arange(len(u)))

    twins = [(one_way, "one way"), (lambda u, v, scale: loss(u, v, 1.0), "no factor")]
    trial = dict(reference=loss, twins=twins, component="clip.loss", cases=None)
    asks(loss, **trial)
    assert capsys.readouterr().out == "it: correct\n"  # one line: parity's own belongs to the text
    assert said(asks, one_way, **trial).endswith("Hint: one way")
    text = said(asks, lambda u, v, scale: 2 * loss(u, v, scale), **trial)
    assert "Hint: what is twice?\nclip.loss differs from the release" in text and "Usual causes:" in text
    asks(lambda logits: loss(logits, logits, 1.0), twice, **trial | dict(use=lambda answer, more: loss))
    assert capsys.readouterr().out == "it: correct\n"


def test_a_judge_gives_the_reason(asks, capsys):
    def judge(answer):
        return answer(3) == 6 or ("too large" if answer(3) > 6 else False)

    trial = dict(judge=judge, cases=None, twins=[(square, "that is the square"), (lambda x: -x, "negative")])
    asks(twice, **trial)
    assert capsys.readouterr().out == "it: correct\n"
    assert said(asks, square, **trial).endswith("that is the square")  # the judge says the same of both
    assert said(asks, shift_by_two, **trial).endswith("what is twice?")  # it gave no reason
    assert "It stops with TypeError" in said(asks, lambda: 1, **trial)


def test_a_bug_that_stands_is_not_attempted(asks, capsys):
    def bug(x):
        return 3 * x

    asks(bug, bug=bug)
    asks(lambda x: x + x + x, bug=bug)  # written otherwise, as wrong as before
    asks(twice, bug=bug)
    assert capsys.readouterr().out == "it: not attempted\nit: not attempted\nit: correct\n"
    assert said(asks, square, bug=bug).endswith("that is the square")


# ---------------------------------------------------------------- only the stub's own error means "not attempted"


def inner_stub(x):
    def step(x):
        raise NotImplementedError

    return step(x)


class MethodStub(nn.Module):
    def forward(self, x):
        raise NotImplementedError


@pytest.mark.parametrize("answer", [None, stub, inner_stub, functools.partial(stub), torch.no_grad()(stub),
                                    lambda x: stub(x), MethodStub()])
def test_stubs(answer, asks, capsys, monkeypatch):
    asks(answer)
    assert capsys.readouterr().out == "it: not attempted\n"
    for mode in ("autograde", "validate"):
        monkeypatch.setenv("NBGRADER_EXECUTION", mode)
        with pytest.raises(AssertionError, match="^it: not attempted$"):
            asks(answer)


def test_a_class_that_is_a_stub(asks, capsys):
    trial = dict(cases=lambda: [(torch.ones(1),), (torch.ones(2),)], use=lambda answer, x: answer()(x))
    asks(Stub, **trial)
    asks(MethodStub, **trial)
    assert capsys.readouterr().out == "it: not attempted\nit: not attempted\n"


def with_a_message(x):
    raise NotImplementedError("not for this input")


def helped(x):
    return stub(x)


def library_s(x):
    return torch.arange(3).softmax(0)


def own_kind(x):
    class Missing(NotImplementedError):
        pass

    raise Missing


@pytest.mark.parametrize("answer", [with_a_message, helped, library_s, own_kind, nn.Module()])
def test_other_errors_are_failures_with_the_hint(answer, asks):
    assert said(asks, answer).endswith("\nHint: what is twice?")


def test_a_bug_under_autograding_earns_nothing(asks, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(AssertionError, match="not attempted"):
        asks(square, bug=square)


# ---------------------------------------------------------------- what is to be written anew


class Part(nn.Module):
    """The chapter's own."""

    def forward(self, x):
        return 2 * x


class Child(Part):
    pass


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Part()

    def forward(self, x):
        return self.part(x)


class Anew(nn.Module):
    def forward(self, x):
        return x + x


def calls(x):
    return twice(x)


other_name = twice


def by_another_name(x):
    return other_name(x)


@pytest.mark.parametrize("answer", [twice, calls, by_another_name, functools.partial(twice), lambda x: other_name(x),
                                    Part(), Child(), Holder(), Part().forward])
def test_the_chapter_s_own_part_is_refused(answer, asks):
    assert "write it anew, without" in said(asks, answer, anew=["twice", "Part"])


@pytest.mark.parametrize("answer", [lambda x: x + x, Anew(), functools.partial(torch.mul, 2)])
def test_what_is_written_anew_is_taken(answer, asks, capsys):
    asks(answer, anew=["twice", "Part"])
    assert capsys.readouterr().out == "it: correct\n"


# ---------------------------------------------------------------- chapters' files


def test_unknown_exercises_list_what_exists():
    with pytest.raises(ValueError, match=r"no exercise '00.rank'. Chapter 00 has: negatives, .*ranks"):
        check.exercise("00.rank", None)
    for id in ("98.x", "chain", "x.chain", "../00.ranks", ""):
        with pytest.raises(ValueError, match="no exercises of a chapter"):
            check.exercise(id, None)


def test_a_chapter_is_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "ch97.py").write_text(
        "from clipnotes.check.exercises import Exercise\n"
        "EXERCISES = {'sum': Exercise(reference=4, twins=[(3, 'one more'), (5, 'one less')], hint='2 + 2')}\n", "utf-8")
    monkeypatch.setattr(exercises, "__path__", [*exercises.__path__, str(tmp_path)])
    check.exercise("97.sum", 4)
    assert capsys.readouterr().out == "sum: correct\n"
    with pytest.raises(AssertionError, match="one more"):
        check.exercise("97.sum", 3)


@pytest.mark.parametrize(("changes", "reason"), [
    (dict(twins=[(square, "the square")]), "two or more typical wrong answers"),
    (dict(cases=None), "tried by cases, a component or a judge"),
    (dict(cases=None, judge=lambda answer: True, bug=square), "A bug is known by what it does"),
])
def test_an_exercise_that_cannot_be_judged_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        task(**changes)


# ---------------------------------------------------------------- expect


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (56, 56),
        (2.0000001, 2),
        ("dog", "dog"),
        (torch.eye(3), torch.eye(3)),
        ([1, 2], [1, 2]),
        ((1, 2.0), [1, 2]),
        (["a", "b"], ["a", "b"]),
        ({"x": 1}, {"x": 1.0}),
        (True, True),
        (torch.tensor(True), True),
        (lambda: 4, 4),
        (5, lambda n: n > 4),
        ([torch.ones(2), "a"], [torch.ones(2), "a"]),
        ([{"x": 1}, None], [{"x": 1}, None]),
    ],
)
def test_a_right_answer(answer, right, capsys):
    check.expect(answer, right, "look again", name="1.1")
    assert capsys.readouterr().out == "1.1: correct\n"


def unwritten():
    raise NotImplementedError


@pytest.mark.parametrize("answer", [None, unwritten, lambda: None, lambda: stub(1)])
def test_an_unanswered_stub(answer, capsys, monkeypatch):
    check.expect(answer, 56, "look again", name="1.1")
    assert capsys.readouterr().out == "1.1: not attempted\n"
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(AssertionError, match="1.1: not attempted"):
        check.expect(answer, 56, "look again", name="1.1")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (57, 56),
        ("cat", "dog"),
        (torch.eye(3), torch.eye(4)),
        (torch.eye(3).T + 1e-3, torch.eye(3)),
        ([1], [1, 2]),
        (["b", "a"], ["a", "b"]),
        ({"y": 1}, {"x": 1}),
        (1, True),
        (torch.ones(2, dtype=torch.bool), True),
        ("56", 56),
        (math.nan, 1.0),
        (3, lambda n: n > 4),
        (object(), 1),
        (["a"], "a"),
        ([[1], [2, 3]], torch.ones(2)),
        (lambda: torch.arange(3).softmax(0), torch.ones(3)),
        (lambda: with_a_message(1), 1),
    ],
)
def test_a_wrong_answer_gets_the_hint(answer, right):
    with pytest.raises(AssertionError, match=r"(?s)^1.1: not yet. (It stops with .*\n)?Hint: .*look again$"):
        check.expect(answer, right, "look again", name="1.1")


def test_hints_fit_the_mistake():
    mistakes = [(63, "the diagonal is not negative"), (64, "those are all places")]
    for wrong, hint in mistakes:
        with pytest.raises(AssertionError, match=hint):
            check.expect(wrong, 56, "count again", mistakes=mistakes)
    with pytest.raises(AssertionError, match="count again"):
        check.expect(1, 56, "count again", mistakes=mistakes)
    with pytest.raises(AssertionError, match="it is negative"):
        check.expect(-1, lambda n: n > 0 or "it is negative", "look again")
    with pytest.raises(AssertionError, match=r"its shape is \(3,\), not \(3, 3\)"):
        check.expect(torch.ones(3), torch.ones(3, 3), "look again")
