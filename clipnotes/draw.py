"""Figures in the book's visual language.

Colours: blue is for images, orange for texts, red for losses. A grey, hatched box with a snowflake is
frozen; a box filled with its colour is trained; a pale box with a coloured edge is data. Figures are light
cards with dark ink, so they read on a light page and on a dark one. Every function returns what it drew and
shows nothing by itself.
"""

import base64
import html
import io
import re
import sys
from collections.abc import Mapping, Sequence
from textwrap import wrap
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from PIL import Image
from torch import Tensor

COLOURS = MappingProxyType({
    "image": "#2166ac", "text": "#b95800", "loss": "#c0262d", "trained": "#1b7f5c", "frozen": "#7d8793",
    "ink": "#22272e", "paper": "#fcfcfa",
})
SIMILARITY = LinearSegmentedColormap.from_list(
    "similarity", ["#fcfcfa", "#cfdcec", "#7fa3cc", "#2166ac", "#0b2f5c"]
)


def style() -> None:
    """Set matplotlib to the book's look. `clipnotes.start` calls it."""
    cycle = [COLOURS[k] for k in ("image", "text", "trained", "loss", "frozen")] + ["#7b4fa3", "#b8860b"]
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    paper = ("figure.facecolor", "savefig.facecolor", "axes.facecolor")
    plt.rcParams.update(dict.fromkeys(ink, COLOURS["ink"]) | dict.fromkeys(paper, COLOURS["paper"]) | {
        "figure.dpi": 96, "savefig.dpi": "figure", "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 11,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "#dddddd",
        "lines.linewidth": 2, "legend.frameon": False, "hatch.linewidth": 0.6,
        "axes.prop_cycle": plt.cycler(color=cycle),
    })
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.display_formatter.formatters["image/png"].for_type(LightFigure, _png)


class LightFigure(Figure):
    """A figure that a notebook stores by `_png`, once `style` has said so."""


def _png(figure: Figure, limit: int = 110_000) -> bytes:
    """A figure as PNG of at most `limit` bytes: notebooks with stored outputs must stay light.

    Photographs compress badly: first the number of colours is cut to 256, then the size.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.05)
    if buffer.tell() <= limit:
        return buffer.getvalue()
    picture, scale = Image.open(buffer).convert("RGB"), 1.0
    while buffer.tell() > limit:
        size = round(picture.width * scale), round(picture.height * scale)
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).quantize(256).save(buffer, "PNG")
        scale *= 0.97 * min(1.0, (limit / buffer.tell()) ** 0.5)
    return buffer.getvalue()


# ---------------------------------------------------------------- pictures


def _subplots(*arguments: Any, **options: Any) -> tuple[Figure, Any]:
    return plt.subplots(*arguments, FigureClass=LightFigure, **options)


def _done(figure: Figure) -> Figure:
    """Take the figure out of pyplot's list: as the last line of a cell it then shows once, not twice."""
    plt.close(figure)
    return figure


