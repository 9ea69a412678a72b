"""Student copies run from top to bottom; their self-checks take right answers and refuse wrong ones."""

import pytest

import hygiene
from hygiene import Page, facts
from notebooks import TEMPLATE, chapters, code_cells, kernel, read
from student import student_copy

NOTEBOOKS = [TEMPLATE, *chapters()]
RIGHT = (": correct", "equal to the release")
HINTED = ("Hint:", "Usual causes:", "hint")


def judge(session, cells):
    """Give the self-check two wrong answers and the solution, then put the stub back."""
    name, check = facts(cells["exercise"])["exercise"], cells["check"].source
    for wrong in facts(cells["exercise"])["wrong"]:
        _, error = session.run(wrong)
        assert error is None, f"{name}: the wrong answer itself does not run: {error}"
        shown, error = session.run(check)
        assert error and error.startswith("AssertionError"), (
            f"{name} takes a wrong answer: {shown or error}\n{wrong}"
        )
        assert any(word in error for word in HINTED), f"{name} refuses without a hint: {error}"
    _, error = session.run(cells["solution"].source)
    assert error is None, f"{name}: the solution does not run: {error}"
    names = hygiene.solution_names(cells["solution"].source)
    session.run("\n".join(f"{plain} = {plain}_solution" for plain in names))
    shown, error = session.run(check)
    assert error is None and any(word in shown for word in RIGHT), (
        f"{name} refuses its solution: {error or shown}"
    )
    session.run(cells["exercise"].source)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_student_copy_runs_and_self_checks_judge(path):
    notebook = read(path)
    exercises = Page(path, notebook).exercises
    with kernel(path.parent) as session:
        for cell in code_cells(student_copy(notebook)):
            shown, error = session.run(cell.source)
            assert error is None, f"{cell.id} raises in the student copy: {error}"
            if name := facts(cell).get("check"):
                assert "not attempted" in shown, f"{name}: an empty answer is called {shown!r}"
                judge(session, exercises[name])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_student_copy_holds_no_answers(path):
    notebook = student_copy(read(path))
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "# @title Solution" not in text and "_solution" not in text
    assert not any("wrong" in facts(cell) for cell in notebook.cells)
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(notebook))
    kept = [c.metadata.nbgrader.grade_id for c in notebook.cells if "nbgrader" in c.metadata]
    assert len(kept) == 2 * len(Page(path, read(path)).exercises)
