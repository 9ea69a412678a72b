"""Exercises as a student meets them: an empty stub is not attempted, the solution is correct, copies hold no answers.

Stubs, checks and solutions stand on what a notebook defines; so the rest of the chapter need not run here.
Wrong answers are refused in tests/test_exercises.py.
"""

import pytest

from hygiene import Page, solution_names
from notebooks import TEMPLATE, chapters, code_cells, defined, facts, read
from student import student_copy

NOTEBOOKS = [TEMPLATE, *chapters()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_blank_is_not_attempted_and_a_solution_is_correct(path, capsys, monkeypatch):
    monkeypatch.chdir(path.parent)
    space = defined(path).space
    for name, cells in Page(path, read(path)).exercises.items():
        exec(cells["exercise"].source, space)
        exec(cells["check"].source, space)
        assert "not attempted" in capsys.readouterr().out, f"{name}: an empty answer is taken for one"
        exec(cells["solution"].source, space)
        for plain in solution_names(cells["solution"].source):
            space[plain] = space[f"{plain}_solution"]
        exec(cells["check"].source, space)
        shown = capsys.readouterr().out
        assert "correct" in shown or "equal to the release" in shown, f"{name} refuses its solution: {shown}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_student_copy_holds_no_answers(path):
    notebook = student_copy(read(path))
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "# @title Solution" not in text and "_solution" not in text
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(notebook))
    checks = [cell for cell in notebook.cells if "check" in facts(cell)]
    assert len(checks) == len(Page(path, read(path)).exercises)