def _pixels(image: Any) -> np.ndarray:
    """A tensor 3×H×W or 1×H×W in [0, 1], a PIL image or an array H×W×3 -> H×W×3 uint8."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"A picture is 3×H×W or 1×H×W, not {tuple(image.shape)}.")
        image = image.detach().cpu().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        return np.repeat(image, 3, 2) if image.shape[2] == 1 else image
    return np.asarray(image)


def _show(axes: Axes, image: Any) -> None:
    pixels = _pixels(image)
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) <= 128 else "antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def images(
    batch: Tensor | Sequence[Any],
    titles: Sequence[str] | None = None,
    columns: int = 8,
    size: float = 1.15,
    row_titles: Sequence[str] | None = None,
) -> Figure:
    """A sheet of pictures. batch: B×3×H×W in [0, 1], or a list of any sizes. size: inches a picture.

    titles: one above each picture; row_titles: one to the left of each row.
    """
    count = len(batch)
    if count == 0 or (titles is not None and len(titles) != count):
        raise ValueError(
            f"There are {count} pictures and {len(titles or ())} titles. Give at least one, and equally many."
        )
    columns = min(columns, count)
    rows = -(-count // columns)
    if row_titles is not None and len(row_titles) != rows:
        raise ValueError(f"There are {rows} rows of pictures and {len(row_titles)} titles for them.")
    texts = ["\n".join(wrap(t, int(13 * size))) for t in titles] if titles is not None else [""] * count
    lines = max(t.count("\n") + bool(t) for t in texts)
    left = 0.08 * max(len(line) for text in row_titles or [""] for line in text.split("\n"))  # inches of letters
    figure, grid = _subplots(
        rows, columns, figsize=(columns * size + left, rows * (size + 0.17 * lines)), squeeze=False
    )
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    for axes, image, text in zip(grid.flat, batch, texts, strict=False):
        _show(axes, image)
        axes.set_title(text, fontsize=9, pad=3)
    for axes, text in zip(grid[:, 0], row_titles or [], strict=False):
        axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)
    return _done(figure)


def boxes(batch: Tensor | Sequence[Any], found: Sequence[Mapping], names: Sequence[str] | None = None,
          titles: Sequence[str] | None = None, columns: int = 4, size: float = 2.3) -> Figure:
    """Pictures with boxes, each name in a colour of its own that is the same in all pictures.

    batch: as in `images`. found: a dict a picture, as `metrics.match_boxes` takes it: boxes N×4 in pixels, and where
    they are there labels N (places in `names`), scores N (from 0 to 1), masks N×H×W. titles: one above each picture.
    """
    if len(found) != len(batch):
        raise ValueError(f"There are {len(batch)} pictures and boxes of {len(found)}. Give one dict a picture.")
    figure, shown = images(batch, titles, columns, size), {}
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for axes, rows in zip(figure.axes, found, strict=False):
        corners = torch.as_tensor(rows["boxes"]).reshape(-1, 4).tolist()
        labels = torch.as_tensor(rows.get("labels", [0] * len(corners))).tolist()
        for place, (x0, y0, x1, y1) in enumerate(corners):
            colour = cycle[shown.setdefault(labels[place], len(shown)) % len(cycle)]
            axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=1.6))
            if "masks" in rows:
                mask = torch.as_tensor(rows["masks"][place]).float().numpy()
                axes.contour(mask, [0.5], colors=[colour], linewidths=1)
            text = names[labels[place]] if names is not None else ""
            text += f" {rows['scores'][place]:.2f}" if "scores" in rows else ""
            if text:
                _tag(axes, (x0, y0, x1), text.strip(), colour)
    return figure


def _tag(axes: Axes, edges: tuple[float, float, float], text: str, colour: str) -> None:
    """A name above a box (x0, y0, x1), or inside where there is no room; it ends with the box near the right edge."""
    (x0, y0, x1), width, height = edges, axes.get_xlim()[1], axes.get_ylim()[0]
    high, late = y0 < 0.08 * height, x0 > 0.6 * width
    axes.text(x1 if late else x0, y0 + 1 if high else y0 - 1, text, fontsize=7.5, color="white", clip_on=True,
              va="top" if high else "bottom", ha="right" if late else "left",
              bbox=dict(facecolor=colour, edgecolor="none", pad=0.8, alpha=0.85))


def _headers(axes: Axes, items: Any, side: str) -> None:
    """Texts or pictures along the left side or the top of a matrix."""
    if not isinstance(items[0], str):
        for i, item in enumerate(items):
            place = [-1.5, i - 0.46, 0.92, 0.92] if side == "left" else [i - 0.46, -1.5, 0.92, 0.92]
            _show(axes.inset_axes(place, transform=axes.transData), item)
        axes.set(**{"yticks" if side == "left" else "xticks": []})
    elif side == "left":
        axes.set_yticks(range(len(items)), ["\n".join(wrap(t, 24)) for t in items], color=COLOURS["text"])
    else:
        slant = dict(rotation=40, ha="left", rotation_mode="anchor") if max(map(len, items)) > 6 else {}
        axes.set_xticks(range(len(items)), items, color=COLOURS["text"], **slant)


def matrix(
    logits: Tensor,
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    title: str = "",
    numbers: bool | None = None,
    diagonal: bool = False,
    limits: tuple[float, float] | None = None,
    form: str = ".2f",
) -> Figure:
    """A similarity matrix with its rows' items on the left and its columns' on the top: pictures or texts.

    logits: B×N. numbers: write them into the cells (default: up to 10 columns); form: how.
    diagonal: frame the cells of true pairs. limits: values of the palest and the darkest colour.
    """
    values = torch.as_tensor(logits).detach().cpu().float().numpy()
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"The matrix is {values.shape}, but there are {len(rows)} rows and {len(columns)} columns."
        )
    low, high = limits or (values.min(), values.max())
    b, n = values.shape
    cell = min(0.75, 6.5 / max(b, n))
    figure, axes = _subplots(figsize=(cell * n + 2.2, cell * b + 1.6))
    axes.imshow(values, cmap=SIMILARITY, vmin=low, vmax=high)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelsize=9)
    _headers(axes, rows, "left")
    _headers(axes, columns, "top")
    if numbers if numbers is not None else n <= 10:
        for (i, j), v in np.ndenumerate(values):
            ink = "white" if v > low + 0.55 * (high - low) else COLOURS["ink"]
            axes.text(j, i, format(v, form), ha="center", va="center", color=ink, fontsize=9)
    if diagonal:
        for i in range(min(b, n)):
            axes.add_patch(
                plt.Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=COLOURS["text"], lw=2)
            )
    if title:
        axes.set_xlabel(title)
    return _done(figure)


# ---------------------------------------------------------------- measurements


def bars(
    values: Sequence[float] | Mapping[str, Sequence[float]],
    labels: Sequence[str],
    *,
    baseline: float | None = None,
    baseline_label: str = "baseline",
    paper: float | None = None,
    intervals: Sequence[tuple[float, float]] | None = None,
    xlabel: str = "",
    form: str = ".2f",
) -> Figure:
    """Horizontal bars, one a label; a mapping of series gives groups of bars.

    baseline, paper: a dashed and a dotted line. intervals: (low, high) per bar, for a single series.
    """
    series = {
        name: [float(v) for v in vs]
        for name, vs in (values.items() if isinstance(values, Mapping) else [("", values)])
    }
    if any(len(vs) != len(labels) for vs in series.values()):
        raise ValueError(f"Give one value per label: there are {len(labels)} labels.")
    height = 0.8 / len(series)
    figure, axes = _subplots(figsize=(7, 0.9 + len(labels) * max(0.36, 0.24 * len(series))))
    for s, (name, vs) in enumerate(series.items()):
        y = np.arange(len(labels)) - 0.4 + height * (s + 0.5)
        axes.barh(y, vs, height * 0.92, label=name or None, color=f"C{s}")
        for i, v in enumerate(vs):
            low, high = intervals[i] if intervals else (v, v)
            if intervals:
                axes.plot([low, high], [y[i], y[i]], color=COLOURS["ink"], lw=1.2, marker="|", ms=7)
            halo = [patheffects.withStroke(linewidth=3, foreground=COLOURS["paper"])]
            axes.annotate(format(v, form), (max(v, high, 0), y[i]), (4, 0), textcoords="offset points",
                          va="center", fontsize=9, path_effects=halo)
    lines = ((baseline, baseline_label, "loss", "--"), (paper, "paper", "ink", ":"))
    for place, name, colour, dashes in lines:
        if place is not None:
            label = f"{name} {format(place, form)}"
            axes.axvline(place, color=COLOURS[colour], ls=dashes, lw=1.5, label=label)
    axes.set(yticks=range(len(labels)), yticklabels=labels, xlabel=xlabel)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="x")
    if len(series) > 1 or baseline is not None or paper is not None:
        figure.legend(loc="outside upper right", fontsize=9, ncols=4)
    return _done(figure)


def curves(
    series: Mapping[str, Any],
    *,
    xlabel: str = "",
    ylabel: str = "",
    levels: Mapping[str, float] | None = None,
    log_x: bool = False,
    ticks: Sequence[str] | None = None,
) -> Figure:
    """Lines over steps. series: name -> values, or (x, values); levels: name -> height of a dashed line.

    ticks: names of the steps 0, 1, ..., in the place of numbers.
    """
    figure, axes = _subplots(figsize=(7, 3.4))
    for name, data in series.items():
        x, y = data if isinstance(data, tuple) else (range(len(data)), data)
        x, y = (torch.as_tensor(v).detach().cpu().numpy() for v in (list(x), list(y)))
        axes.plot(x, y, label=name, marker="o" if len(y) <= 12 else None)
    for name, level in (levels or {}).items():
        axes.axhline(level, color=COLOURS["ink"], ls="--", lw=1.2)
        axes.annotate(name, (1, level), (-2, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", fontsize=9)
    if log_x:
        axes.set_xscale("log")
    if ticks is not None:
        axes.set_xticks(range(len(ticks)), ticks)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid()
    if len(series) > 1:
        axes.legend(fontsize=9)
    return _done(figure)


# ---------------------------------------------------------------- diagrams


def _box_look(kind: str) -> dict[str, Any]:
    """How a kind of box looks: "image", "text frozen", "image trained", "loss", "plain", ..."""
    words = kind.split()
    if unknown := set(words or ["nothing"]) - {"image", "text", "loss", "frozen", "trained", "plain"}:
        raise ValueError(
            f"There is no box kind {unknown.pop()!r}. Write image, text, loss, frozen, trained, plain."
        )
    if kind == "plain":
        return dict(face=COLOURS["paper"], edge=COLOURS["ink"], ink=COLOURS["ink"], hatch=None, mark="")
    hue = next((w for w in words if w in ("image", "text", "loss")), words[0])
    colour = np.array(to_rgb(COLOURS[hue]))
    pale = tuple(0.85 + 0.15 * colour)
    if "frozen" in words:
        return dict(face="#e9ecef", edge=COLOURS[hue], ink=COLOURS["ink"], hatch="////", mark="❄ ")
    if "trained" in words or hue == "loss":
        return dict(face=COLOURS[hue], edge=COLOURS[hue], ink="white", hatch=None, mark="")
    return dict(face=pale, edge=COLOURS[hue], ink=COLOURS["ink"], hatch=None, mark="")


def _box(axes: Axes, label: str, kind: str, x: float, y: float, size: tuple[float, float]) -> FancyBboxPatch:
    """One box of a diagram around (x, y); size in units of the axes, the corners round in inches."""
    look, corner = _box_look(kind), (x - size[0] / 2, y - size[1] / 2)
    shape = dict(boxstyle="round,pad=0,rounding_size=0.06", mutation_aspect=1.8)
    box = FancyBboxPatch(corner, *size, facecolor=look["face"], edgecolor=look["edge"], lw=1.8, **shape)
    axes.add_patch(box)
    if look["hatch"]:
        axes.add_patch(
            FancyBboxPatch(corner, *size, fill=False, hatch=look["hatch"], edgecolor="#c3cad1", lw=0, **shape)
        )
    halo = [patheffects.withStroke(linewidth=3, foreground=look["face"])]
    axes.text(x, y, look["mark"] + label, ha="center", va="center", fontsize=10, color=look["ink"],
              path_effects=halo, linespacing=1.15)
    return box


def diagram(
    nodes: Mapping[str, tuple[str, str, float, float]],
    edges: Sequence[tuple[str, ...]],
    cell: tuple[float, float] = (1.75, 0.95),
) -> Figure:
    """Boxes and arrows. nodes: key -> (label, kind, column, row), row 0 on top; fractions are fine.

    kind: "image" or "text", alone for data, or with "frozen" or "trained"; these two alone; "loss"; "plain"
    for a computation without weights.
    edges: (from, to) or (from, to, label). cell: inches from one column and row to the next.
    """
    xs, ys = [n[2] for n in nodes.values()], [n[3] for n in nodes.values()]
    spans = max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
    figure, axes = _subplots(figsize=(cell[0] * spans[0], cell[1] * spans[1]))
    axes.set(xlim=(min(xs) - 0.5, max(xs) + 0.5), ylim=(max(ys) + 0.5, min(ys) - 0.5))
    axes.set_axis_off()
    boxes = {key: _box(axes, *node, size=(0.82, 0.58)) for key, node in nodes.items()}
    for start, end, *label in edges:
        (x0, y0), (x1, y1) = (nodes[k][2:4] for k in (start, end))
        ends = dict(patchA=boxes[start], patchB=boxes[end], shrinkA=1, shrinkB=1)
        look = dict(arrowstyle="-|>", mutation_scale=13, color=COLOURS["ink"], lw=1.4)
        axes.add_patch(FancyArrowPatch((x0, y0), (x1, y1), **ends, **look))
        if label and label[0]:
            paper = dict(facecolor=COLOURS["paper"], edgecolor="none", pad=1)
            middle = ((x0 + x1) / 2, (y0 + y1) / 2)
            axes.text(*middle, label[0], ha="center", va="center", fontsize=9, bbox=paper)
    _legend(figure, {word for n in nodes.values() for word in n[1].split()})
    return _done(figure)


def _legend(figure: Figure, words: set[str]) -> None:
    """Say what the looks mean, for those that the diagram uses."""
    meanings = {"image": "images", "text": "texts", "trained": "filled: trained", "frozen": "❄ frozen",
                "loss": "loss"}
    looks = {label: _box_look(word) for word, label in meanings.items() if word in words}
    if "trained" in words:
        looks[meanings["trained"]] |= dict(face=COLOURS["ink"], edge=COLOURS["ink"])
    handles = [
        Patch(facecolor=look["face"], edgecolor=look["edge"], hatch=look["hatch"], label=label)
        for label, look in looks.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8.5, handlelength=1.4
    )


# ---------------------------------------------------------------- a slider that needs no kernel


def _webp(frame: Any) -> bytes:
    """A figure or a picture as WebP, small enough for a dozen frames in a notebook."""
    if isinstance(frame, Figure):
        buffer = io.BytesIO()
        frame.savefig(buffer, format="png")
        frame = Image.open(buffer)
    picture = frame.convert("RGB") if isinstance(frame, Image.Image) else Image.fromarray(_pixels(frame))
    if max(picture.size) <= 128:  # small pictures: larger, with visible pixels
        picture = picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80, method=6)
    return buffer.getvalue()


def slider(frames: Sequence[Any], labels: Sequence[str], description: str) -> Any:
    """Pictures or figures to leaf through with a slider, alive in the published page without a kernel.

    frames: figures or pictures; labels: one sentence a frame, shown above it and read aloud as its alt
    text; description: what the slider changes. Returns an ipywidgets VBox. The browser links the slider to
    the frame; no Python runs. What a notebook stores of it carries the labels and each frame's picture_hash,
    so that frames that changed places are noticed. On ipywidgets 7 (no Stack) it prints so and returns a
    sheet with all frames.
    """
    import ipywidgets

    if len(frames) != len(labels) or len(frames) < 2:
        raise ValueError(
            f"Give at least two frames and a label for each, not {len(frames)} and {len(labels)}."
        )
    encoded = [_webp(frame) for frame in frames]
    if not hasattr(ipywidgets, "Stack"):
        print(f"{description}: this ipywidgets has no Stack, so all frames are shown at once.")
        return images([Image.open(io.BytesIO(data)) for data in encoded], labels, columns=2, size=4.0)
    pages = []
    for data, label in zip(encoded, labels, strict=True):
        text, code = html.escape(label), base64.b64encode(data).decode()
        pages.append(
            ipywidgets.HTML(
                f'<p>{text}</p><img class="clipnotes-frame" alt="{text}" style="max-width: 100%" '
                f'src="data:image/webp;base64,{code}">'
            )
        )
    stack = ipywidgets.Stack(pages, selected_index=0)
    index = ipywidgets.IntSlider(
        value=0, min=0, max=len(frames) - 1, description=description, readout=False,
        style={"description_width": "initial"}, layout={"width": "95%", "max_width": "36em"},
    )
    ipywidgets.jslink((index, "value"), (stack, "selected_index"))
    facts = {"frames": [picture_hash(data) for data in encoded], "labels": list(labels)}
    return _carrying(facts, [index, stack])


def _carrying(facts: dict[str, Any], children: list[Any]) -> Any:
    """A VBox whose stored output has `facts` in its metadata."""
    from ipywidgets import VBox  # not at the top: ipywidgets 7 has no Stack, and is not asked for one

    class Slider(VBox):
        def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            return super()._repr_mimebundle_(**options), {"clipnotes": facts}

    return Slider(children)


# ---------------------------------------------------------------- tables


NUMBER = re.compile(r"(?:(?: to |, )?[-+−]?(?:[\d.,]+(?:e[-+]?\d+)?|nan|inf) ?%?)+")  # or several


class Table:
    """Cells of text below a head: a small HTML table in a notebook, aligned columns in a terminal.

    A column of numbers is aligned to the right.
    """

    def __init__(self, cells: list[list[str]], head: Sequence[str], caption: str):
        self.cells, self.head, self.caption = cells, [str(title) for title in head], caption
        columns = zip(*cells, strict=True) if cells else [()] * len(head)
        self.right = [all(NUMBER.fullmatch(cell) for cell in column if cell) for column in columns]

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.cells, strict=True)]
        lines = [self.caption] if self.caption else []
        for row in (self.head, *self.cells):
            cells = zip(row, widths, self.right, strict=True)
            line = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells]
            lines.append("  ".join(line).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        head, body = self._line(self.head, "th"), "\n".join(self._line(row, "td") for row in self.cells)
        return (f'<table class="dataframe clipnotes-table">{caption}\n<thead>{head}</thead>\n'
                f"<tbody>\n{body}\n</tbody></table>")

    def _line(self, row: Sequence[str], tag: str) -> str:
        cells = []
        for cell, right in zip(row, self.right, strict=True):
            look = f"padding: 0.2em 0.8em; text-align: {'right' if right else 'left'}"
            cells.append(f'<{tag} style="{look}">{html.escape(cell)}</{tag}>')
        return f"<tr>{''.join(cells)}</tr>"


def _cell(value: Any, form: str) -> str:
    """A cell as text: fractions by `form`, an interval as "low to high", nothing for None."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, (tuple, list)):
        return (" to " if len(value) == 2 else ", ").join(_cell(v, form) for v in value)
    return format(value, form) if isinstance(value, float) else str(value)


