"""The drawings of the toy world, and which of them are asked for: concepts, artists, tiles."""

import hashlib
import io
import json
import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from clipnotes.files import PACKAGE
from clipnotes.grammar import concepts

VERSION = "1"
TRAIN_STYLES = ("noto", "twemoji", "fluent", "fluent3d", "fxemoji", "notov1")
HELD_OUT_STYLE = "emojitwo"
STYLES = (*TRAIN_STYLES, HELD_OUT_STYLE, "openmoji")
_DATA = PACKAGE / "data"


@cache
def sprites() -> tuple[Tensor, Tensor]:
    """All drawings: (tiles uint8 styles x concepts x 4 x 64 x 64, premultiplied RGBA; drawn bool styles x concepts).

    Raises RuntimeError where a sheet is not the one whose sha256 sprites.json records.
    """
    import numpy as np
    from PIL import Image

    n = len(concepts())
    tiles = torch.zeros(len(STYLES), n, 4, 64, 64, dtype=torch.uint8)
    drawn = torch.tensor([[style in c.styles for c in concepts()] for style in STYLES])
    recorded = json.loads((_DATA / "sprites.json").read_text("utf-8"))["styles"]
    for i, style in enumerate(STYLES):
        data = (_DATA / f"sprites.{style}.webp").read_bytes()
        if hashlib.sha256(data).hexdigest() != recorded[style]["sha256"]:
            raise RuntimeError(f"sprites.{style}.webp is damaged: install the package again.")
        sheet = Image.open(io.BytesIO(data)).convert("RGBa")
        grid = torch.from_numpy(np.array(sheet)).view(-1, 64, sheet.width // 64, 64, 4)
        tiles[i] = grid.permute(0, 2, 4, 1, 3).reshape(-1, 4, 64, 64)[:n]
    return tiles, drawn


@cache
def hulls() -> Tensor:
    """32 outline points of each drawing, in half pixels from the tile's centre: styles x concepts x 32 x 2, int64."""
    solid = sprites()[0][:, :, 3] > 127
    steps = [2 * math.pi * k / 32 for k in range(32)]
    toward = torch.tensor([[round(100 * math.cos(a)), round(100 * math.sin(a))] for a in steps], dtype=torch.int32)
    y, x = torch.meshgrid(torch.arange(-63, 64, 2), torch.arange(-63, 64, 2), indexing="ij")
    place = torch.stack([x, y], -1).view(-1, 2).int()
    reach = place @ toward.T  # 4096 x 32
    rows = []
    for mask in solid.view(-1, 4096):
        inside = mask.nonzero().squeeze(1) if mask.any() else torch.tensor([2080])
        rows.append(place[inside[reach[inside].argmax(0)]])
    return torch.stack(rows).long().view(*solid.shape[:2], 32, 2)


def name_indices(names: Sequence[str]) -> Tensor:
    """The labels of concepts given by name; an unknown name is refused."""
    index = {c.name: i for i, c in enumerate(concepts())}
    missing = [n for n in names if n not in index]
    if missing:
        raise ValueError(f"the toy world has no {missing[0]!r}; its names are in toyworld.concepts()")
    return torch.tensor([index[n] for n in names])


def names(split: str | None = None, style: str | None = None) -> list[str]:
    """The names of a split ("base", "novel" or all), of those that a style has drawn (or all)."""
    return [c.name for c in concepts() if split in (None, c.split) and (style is None or style in c.styles)]


def tiles_of(style: Tensor, labels: Tensor) -> Tensor:
    """The drawings of n concepts by n artists: n x 4 x 64 x 64, premultiplied RGBA in [0, 1]."""
    return sprites()[0][style, labels].float() / 255


def style_indices(styles: Sequence[str]) -> Tensor:
    """The artists' places in STYLES. Raises ValueError for an unknown one."""
    if unknown := [s for s in styles if s not in STYLES]:
        raise ValueError(f"unknown style {unknown[0]!r}; there are: {', '.join(STYLES)}")
    return torch.tensor([STYLES.index(s) for s in styles])


def choose(g: torch.Generator, n: int, styles: Sequence[str], names: Sequence[str] | None) -> tuple[Tensor, Tensor]:
    """Concepts, all alike, then for each an artist of `styles` who drew it: (labels, styles), both n."""
    among = style_indices(styles)
    drawn = sprites()[1][among]
    pool = name_indices(names) if names is not None else torch.arange(drawn.shape[1])
    pool = pool[drawn[:, pool].any(0)]
    labels = pool[torch.randint(0, len(pool), (n,), generator=g)]
    weights = drawn[:, labels].T.float()
    return labels, among[torch.multinomial(weights, 1, generator=g).squeeze(1)]
