"""Stored outputs against fresh ones: what is the same passes, what was changed is named."""

import base64
import io
import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image, ImageDraw

from compare import differences, text_differs
from notebooks import ROOT

REGISTER = {"gain": dict(kind="live", low=0.3), "quick": dict(kind="exact", high=1.0, timing=True)}


def picture(shade: int, side: int = 40) -> str:
    """A PNG with a disc on the left, dark by `shade`; a larger side moves it."""
    image = Image.new("RGB", (120, 80), "white")
    ImageDraw.Draw(image).ellipse((side - 30, 10, side + 30, 70), fill=(shade, shade, shade))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shows(*, text=None, png=None, html=None, carries=None):
    if text is not None and carries is None:
        return new_output("stream", name="stdout", text=text)
    data = {"text/plain": text or "x"} | ({"image/png": png} if png else {}) | ({"text/html": html} if html else {})
    return new_output("display_data", data, metadata={"clipnotes": carries} if carries else {})


def claim(value=0.5, **change):
    entry = dict(id="09.gain", value=value, baseline=0.25, interval=[0.4, 0.6], n=100, holds=True) | change
    return shows(text=f"claim 09.gain: {value:.3g}", carries={"claim": entry})


def found(stored, fresh, tags=()):
    cell = new_code_cell("x", outputs=stored)
    cell.metadata["tags"] = list(tags)
    return differences(cell, fresh, REGISTER, {})


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ([shows(text="loss 0.412, 3 films")], [shows(text="loss 0.413, 3 films")]),
        ([shows(text="one "), shows(text="two")], [shows(text="one two")]),
        ([shows(png=picture(40))], [shows(png=picture(44))]),
        ([claim(0.5)], [claim(0.5004)]),
        ([shows(carries={"claim": dict(id="09.quick", value=None, baseline=None, interval=None, n=None, holds=True)})],
         [shows(carries={"claim": dict(id="09.quick", value=None, baseline=None, interval=None, n=None, holds=True)})]),
        ([], [new_output("stream", name="stderr", text="a warning")]),
        ([shows(html="<table><tr><td>a</td><td>0.51</td></tr></table>")],
         [shows(html="<table>\n<tr><td>a</td><td>0.51</td></tr></table>")]),
    ],
)
def test_what_is_the_same_passes(stored, fresh):
    assert found(stored, fresh) == []


@pytest.mark.parametrize(
    ("stored", "fresh", "reason"),
    [
        ([shows(text="loss 0.412")], [shows(text="loss 0.811")], "a number is another: 0.412 is stored, 0.811"),
        ([shows(text="12 films")], [shows(text="13 films")], "12 is stored, 13 comes"),
        ([shows(text="a dog")], [shows(text="a cat")], "its text is another"),
        ([shows(png=picture(40))], [shows(png=picture(40, 80))], "picture 1 looks otherwise"),
        ([], [shows(png=picture(40))], "but nothing is stored"),
        ([shows(png=picture(40))], [], "shows nothing"),
        ([shows(text="x")], [shows(png=picture(40))], "image/png"),
        ([claim(0.811)], [claim(0.411)], "its value 0.811 is stored, 0.411 comes"),
        ([claim(baseline=0.1)], [claim()], "its baseline 0.1"),
        ([claim(interval=[0.45, 0.6])], [claim()], "its interval"),
        ([claim(interval=None)], [claim()], "not both"),
        ([claim(n=200)], [claim()], "is another"),
        ([claim(holds=False)], [claim()], "is another"),
        ([claim(id="09.other")], [claim()], "is another"),
        ([shows(carries={"parity": dict(id="a", oracle="x at 1")})],
         [shows(carries={"parity": dict(id="a", oracle="y")})],
         "is stored"),
        ([shows(carries={"card": dict(id="a", status="run")})],
         [shows(carries={"card": dict(id="a", status="not-run")})],
         "run"),
        ([shows(carries={"frames": ["0" * 16, "f" * 16]})], [shows(carries={"frames": ["f" * 16, "0" * 16]})],
         "picture 1 of its slider"),
        ([shows(carries={"frames": ["00", "ff"]})], [shows(carries={"frames": ["ff", "00"]})],
         "picture 1 of its slider"),  # exchanged, though alike
        ([shows(carries={"frames": ["0" * 16]})], [shows(carries={"frames": ["0" * 16] * 2})], "a slider of 1"),
        ([shows(carries={"labels": ["one", "two"]})], [shows(carries={"labels": ["two", "one"]})], "'one', 'two'"),
        ([shows(html="<b>0.51</b>")], [shows(html="<b>0.61</b>")], "0.51 is stored, 0.61"),
    ],
)
def test_what_was_changed_is_named(stored, fresh, reason):
    (first, *_) = found(stored, fresh)
    assert reason in first


def test_pictures_of_a_training_that_drifts_may_look_a_little_otherwise():
    frames = [shows(carries={"frames": ["0" * 24, "f" * 24]})]
    moved = [shows(carries={"frames": ["0" * 15 + "f" * 9, "f" * 24]})]
    exchanged = [shows(carries={"frames": ["f" * 24, "0" * 24]})]
    told = dict(clipnotes=dict(drifts=["77.gain"]))

    def said(fresh: list, **metadata) -> list:
        cell = new_code_cell("x", outputs=frames, metadata=metadata)
        return differences(cell, fresh, {}, {})

    assert said(moved) and said(exchanged) and said(exchanged, **told)
    assert said(moved, **told) == []


def asks(right: int):
    data = {"application/javascript": f"var questions=[{{correct: {right}}}]", "text/plain": "a quiz"}
    return new_output("display_data", data)


def test_a_quiz_is_compared_by_its_script():
    assert found([asks(1)], [asks(1)], ["nbval-ignore-output"]) == []
    assert "its script is another" in found([asks(1)], [asks(2)], ["nbval-ignore-output"])[0]


@pytest.mark.slow
def test_a_number_that_was_changed_fails_while_nbval_runs(tmp_path):
    """The hook in conftest.py: nbval alone compares no cell without its tag."""
    cells = [new_code_cell("print(0.5)", id=id, execution_count=place, outputs=[shows(text=f"{stored}\n")])
             for place, (id, stored) in enumerate([("as-it-was", 0.5), ("changed", 0.9)], 1)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "77_some.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--nbval-lax", "--nbval-current-env", "-q"]
    done = subprocess.run([*command, "77_some.ipynb"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    assert "77_some.ipynb, cell changed: a number is another: 0.9 is stored, 0.5 comes" in done.stdout, done.stderr
    assert "1 failed, 1 passed" in done.stdout


def test_a_quiz_is_not_compared_by_its_text():
    assert found([shows(text="a")], [shows(text="b")], ["nbval-ignore-output"]) == []
    assert found([shows(text="a")], [], ["nbval-skip"]) == []


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [("1,203 names", "1,203 names", True), ("1,203", "1,210", False), ("1e-05", "2e-05", True),
     ("1e-05", "1e-03", False),
     ("-0.5", "0.5", False), ("82%", "83%", False), ("[0.1 0.2]", "[ 0.1  0.2]", True), ("0.250", "0.251", True)],
)
def test_numbers_may_differ_by_a_unit_of_their_last_place(old, new, same):
    assert (text_differs(old, new) == "") == same