def table(rows: Sequence[Sequence[Any]] | Mapping[str, Any], head: Sequence[str], caption: str = "",
          form: str | Sequence[str] = ".3g") -> Table:
    """A small table. rows: one a line, or a mapping name -> the rest of the row; head: a title a column.

    Floats are written by `form`, one for all columns or one a column; a pair (low, high) as "low to high",
    None as nothing; all text is escaped. Raises ValueError where a row or the forms are not as many as the
    titles.
    """
    forms = [form] * len(head) if isinstance(form, str) else form
    if isinstance(rows, Mapping):
        rows = [(name, *(rest if isinstance(rest, (list, tuple)) else [rest])) for name, rest in rows.items()]
    if wrong := [row for row in rows if len(row) != len(head)]:
        raise ValueError(f"A row has {len(wrong[0])} cells, but there are {len(head)} titles.")
    if len(forms) != len(head):
        raise ValueError(f"There are {len(forms)} forms, but {len(head)} titles.")
    cells = [[_cell(value, form) for value, form in zip(row, forms, strict=True)] for row in rows]
    return Table(cells, head, caption)


# ---------------------------------------------------------------- recognising a picture


def picture_hash(picture: Any) -> str:
    """A perceptual hash of a picture (PIL, or the bytes of a file): alike pictures have near hashes.

    768 bits in hex, three a place of 16×16: does it grow brighter to the right, is it reddish, is it bluish?
    """
    if isinstance(picture, bytes):
        picture = Image.open(io.BytesIO(picture))
    small = np.asarray(picture.convert("RGB").resize((17, 16), Image.Resampling.BOX), dtype=np.int32)
    light, warmth = small.sum(2), (small[..., 0] - small[..., 2])[:, :16]
    return np.packbits([light[:, 1:] > light[:, :-1] + 3, warmth > 12, warmth < -12]).tobytes().hex()


def hash_distance(one: str, other: str) -> int:
    """How many of the bits of two hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()
