"""Stored outputs hold nothing of the run, so a second run changes nothing in git."""

import base64
import json
import shutil
import struct
import zlib

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from execute import execute, normalise, plain_png, plain_text
from notebooks import ROOT, TEMPLATE, WIDGET_STATE, WIDGET_VIEW, code_cells, read


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEAD, END = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
SIGNED = (
    HEAD + chunk(b"IHDR", b"0" * 13) + chunk(b"tEXt", b"Software\0matplotlib") + chunk(b"IDAT", b"x") + END
)


def notebook_with_widgets(ids: list[str]) -> nbformat.NotebookNode:
    """A slider linked to a picture, and a progress bar that is not shown any more."""
    box, slider, link, bar = ids
    state = {
        bar: {"model_name": "FloatProgressModel", "state": {}},
        box: {"model_name": "VBoxModel", "state": {"children": [f"IPY_MODEL_{slider}"]}},
        slider: {"model_name": "IntSliderModel", "state": {"value": 0}},
        link: {"model_name": "LinkModel", "state": {"source": [f"IPY_MODEL_{slider}", "value"]}},
    }
    view = new_output(
        "display_data",
        {WIDGET_VIEW: {"model_id": box, "version_major": 2}, "text/plain": "VBox(children=(IntSlider(),))"},
    )
    notebook = new_notebook(cells=[new_code_cell("box", id="a-box", outputs=[view])])
    notebook.metadata["widgets"] = {WIDGET_STATE: {"state": state, "version_major": 2, "version_minor": 0}}
    return notebook


def test_pictures_do_not_name_their_software():
    assert b"matplotlib" in SIGNED and b"matplotlib" not in plain_png(SIGNED)
    assert plain_png(plain_png(SIGNED)) == plain_png(SIGNED)
    assert plain_png(b"not a picture") == b"not a picture"


def test_texts_do_not_name_this_machine():
    text = plain_text(f"<object at 0x7f3a0012> in {ROOT}/chapters/x.py and {ROOT}")
    assert text == "<object> in chapters/x.py and ."


def test_outputs_are_plain():
    data = {"image/png": base64.b64encode(SIGNED).decode(), "text/plain": "<Figure at 0x7f3a0012>"}
    outputs = [
        new_output("stream", name="stdout", text="one "),
        new_output("stream", name="stderr", text="100%|####| 3/3"),
        new_output("stream", name="stdout", text="two"),
        new_output("execute_result", data, execution_count=17),
    ]
    cell = new_code_cell("x", id="a-cell", execution_count=17, outputs=outputs)
    cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01"}
    cell = normalise(new_notebook(cells=[cell])).cells[0]
    assert [o.output_type for o in cell.outputs] == ["stream", "execute_result"]
    assert cell.outputs[0].text == "one two" and cell.outputs[1].data["text/plain"] == "<Figure>"
    assert cell.execution_count == cell.outputs[1].execution_count == 1
    assert "execution" not in cell.metadata and "tEXt" not in cell.outputs[1].data["image/png"]


def test_widgets_get_stable_ids_and_leftovers_go():
    first, second = (
        normalise(notebook_with_widgets([f"{run}{n:031x}" for n in range(4)])) for run in ("a", "b")
    )
    assert first == second
    state = first.metadata.widgets[WIDGET_STATE]["state"]
    assert set(state) == {"widget-0001", "widget-0002", "widget-0003"}
    assert "FloatProgressModel" not in json.dumps(state) and "LinkModel" in json.dumps(state)
    assert first.cells[0].outputs[0].data[WIDGET_VIEW]["model_id"] == "widget-0001"
    assert normalise(first) == first


def test_a_notebook_without_widgets_keeps_no_state():
    notebook = notebook_with_widgets([f"c{n:031x}" for n in range(4)])
    notebook.cells[0].outputs = []
    assert "widgets" not in normalise(notebook).metadata


@pytest.mark.slow
def test_a_second_run_changes_nothing(tmp_path):
    copy = tmp_path / TEMPLATE.name
    shutil.copy(TEMPLATE, copy)
    shutil.copy(TEMPLATE.with_suffix(".toml"), tmp_path)  # its registered claims
    execute(copy)
    once = copy.read_text("utf-8")
    execute(copy)
    assert copy.read_text("utf-8") == once
    ran, stored = (
        [o for cell in code_cells(read(path)) for o in cell.outputs if o.output_type == "stream"]
        for path in (copy, TEMPLATE)
    )
    assert len(ran) == len(stored)


def test_a_notebook_that_raises_is_left_alone(tmp_path):
    from nbclient.exceptions import CellExecutionError

    path = tmp_path / "00_broken.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0", id="a-slip")]), path)
    before = path.read_text("utf-8")
    with pytest.raises(CellExecutionError):
        execute(path)
    assert path.read_text("utf-8") == before
