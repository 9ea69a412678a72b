"""Figures are drawn, refuse what does not fit, stay light, and the slider needs no kernel."""

import base64
import html
import io
import re
import sys

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from clipnotes import draw

LARGE_NOISE = torch.rand(2, 3, 380, 380, generator=torch.Generator().manual_seed(0))
NOISE = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def book_style():
    draw.style()


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return torch.from_numpy(plt.imread(io.BytesIO(buffer.getvalue()))[..., :3].copy())


def has_colour(figure, colour):
    return (pixels(figure) - torch.tensor(to_rgb(colour))).abs().max(-1)[0].min() < 0.02


FIGURES = {
    "images": lambda: draw.images(NOISE[:5], ["a dog"] * 5, columns=3),
    "images in named rows": lambda: draw.images(NOISE[:5], columns=3, row_titles=["dogs", "two more"]),
    "pictures of other kinds": lambda: draw.images(
        [NOISE[0, :1], Image.new("RGB", (9, 7)), NOISE[1, :, :20]]
    ),
    "boxes": lambda: draw.boxes(NOISE[:2], [dict(boxes=[[2, 3, 9, 9]], labels=[1], scores=[0.5]), dict(boxes=[])],
                                ["a dog", "a cat"]),
    "boxes and masks": lambda: draw.boxes(NOISE[:1], [dict(boxes=torch.tensor([[2, 3, 9, 9]]),
                                                           masks=NOISE[:1, 0] > 0.5)]),
    "matrix": lambda: draw.matrix(
        torch.eye(3), NOISE[:3], ["a dog", "a cat", "a cup"], diagonal=True, title="cosine"
    ),
    "matrix, turned": lambda: draw.matrix(torch.eye(3), ["a dog", "a cat", "a cup"], NOISE[:3]),
    "bars": lambda: draw.bars(
        [0.5, 0.2], ["a", "b"], baseline=0.3, paper=0.7, intervals=[(0.4, 0.6), (0.1, 0.3)]
    ),
    "groups of bars": lambda: draw.bars({"one": [0.5, 0.2], "two": [0.1, 0.3]}, ["a", "b"]),
    "curves over named steps": lambda: draw.curves({"a": [1, 2, 3]}, ticks=["stem", "layer1", "fc"]),
    "curves": lambda: draw.curves(
        {"a": torch.rand(20), "b": ([1, 10, 100], [3, 2, 1])}, levels={"ln N": 0.5}, log_x=True
    ),
    "diagram": lambda: draw.diagram(
        {
            "i": ("images", "image", 0, 0),
            "e": ("encoder", "image frozen", 1, 0),
            "l": ("loss", "loss", 2, 0.5),
        },
        [("i", "e"), ("e", "l", "$I$")],
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_returned_and_not_left_open(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == []
    assert pixels(figure).std() > 0.02
    assert pixels(figure)[0, 0].tolist() == pytest.approx(to_rgb(draw.COLOURS["paper"]), abs=0.01)
    assert figure.get_figwidth() < 11


def test_the_name_of_a_box_stays_inside_its_picture():
    """At the top it stands in the box, at the right it ends with the box."""
    corners = [[20, 20, 40, 40], [20, 0, 40, 10], [50, 30, 64, 40]]
    found = dict(boxes=corners, labels=[0, 1, 2], scores=[0.5] * 3)
    axes = draw.boxes(torch.zeros(1, 3, 64, 64), [found], ["boxing glove"] * 3).axes[0]
    places = [(text.get_position()[0], text.get_va(), text.get_ha()) for text in axes.texts]
    assert places == [(20, "bottom", "left"), (20, "top", "left"), (64, "bottom", "right")]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: draw.images(NOISE[:2], ["one"]), "2 pictures and 1 titles"),
        (lambda: draw.images(NOISE[:5], columns=3, row_titles=["one"]), "2 rows of pictures and 1 titles"),
        (lambda: draw.images([]), "at least one"),
        (lambda: draw.boxes(NOISE[:2], [dict(boxes=[])]), "2 pictures and boxes of 1"),
        (lambda: draw.images(torch.rand(2, 4, 8, 8)), "3×H×W or 1×H×W, not"),
        (lambda: draw.matrix(torch.eye(3), ["a"] * 3, ["b"] * 2), "3 rows and 2 columns"),
        (lambda: draw.bars([1, 2], ["a"]), "1 labels"),
        (lambda: draw.diagram({"x": ("x", "melted", 0, 0)}, []), "no box kind 'melted'"),
        (lambda: draw.slider([NOISE[0]], ["one"], "step"), "at least two frames"),
        (lambda: draw.slider(NOISE[:2], ["one"], "step"), "not 2 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


def test_the_visual_language():
    def box(kind):
        return draw.diagram({"x": ("x", kind, 0, 0)}, [])

    assert has_colour(box("image trained"), draw.COLOURS["image"])
    assert has_colour(box("text trained"), draw.COLOURS["text"])
    assert has_colour(box("loss"), draw.COLOURS["loss"])
    frozen = draw._box_look("text frozen")
    assert frozen["hatch"] and "❄" in frozen["mark"] and frozen["edge"] == draw.COLOURS["text"]
    assert draw._box_look("image")["hatch"] is None


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", ["image", "text", "loss", "trained", "ink"])
def test_colours_read_well_on_paper_and_under_white_letters(name):
    for light in ("white", draw.COLOURS["paper"]):
        assert (luminance(light) + 0.05) / (luminance(draw.COLOURS[name]) + 0.05) > 4.5


def test_a_stored_figure_is_at_most_120_kilobytes():
    figure = draw.images(LARGE_NOISE, size=4)  # nothing compresses worse
    plain = io.BytesIO()
    figure.savefig(plain, format="png")
    assert plain.tell() > 300_000
    stored = draw._png(figure)
    assert 20_000 < len(stored) <= 120_000
    assert Image.open(io.BytesIO(stored)).width > 300
    light = draw.curves({"a": [1, 2, 3]})
    assert Image.open(io.BytesIO(draw._png(light))).mode == "RGBA"  # left as it is


def test_the_style_takes_over_how_a_notebook_stores_figures():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        draw.style()
        data, _ = shell.display_formatter.format(draw.images(LARGE_NOISE, size=4))
        assert len(data["image/png"]) <= 120_000 * 4 / 3
    finally:
        InteractiveShell.clear_instance()


# ---------------------------------------------------------------- slider


def frames():
    return [draw.curves({"a": [1, n]}) for n in range(2, 5)]


def test_the_slider_is_linked_in_the_browser_alone(monkeypatch):
    links, jslink = [], ipywidgets.jslink
    monkeypatch.setattr(ipywidgets, "jslink", lambda *ends: links.append(ends) or jslink(*ends))
    index, stack = draw.slider(frames(), ["step 1", "step <2>", "step 3"], "step").children
    assert isinstance(index, ipywidgets.IntSlider) and isinstance(stack, ipywidgets.Stack)
    assert (index.min, index.max, index.value, stack.selected_index) == (0, 2, 0, 0)
    assert links == [((index, "value"), (stack, "selected_index"))]
    index.value = 2
    assert stack.selected_index == 0  # no Python callback: the browser's link moves the picture


def test_each_frame_is_another_picture_with_its_alt_text():
    stack = draw.slider(frames(), ["step 1", "step <2>", "step 3"], "step").children[1]
    pages = [page.value for page in stack.children]
    assert [re.search('alt="([^"]*)"', page)[1] for page in pages] == ["step 1", "step &lt;2&gt;", "step 3"]
    codes = [re.search(r"data:image/webp;base64,([\w+/=]+)", page)[1] for page in pages]
    assert len(set(codes)) == 3
    pictures = [Image.open(io.BytesIO(base64.b64decode(code))) for code in codes]
    assert all(p.format == "WEBP" and p.width > 400 for p in pictures)
    assert all(len(code) < 40_000 for code in codes)


def test_small_pictures_are_enlarged():
    stack = draw.slider(NOISE[:2], ["one", "two"], "picture").children[1]
    code = re.search(r"base64,([\w+/=]+)", stack.children[0].value)[1]
    assert Image.open(io.BytesIO(base64.b64decode(code))).size == (192, 192)


def test_without_a_stack_all_frames_are_shown(monkeypatch, capsys):
    class Seven:
        pass

    monkeypatch.setitem(sys.modules, "ipywidgets", Seven)
    figure = draw.slider(frames(), ["a", "b", "c"], "step")
    assert isinstance(figure, Figure)
    assert sum(bool(a.images) for a in figure.axes) == 3
    assert "no Stack" in capsys.readouterr().out


def test_a_stored_slider_says_what_its_frames_show():
    cell = """
from clipnotes import draw
draw.slider([draw.curves({"a": [1, n]}) for n in (2, 3)], ["one", "<two>"], "step")
"""
    notebook = new_notebook(cells=[new_code_cell(cell)])
    NotebookClient(notebook, timeout=120, kernel_name="python3", store_widget_state=True).execute()
    output = notebook.cells[0].outputs[0]
    facts = output.metadata["clipnotes"]
    assert facts["labels"] == ["one", "<two>"]
    view, kind = (f"application/vnd.jupyter.widget-{what}+json" for what in ("view", "state"))
    state = notebook.metadata["widgets"][kind]["state"]
    assert state[output.data[view]["model_id"]]["model_name"] == "VBoxModel"  # all that a page without kernel needs
    stack = next(model["state"] for model in state.values() if model["model_name"] == "StackModel")
    pages = [state[name.removeprefix("IPY_MODEL_")]["state"]["value"] for name in stack["children"]]
    codes = [re.search(r"data:image/webp;base64,([\w+/=]+)", page)[1] for page in pages]
    assert facts["frames"] == [draw.picture_hash(base64.b64decode(code)) for code in codes]
    assert draw.hash_distance(*facts["frames"]) > 0


# ---------------------------------------------------------------- recognising a picture


def test_a_hash_is_near_where_pictures_are_alike_and_far_where_not():
    figures = [draw.curves({"a": [1, 2, 3]}), draw.bars([0.5, 0.2], ["a", "b"]), FIGURES["matrix"]()]
    stored = [draw._png(figure) for figure in figures]
    hashes = [draw.picture_hash(data) for data in stored]
    assert all(len(code) == 768 / 4 for code in hashes)
    for data, code in zip(stored, hashes, strict=True):
        picture = Image.open(io.BytesIO(data))
        assert draw.picture_hash(picture) == code
        grain = np.random.default_rng(0).integers(-3, 4, (picture.height, picture.width, 3))
        other = Image.fromarray((np.asarray(picture.convert("RGB")) + grain).clip(0, 255).astype(np.uint8))
        other = other.resize((picture.width + 4, picture.height - 2))
        assert draw.hash_distance(draw.picture_hash(other), code) < 24
    for i in range(3):
        for j in range(i):
            assert draw.hash_distance(hashes[i], hashes[j]) > 60


def test_a_hash_sees_colour():
    red, blue = (Image.new("RGB", (34, 32), "white") for _ in range(2))
    red.paste((200, 90, 90), (8, 8, 24, 24))
    blue.paste((90, 90, 200), (8, 8, 24, 24))
    assert draw.hash_distance(draw.picture_hash(red), draw.picture_hash(blue)) >= 2 * 64
    assert draw.hash_distance("0f", "f1") == 7


# ---------------------------------------------------------------- tables


def test_a_table_as_text_is_aligned_and_rounded():
    rows = {"a dog": (0.10000000149, (0.25, 0.5), None, 3), "a cat": (torch.tensor(12.5), (1, 2), "none", 44)}
    table = draw.table(rows, ["name", "share", "interval", "word", "n"], "Shares")
    assert repr(table).split("\n") == [
        "Shares",
        "name   share     interval  word   n",
        "a dog    0.1  0.25 to 0.5         3",
        "a cat   12.5       1 to 2  none  44",
    ]


def test_each_column_may_have_its_own_form():
    rows = [("one", 0.256, np.float32(1 / 3)), ("two", 0.5, (0.1, float("nan")))]
    table = draw.table(rows, ["", "%", "x"], form=["", ".0%", ".2f"])
    assert table.cells == [["one", "26%", "0.33"], ["two", "50%", "0.10 to nan"]]


def test_numbers_stand_right_and_words_left_in_both_looks():
    rows = [("4 strokes", "12 %", -1e-9), ("32 strokes", "0.5 %", 2.0)]
    table = draw.table(rows, ["kind", "share", "x"])
    assert table.right == [False, True, True]
    page = table._repr_html_()
    sides = re.findall(r"<(t[hd]) style=\"[^\"]*text-align: (\w+)\"", page)
    assert sides == [(tag, side) for tag in ("th", "td", "td") for side in ("left", "right", "right")]
    assert "color" not in page, "colours come from the page, light or dark"


def test_a_table_shows_all_text_as_it_is():
    nasty = "<script>alert('x')</script> & \"y\""
    page = draw.table({nasty: [nasty]}, [nasty, nasty], nasty)._repr_html_()
    assert "<script" not in page and page.count(html.escape(nasty)) == 5
    assert nasty in repr(draw.table({nasty: [nasty]}, ["a", "b"]))


def test_a_table_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 cells, but there are 2 titles"):
        draw.table([(1, 2, 3)], ["a", "b"])
    with pytest.raises(ValueError, match="1 forms, but 2 titles"):
        draw.table([(1, 2)], ["a", "b"], form=[".2f"])
    assert repr(draw.table([], ["a", "b"])) == "a  b"
