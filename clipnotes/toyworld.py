"""The toy world: pictures of emoji, made by code on tensors, with captions, masks, boxes and depth.

Placement, labels, boxes and depth are integer arithmetic, so they are equal to the bit under a seed on any machine;
pixels agree within one level. Every generator returns a plain dict of tensors and lists; `as_dataset` wraps it with
the columns of a real data set, and `Stream` feeds a training loop.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from . import grammar, solids
from .grammar import REGIONS, concepts

VERSION = "1"
TRAIN_STYLES = ("noto", "twemoji", "fluent", "fluent3d", "fxemoji", "notov1")
HELD_OUT_STYLE = "emojitwo"
STYLES = (*TRAIN_STYLES, HELD_OUT_STYLE, "openmoji")
UPPER, LOWER = ("sky", "wall"), ("grass", "water", "sand", "floor", "road")
_DATA = Path(__file__).parent / "data"
_ONE = 1 << 14  # fixed-point one


@cache
def generator_hash() -> str:
    """A hash of what the generators make under one seed (integers and captions), and of the sprite sheets.

    It goes into every checkpoint's card: a model is judged on the world it was trained on.
    """
    digest = hashlib.sha256((_DATA / "sprites.json").read_bytes())
    for make in (singles, crops, counted, line_art, renders, scenes, perspective):
        batch = make(32, seed=1)
        digest.update(json.dumps(batch["captions"]).encode())
        for key in ("labels", "boxes"):
            if key in batch:
                digest.update(batch[key].numpy().tobytes())
    return digest.hexdigest()[:12]


# ---------------------------------------------------------------- sprites


@cache
def sprites() -> tuple[Tensor, Tensor]:
    """All drawings: (tiles uint8 styles x concepts x 4 x 64 x 64, premultiplied RGBA; drawn bool styles x concepts)."""
    import numpy as np
    from PIL import Image

    n = len(concepts())
    tiles = torch.zeros(len(STYLES), n, 4, 64, 64, dtype=torch.uint8)
    drawn = torch.tensor([[style in c.styles for c in concepts()] for style in STYLES])
    for i, style in enumerate(STYLES):
        sheet = Image.open(io.BytesIO((_DATA / f"sprites.{style}.webp").read_bytes())).convert("RGBa")
        grid = torch.from_numpy(np.array(sheet)).view(-1, 64, sheet.width // 64, 64, 4)
        tiles[i] = grid.permute(0, 2, 4, 1, 3).reshape(-1, 4, 64, 64)[:n]
    return tiles, drawn


@cache
def _hulls() -> Tensor:
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


# ---------------------------------------------------------------- grounds


def _noise(g: torch.Generator, n: int, size: int, cells: int) -> Tensor:
    """Smooth noise in [-1, 1]: n x 1 x size x size."""
    coarse = torch.randint(-100, 101, (n, 1, cells, cells), generator=g).float() / 100
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)


@cache
def _textures(size: int = 160, variants: int = 6) -> Tensor:
    """One bank of region textures: regions x variants x 3 x size x size in [0, 1]."""
    g = torch.Generator().manual_seed(11)
    colours = {"sky": (120, 185, 235), "grass": (95, 160, 70), "water": (40, 110, 180), "sand": (225, 200, 145),
               "wall": (205, 190, 175), "floor": (160, 115, 75), "road": (105, 105, 110)}
    y = torch.arange(size).view(1, 1, size, 1).float()
    x = torch.arange(size).view(1, 1, 1, size).float()
    bank = []
    for region in REGIONS:
        base = torch.tensor(colours[region]).view(1, 3, 1, 1) / 255
        shift = torch.randint(-100, 101, (variants, 3, 1, 1), generator=g).float() / 100
        fine, coarse = _noise(g, variants, size, size), _noise(g, variants, size, 6)
        medium = _noise(g, variants, size, 24)
        bump = {"sky": 0.16 * coarse.clamp(min=0) + 0.05 * (1 - y / size),
                "grass": 0.10 * fine + 0.06 * medium,
                "water": 0.07 * torch.sin(0.5 * y + 3 * coarse) + 0.05 * medium,
                "sand": 0.05 * fine + 0.03 * coarse,
                "wall": -0.12 * ((y % 16 < 1) | ((x + 12 * ((y // 16) % 2)) % 24 < 1)).float() + 0.02 * fine,
                "floor": -0.12 * (x % 14 < 1).float() + 0.05 * torch.sin(0.8 * y + 4 * coarse) * 0.5 + 0.03 * medium,
                "road": 0.06 * fine + 0.5 * ((x % 80 > 36) & (x % 80 < 42) & (y % 40 < 24)).float()}[region]
        bank.append((base + 0.06 * shift + bump).clamp(0, 1))
    return torch.stack(bank)


def _region(g: torch.Generator, which: Tensor, size: int) -> Tensor:
    """A crop of each region's texture: n x 3 x size x size."""
    bank = _textures()
    n, room = len(which), bank.shape[-1] - size + 1
    if room < 1:
        raise ValueError(f"pictures of the toy world are at most {bank.shape[-1]} pixels large, not {size}")
    variant = torch.randint(0, bank.shape[1], (n,), generator=g).tolist()
    corner = torch.randint(0, room, (n, 2), generator=g).tolist()
    rows = zip(which.tolist(), variant, corner, strict=True)
    return torch.stack([bank[r, v, :, y:y + size, x:x + size] for r, v, (y, x) in rows]) if n else bank[:0, 0]


def _two_regions(g: torch.Generator, n: int, size: int, horizon: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A far region above a near one: (pictures, region map n x size x size, upper n, lower n)."""
    names = list(REGIONS)
    upper = torch.tensor([names.index(u) for u in UPPER])[torch.randint(0, len(UPPER), (n,), generator=g)]
    lower = torch.tensor([names.index(u) for u in LOWER])[torch.randint(0, len(LOWER), (n,), generator=g)]
    below = torch.arange(size).view(1, size, 1) >= horizon.view(n, 1, 1)
    below = below.expand(n, size, size)
    picture = torch.where(below.unsqueeze(1), _region(g, lower, size), _region(g, upper, size))
    return picture, torch.where(below, lower.view(n, 1, 1), upper.view(n, 1, 1)), upper, lower


def _grounds(g: torch.Generator, n: int, size: int, plain: bool = False) -> tuple[Tensor, list[str], list[str]]:
    """Varied grounds: (pictures, region name or "", colour name or "") — a plain one is white."""
    if plain:
        return torch.full((n, 3, size, size), 0.97), [""] * n, [""] * n
    kind = torch.randint(0, 100, (n,), generator=g)
    which = torch.randint(0, len(REGIONS), (n,), generator=g)
    hue = torch.randint(0, len(grammar.TINTS) + 3, (n,), generator=g)
    palette = torch.tensor([*grammar.TINTS.values(), (245, 245, 245), (25, 25, 30), (128, 128, 128)]) / 255
    flat = palette[hue].view(n, 3, 1, 1).expand(n, 3, size, size)
    random = torch.randint(20, 240, (n, 3, 1, 1), generator=g) / 255
    mottled = random + 0.25 * _noise(g, n, size, 5) + 0.1 * _noise(g, n, size, 16)
    k = kind.view(n, 1, 1, 1)
    picture = torch.where(k < 45, _region(g, which, size), torch.where(k < 70, flat, mottled))
    colours = [*grammar.TINTS, "white", "black", "grey"]
    regions = [REGIONS[w] if k < 45 else "" for w, k in zip(which.tolist(), kind.tolist(), strict=True)]
    plains = [colours[h] if 45 <= k < 70 else "" for h, k in zip(hue.tolist(), kind.tolist(), strict=True)]
    return picture.clamp(0, 1), regions, plains


# ---------------------------------------------------------------- drawing


@cache
def _turns() -> Tensor:
    """cos and sin of whole degrees in fixed point: 360 x 2."""
    angles = [math.radians(d) for d in range(360)]
    return torch.tensor([(round(_ONE * math.cos(a)), round(_ONE * math.sin(a))) for a in angles])


class _Place:
    """Where n sprites go, in integers: centre, side of the tile in pixels, turn in degrees, mirrored or not."""

    def __init__(self, x: Tensor, y: Tensor, side: Tensor, degrees: Tensor | None = None, flip: Tensor | None = None):
        self.x, self.y, self.side = x, y, side
        degrees = torch.zeros_like(x) if degrees is None else degrees
        self.mirror = torch.ones_like(x) if flip is None else 1 - 2 * flip.long()
        self.cos, self.sin = _turns()[degrees % 360].unbind(-1)

    def boxes(self, hull: Tensor, size: int) -> Tensor:
        """Boxes of the turned outlines, clipped to the picture: n x 4 int64 (x0, y0, x1, y1; x1, y1 outside)."""
        hx, hy = hull[..., 0] * self.mirror[:, None], hull[..., 1]
        c, s, side = self.cos[:, None], self.sin[:, None], self.side[:, None]
        px = self.x[:, None] + (hx * c - hy * s) * side // (128 * _ONE)
        py = self.y[:, None] + (hx * s + hy * c) * side // (128 * _ONE)
        low, high = torch.stack([px.amin(1), py.amin(1)], 1), torch.stack([px.amax(1), py.amax(1)], 1) + 1
        return torch.cat([low, high], 1).clamp(0, size)

    def paint(self, canvas: Tensor, tiles: Tensor, stretch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tiles n x 4 x 64 x 64 (premultiplied, float) over the canvas: (canvas, coverage n x H x W)."""
        n, _, height, width = canvas.shape
        if n == 0:
            return canvas, canvas[:, 0]
        small = self.side <= 36  # a tile drawn at half its size or less is first averaged, or it would sparkle
        if small.any():
            tiles = tiles.clone()
            tiles[small] = F.interpolate(F.avg_pool2d(tiles[small], 2), scale_factor=2.0, mode="bilinear")
        cos, sin = self.cos / _ONE, self.sin / _ONE
        scale = self.side.float()
        sx, sy = (scale, scale) if stretch is None else (scale * stretch, scale / stretch)
        m = self.mirror.float()
        # affine_grid maps output to input coordinates; both run from -1 to 1 over the picture
        theta = torch.stack([
            torch.stack([m * cos * width / sx, m * sin * height / sx,
                         m * (cos * (width - 2 * self.x) + sin * (height - 2 * self.y)) / sx], -1),
            torch.stack([-sin * width / sy, cos * height / sy,
                         (-sin * (width - 2 * self.x) + cos * (height - 2 * self.y)) / sy], -1)], 1)
        grid = F.affine_grid(theta.float(), [n, 4, height, width], align_corners=False)
        drawn = F.grid_sample(tiles, grid, align_corners=False)
        return drawn[:, :3] + canvas * (1 - drawn[:, 3:]), drawn[:, 3]

    def masks(self, opaque: Tensor, size: int) -> Tensor:
        """Nearest-pixel masks of whole objects that are not turned, in integers: n x size x size bool.

        `opaque`: n x 64 x 64 bool, where a tile counts as ink.
        """
        half = 2 * torch.arange(size) + 1  # pixel centres, in half pixels
        side = self.side.view(-1, 1)
        u = ((half - 2 * self.x.view(-1, 1)) * self.mirror.view(-1, 1) * 32).div(side, rounding_mode="floor") + 32
        v = ((half - 2 * self.y.view(-1, 1)) * 32).div(side, rounding_mode="floor") + 32
        inside = ((v >= 0) & (v < 64)).unsqueeze(2) & ((u >= 0) & (u < 64)).unsqueeze(1)
        rows = opaque.gather(1, v.clamp(0, 63).unsqueeze(2).expand(-1, -1, 64))
        return rows.gather(2, u.clamp(0, 63).unsqueeze(1).expand(-1, size, -1)) & inside


def _dyes(g: torch.Generator, n: int, share: float) -> Tensor:
    """Tints for n objects: indices into TINTS for a `share` of them, -1 for the others."""
    return torch.where(torch.rand(n, generator=g) < share, torch.randint(0, len(grammar.TINTS), (n,), generator=g), -1)


def _tint(tiles: Tensor, tint: Tensor) -> Tensor:
    """Recolour tiles (premultiplied) by TINTS[tint]; -1 leaves them."""
    if not (tint >= 0).any():
        return tiles
    palette = torch.tensor([*grammar.TINTS.values(), (0, 0, 0)]) / 255
    light = (tiles[:, :3] * torch.tensor([0.3, 0.59, 0.11]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    dyed = palette[tint].view(-1, 3, 1, 1) * (0.35 * tiles[:, 3:] + 0.75 * light)
    return torch.cat([torch.where(tint.view(-1, 1, 1, 1) >= 0, dyed, tiles[:, :3]), tiles[:, 3:]], 1)


def _vary(g: torch.Generator, tiles: Tensor, keep_colour: Tensor) -> Tensor:
    """New artists out of the known ones: mixed channels, contrast, grey, blur, dark outlines (training only)."""
    n = len(tiles)
    rgb, alpha = tiles[:, :3], tiles[:, 3:]
    mix = torch.eye(3) + 0.25 * torch.randn(n, 3, 3, generator=g)
    grey = torch.full((3, 3), 1 / 3)
    draw = torch.rand(n, generator=g)
    mix = torch.where((draw < 0.12).view(n, 1, 1), grey, mix)
    mix = torch.where((keep_colour | (draw > 0.65)).view(n, 1, 1), torch.eye(3), mix)
    rgb = torch.einsum("nij,njhw->nihw", mix, rgb)
    gain = 0.75 + 0.5 * torch.rand(n, 1, 1, 1, generator=g)
    lift = 0.3 * torch.rand(n, 1, 1, 1, generator=g) - 0.15
    rgb = torch.minimum((rgb * gain + lift * alpha).clamp(min=0), alpha)
    tiles = torch.cat([rgb, alpha], 1)
    draw = torch.rand(n, generator=g)
    lined, flat = draw < 0.15, draw > 0.88
    if lined.any():  # a dark line around the shape and where its light changes
        part = tiles[lined]
        thick = F.max_pool2d(part[:, 3:], 3, 1, 1)
        line = (thick - -F.max_pool2d(-part[:, 3:], 3, 1, 1)) + (_edges(part) - 0.1).clamp(0, 1)
        line = line.clamp(0, 1)
        tiles[lined] = torch.cat([part[:, :3] * (1 - line), torch.maximum(thick, part[:, 3:])], 1)
    if flat.any():  # fewer colours, as a flat icon has
        part = tiles[flat]
        tiles[flat, :3] = torch.minimum((part[:, :3] * 4).round() / 4, part[:, 3:])
    return tiles


def _edges(tiles: Tensor) -> Tensor:
    """How fast a tile's light and coverage change: n x 1 x 64 x 64 in [0, 1]."""
    light = tiles[:, :3].mean(1, keepdim=True) + 0.5 * tiles[:, 3:]
    return ((F.max_pool2d(light, 3, 1, 1) + F.max_pool2d(-light, 3, 1, 1)) * 1.6).clamp(0, 1)


def _choose(g: torch.Generator, n: int, styles: Sequence[str], names: Sequence[str] | None,
            long_tail: bool = False) -> tuple[Tensor, Tensor]:
    """Concepts, then for each an artist of `styles` who drew it: (labels, styles), both n.

    `long_tail`: the names in a fixed shuffled order, drawn with frequency 1/rank; otherwise all alike.
    """
    unknown = [s for s in styles if s not in STYLES]
    if unknown:
        raise ValueError(f"unknown style {unknown[0]!r}; there are: {', '.join(STYLES)}")
    among = torch.tensor([STYLES.index(s) for s in styles])
    drawn = sprites()[1][among]
    pool = name_indices(names) if names is not None else torch.arange(drawn.shape[1])
    if long_tail:
        pool = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(5))]
    pool = pool[drawn[:, pool].any(0)]
    if long_tail:
        labels = pool[torch.multinomial(1 / torch.arange(1, len(pool) + 1).float(), n, True, generator=g)]
    else:
        labels = pool[torch.randint(0, len(pool), (n,), generator=g)]
    weights = drawn[:, labels].T.float()
    return labels, among[torch.multinomial(weights, 1, generator=g).squeeze(1)]


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


def _tiles(style: Tensor, labels: Tensor) -> Tensor:
    return sprites()[0][style, labels].float() / 255


def _third(x: Tensor, y: Tensor, size: int) -> Tensor:
    """The cell of the 3 x 3 grid of PLACES in which a centre lies."""
    return (y * 3 // size).clamp(0, 2) * 3 + (x * 3 // size).clamp(0, 2)


# ---------------------------------------------------------------- generators


def singles(n: int, seed: int = 0, size: int = 64, *, styles: Sequence[str] = TRAIN_STYLES,
            names: Sequence[str] | None = None, ground: str = "varied", tints: float = 0.0, training: bool = False,
            templates: Sequence[str] = grammar.TEMPLATES) -> dict:
    """Pictures of one object.

    `ground`: "varied" or "plain" (white); `tints`: share of recoloured objects; `training`: strong changes of style,
    events and odd turns as well. Returns images n x 3 x size x size in [0, 1]; labels, styles, tints (-1: none),
    places (a cell of the 3 x 3 grid) n; boxes n x 4 (x0, y0, x1, y1 in pixels); sides n (the tile's side in pixels);
    captions, a list of n strings.
    """
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    if ground not in ("varied", "plain"):
        raise ValueError(f'ground is "varied" or "plain", not {ground!r}')
    labels, style = _choose(g, n, styles, names)
    tint = _dyes(g, n, tints)
    side = torch.randint(size * 35 // 100, size * 105 // 100, (n,), generator=g)
    room = ((size - side) // 2 + size // 10).clamp(min=1)
    x = size // 2 + (torch.randint(-1000, 1001, (n,), generator=g) * room).div(1000, rounding_mode="trunc")
    y = size // 2 + (torch.randint(-1000, 1001, (n,), generator=g) * room).div(1000, rounding_mode="trunc")
    degrees = torch.randint(-20, 21, (n,), generator=g)
    flip = torch.randint(0, 2, (n,), generator=g)
    canvas, regions, plains = _grounds(g, n, size, ground == "plain")
    tiles = _tint(_tiles(style, labels), tint)
    stretch, event = None, torch.full((n,), -1)
    if training:
        tiles = _vary(g, tiles, tint >= 0)
        event = torch.randint(0, 16, (n,), generator=g)
        turned, faded, squashed = event == 0, event == 1, event == 2
        degrees = torch.where(turned, torch.randint(60, 301, (n,), generator=g), degrees)
        tiles = torch.where(faded.view(n, 1, 1, 1), 0.45 * tiles, tiles)
        stretch = torch.exp(0.12 * torch.randn(n, generator=g)).clamp(0.8, 1.25)
        stretch = torch.where(squashed, torch.tensor(1.5), stretch)
    place = _Place(x, y, side, degrees, flip)
    images, _ = place.paint(canvas, tiles, stretch)
    if training:
        images = _spoil(g, images)
    cells = _third(x, y, size)
    captions = []
    for i, (c, t, k, s, e) in enumerate(zip(labels.tolist(), tint.tolist(), cells.tolist(), side.tolist(),
                                            event.tolist(), strict=True)):
        sized = "small" if s < size * 0.45 else "big" if s > size * 0.85 else ""
        cue = _cue(e, sized, k, regions[i], rng) if training else ""
        told = k if s < size * 0.7 and k != 4 or rng.random() < 0.2 else -1
        captions.append(grammar.single(c, rng, tint=t, size=sized, place=told, ground=regions[i], colour=plains[i],
                                       cue=cue, templates=tuple(templates)))
    return dict(images=images.clamp(0, 1), labels=labels, styles=style, tints=tint, places=cells, sides=side,
                boxes=place.boxes(_hulls()[style, labels], size), captions=captions)


def _cue(event: int, sized: str, cell: int, region: str, rng: Random) -> str:
    """What of an event the still picture shows."""
    if event in (0, 1, 2):
        return ("turned", "fade", "squashed")[event]
    place = {1: "top", 3: "left", 5: "right", 7: "bottom"}.get(cell, "")
    options = [o for o in (sized, place, region) if o]
    return rng.choice(options) if options else ""


def _spoil(g: torch.Generator, images: Tensor) -> Tensor:
    """Noise and light as of many cameras."""
    n = len(images)
    gain = 0.8 + 0.4 * torch.rand(n, 1, 1, 1, generator=g)
    noise = 0.04 * torch.rand(n, 1, 1, 1, generator=g) * torch.randn(images.shape, generator=g)
    return images * gain + noise


def crops(n: int, seed: int = 0, size: int = 64, *, low: int = 16, high: int = 28, margin: float = 1.25,
          styles: Sequence[str] = TRAIN_STYLES, names: Sequence[str] | None = None, training: bool = False) -> dict:
    """Small objects cut out of a scene with some ground around them and enlarged, as a detector's proposals are.

    The object is `low` to `high` pixels large in its scene. Returns images, labels, styles, sides, captions.
    """
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    labels, style = _choose(g, n, styles, names)
    canvas, _, _ = _grounds(g, n, 48)
    other, other_style = _choose(g, n, styles, names)
    side = torch.randint(low, high + 1, (n,), generator=g)
    jitter = torch.randint(-3, 4, (2, n), generator=g)
    away = torch.where(torch.randint(0, 2, (2, n), generator=g) == 1, 1, -1) * (side * 9 // 10)
    tiles = _tiles(style, labels)
    if training:
        tiles = _vary(g, tiles, torch.zeros(n, dtype=torch.bool))
    flip = torch.randint(0, 2, (n,), generator=g)
    canvas, _ = _Place(24 + away[0], 24 + away[1], side).paint(canvas, _tiles(other_style, other))
    canvas, _ = _Place(24 + jitter[0], 24 + jitter[1], side, flip=flip).paint(canvas, tiles)
    half = (side * margin / 48).view(n, 1, 1)  # the part of the scene that is kept
    theta = torch.eye(2, 3).repeat(n, 1, 1) * half
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    images = F.grid_sample(canvas, grid, padding_mode="border", align_corners=False)
    templates = grammar.TEMPLATES + 6 * grammar.STYLE_TEMPLATES["crop"]
    captions = [grammar.single(c, rng, templates=templates) for c in labels.tolist()]
    return dict(images=images.clamp(0, 1), labels=labels, styles=style, sides=side, captions=captions)


def counted(n: int, seed: int = 0, size: int = 64, *, styles: Sequence[str] = TRAIN_STYLES,
            names: Sequence[str] | None = None, tints: float = 0.3, training: bool = False) -> dict:
    """Two to five copies of one object (or one): images, labels, styles, counts, tints, captions."""
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    able = [c.name for c in concepts() if grammar.countable(c.name) and (names is None or c.name in names)]
    labels, style = _choose(g, n, styles, able)
    counts = torch.randint(1, 6, (n,), generator=g)
    tint = _dyes(g, n, tints)
    canvas, _, _ = _grounds(g, n, size)
    tiles = _tint(_tiles(style, labels), tint)
    if training:
        tiles = _vary(g, tiles, tint >= 0)
    cells = torch.rand(n, 9, generator=g).argsort(1)
    for k in range(5):
        here = (counts > k).nonzero().squeeze(1)
        cell, m = cells[here, k], len(here)
        nudge = torch.randint(-size // 24, size // 24 + 1, (2, m), generator=g)
        side = torch.randint(size * 28 // 100, size * 38 // 100, (m,), generator=g)
        x, y = (cell % 3 * 2 + 1) * size // 6 + nudge[0], (cell // 3 * 2 + 1) * size // 6 + nudge[1]
        canvas[here], _ = _Place(x, y, side).paint(canvas[here], tiles[here])
    captions = [grammar.several(c, k, rng, t)
                for c, k, t in zip(labels.tolist(), counts.tolist(), tint.tolist(), strict=True)]
    return dict(images=canvas.clamp(0, 1), labels=labels, styles=style, counts=counts, tints=tint, captions=captions)


def line_art(n: int, seed: int = 0, size: int = 64, *, kind: str | None = None,
             styles: Sequence[str] = TRAIN_STYLES, names: Sequence[str] | None = None) -> dict:
    """Silhouettes, outlines and edges on paper: images, labels, styles, kinds (list), captions."""
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    labels, style = _choose(g, n, styles, names)
    tiles = _tiles(style, labels)
    alpha = tiles[:, 3:]
    rim = F.max_pool2d(alpha, 3, 1, 1) + F.max_pool2d(-alpha, 3, 1, 1)
    ink = dict(silhouette=alpha, outline=rim, edges=_edges(tiles))
    kinds = [kind or rng.choice(list(ink)) for _ in range(n)]
    pick = torch.tensor([list(ink).index(k) for k in kinds])
    cover = torch.stack(list(ink.values()))[pick, torch.arange(n)]
    shade = torch.randint(0, 90, (n, 3, 1, 1), generator=g) / 255
    paper = torch.randint(215, 256, (n, 3, 1, 1), generator=g).expand(n, 3, size, size) / 255
    side = torch.randint(size * 55 // 100, size, (n,), generator=g)
    shift = torch.randint(-size // 10, size // 10 + 1, (2, n), generator=g)
    flip = torch.randint(0, 2, (n,), generator=g)
    place = _Place(size // 2 + shift[0], size // 2 + shift[1], side, torch.randint(-15, 16, (n,), generator=g), flip)
    images, _ = place.paint(paper, torch.cat([shade * cover, cover], 1))
    captions = [grammar.single(c, rng, templates=grammar.STYLE_TEMPLATES[k])
                for c, k in zip(labels.tolist(), kinds, strict=True)]
    return dict(images=images.clamp(0, 1), labels=labels, styles=style, kinds=kinds, captions=captions)


def renders(n: int, seed: int = 0, size: int = 64, *, names: Sequence[str] | None = None) -> dict:
    """Shaded renders of solids: images, labels (indices into grammar.SOLIDS), tints (-1: grey), captions."""
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    bank = solids.bank()
    pool = torch.tensor([grammar.SOLIDS.index(s) for s in names or grammar.SOLIDS])
    labels = pool[torch.randint(0, len(pool), (n,), generator=g)]
    view = torch.randint(0, bank.shape[1], (n,), generator=g)
    light = F.normalize(torch.randn(n, 3, generator=g) * 0.5 + torch.tensor([0.0, 0.8, 0.8]), dim=1)
    tint = torch.where(torch.rand(n, generator=g) < 0.4, torch.randint(0, len(grammar.TINTS), (n,), generator=g), -1)
    palette = torch.tensor([*grammar.TINTS.values(), (200, 200, 200)]) / 255
    tiles = solids.shade(bank[labels, view], light, palette[tint])
    side = torch.randint(size * 55 // 100, size * 110 // 100, (n,), generator=g)
    shift = torch.randint(-size // 10, size // 10 + 1, (2, n), generator=g)
    level = torch.randint(150, 256, (n, 1, 1, 1), generator=g) / 255
    grounds, _, _ = _grounds(g, n, size)
    grounds = torch.where((torch.rand(n, generator=g) < 0.6).view(n, 1, 1, 1), level.expand_as(grounds), grounds)
    images, _ = _Place(size // 2 + shift[0], size // 2 + shift[1], side).paint(grounds, tiles)
    captions = []
    for i, t in zip(labels.tolist(), tint.tolist(), strict=True):
        name = grammar.SOLIDS[i]
        colour = list(grammar.TINTS)[t] + " " if t >= 0 and rng.random() < 0.8 else ""
        captions.append(rng.choice(grammar.TEMPLATES[:6] + 3 * grammar.STYLE_TEMPLATES["solid"])
                        .format(grammar.article(colour + name)))
    return dict(images=images.clamp(0, 1), labels=labels, tints=tint, captions=captions)


def scenes(n: int, seed: int = 0, size: int = 96, *, objects: tuple[int, int] = (2, 3),
           styles: Sequence[str] = TRAIN_STYLES, names: Sequence[str] | None = None, tints: float = 0.2,
           masks: bool = True, scale: tuple[int, int] = (28, 48), long_tail: bool = False) -> dict:
    """Several objects over two named regions.

    `objects`: least and most a scene; `scale`: sides in per cent of the picture; `long_tail`: names drawn with
    frequency 1/rank, as in LVIS. Returns images n x 3 x size x size; labels, styles, tints n x K (-1: no such object);
    boxes n x K x 4 (whole objects, clipped to the picture); visible n x K (share of the object that is not hidden);
    regions n x size x size (indices into REGIONS); captions; phrases (a list of lists). With `masks` also object_map
    n x size x size: the object (0 … K-1) seen at each pixel, -1 on the ground.
    Later objects hide earlier ones.
    """
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    least, most = objects
    horizon = torch.randint(size * 35 // 100, size * 60 // 100, (n,), generator=g)
    images, regions, upper, lower = _two_regions(g, n, size, horizon)
    labels = torch.full((n, most), -1)
    style, tint = labels.clone(), labels.clone()
    place, boxes = torch.zeros(n, most, 3, dtype=torch.int64), torch.zeros(n, most, 4, dtype=torch.int64)
    number = torch.randint(least, most + 1, (n,), generator=g)
    corners = torch.rand(n, 6, generator=g).argsort(1)  # 3 x 2 cells, so that objects overlap but little
    object_map = torch.full((n, size, size), -1)
    sizes_seen = torch.zeros(n, most)
    for k in range(most):
        here = (number > k).nonzero().squeeze(1)
        m = len(here)
        label, who = _choose(g, m, styles, names, long_tail)
        cell = corners[here, k]
        side = torch.randint(size * scale[0] // 100, size * scale[1] // 100 + 1, (m,), generator=g)
        nudge = torch.randint(-size // 16, size // 16 + 1, (2, m), generator=g)
        x = ((cell % 3 * 2 + 1) * size // 6 + nudge[0]).maximum(side * 2 // 5).minimum(size - side * 2 // 5)
        y = ((cell // 3 * 2 + 1) * size // 4 + nudge[1]).maximum(side * 2 // 5).minimum(size - side * 2 // 5)
        dye = _dyes(g, m, tints)
        at = _Place(x, y, side, flip=torch.randint(0, 2, (m,), generator=g))
        images[here], _ = at.paint(images[here], _tint(_tiles(who, label), dye))
        boxes[here, k] = at.boxes(_hulls()[who, label], size)
        labels[here, k], style[here, k], tint[here, k] = label, who, dye
        place[here, k] = torch.stack([x, y, side], 1)
        if masks:
            whole = at.masks(sprites()[0][who, label, 3] > 127, size)
            sizes_seen[here, k] = whole.sum((1, 2)).float()
            object_map[here] = torch.where(whole, k, object_map[here])
    out = dict(images=images.clamp(0, 1), labels=labels, styles=style, tints=tint, boxes=boxes, regions=regions)
    if masks:
        seen = torch.stack([(object_map == k).sum((1, 2)) for k in range(most)], 1)
        out |= dict(object_map=object_map, visible=seen / sizes_seen.clamp(min=1))
    told = [_tell(labels[i], tint[i], place[i], horizon[i], upper[i], lower[i], size, rng) for i in range(n)]
    return out | dict(captions=[t[0] for t in told], phrases=[t[1] for t in told])


def _tell(labels, tint, place, horizon, upper, lower, size: int, rng: Random) -> tuple[str, list[str]]:
    upper, lower, horizon = REGIONS[upper], REGIONS[lower], int(horizon)
    rows = []
    for index, dye, (x, y, side) in zip(labels.tolist(), tint.tolist(), place.tolist(), strict=True):
        if index >= 0:
            cell = min(max(y * 3 // size, 0), 2) * 3 + min(max(x * 3 // size, 0), 2)
            sized = "small" if side < size * 0.33 else "big" if side > size * 0.45 else ""
            ground = lower if y + side // 3 >= horizon else upper
            rows.append(dict(index=index, tint=dye, size=sized, place=cell, ground=ground, x=x, y=y))
    return grammar.scene(rows, upper, lower, rng)


def detection(n: int, seed: int = 0, size: int = 128, *, objects: tuple[int, int] = (2, 5), **options) -> dict:
    """Scenes for detectors: larger, fuller, smaller objects; the options and the dict are those of `scenes`."""
    return scenes(n, seed, size, objects=objects, scale=options.pop("scale", (18, 36)), **options)


def label_map(batch: dict) -> Tensor:
    """What is seen at each pixel of scenes with masks: n x size x size, a concept's label on an object,
    len(concepts()) + region on the ground; the place of its name in `label_names()`."""
    if "object_map" not in batch:
        raise ValueError("These scenes have no masks: make them with masks=True.")
    seen = batch["labels"].gather(1, batch["object_map"].clamp(min=0).flatten(1)).view_as(batch["object_map"])
    return torch.where(batch["object_map"] >= 0, seen, len(concepts()) + batch["regions"])


def label_names() -> list[str]:
    """The names behind a label map: all concepts, then the regions."""
    return [*(c.name for c in concepts()), *REGIONS]


def episodes(split: str, count: int = 5, n: int = 100, seed: int = 0, *, choose: int = 20,
             styles: Sequence[str] = TRAIN_STYLES, **options) -> list[dict]:
    """`count` batches of `n` scenes; each draws its objects from its own `choose` names of the split, as the folds of
    PASCAL-5i do. Each is the dict of `scenes` and `candidates`, the names. Only names that one of
    the styles has drawn are chosen; the options are those of `scenes`."""
    drawn = {name for style in styles for name in names(split, style)}
    pool = [name for name in names(split) if name in drawn]
    if len(pool) < choose:
        raise ValueError(f"The split {split!r} has only {len(pool)} names in these styles: choose fewer than {choose}.")
    g, rounds = torch.Generator().manual_seed(seed), []
    for k in range(count):
        candidates = [pool[i] for i in torch.randperm(len(pool), generator=g)[:choose]]
        batch = scenes(n, batch_seed(seed, k), names=candidates, styles=styles, **options)
        rounds.append(batch | dict(candidates=candidates))
    return rounds


@cache
def _growth() -> Tensor:
    """1000 times 6 ** (k / 1000), k = 0 ... 1000, in integers: distances spread evenly in their logarithm."""
    return torch.tensor([round(1000 * 6 ** (k / 1000)) for k in range(1001)])


def perspective(n: int, seed: int = 0, size: int = 64, *, objects: tuple[int, int] = (1, 2),
                styles: Sequence[str] = TRAIN_STYLES, names: Sequence[str] | None = None) -> dict:
    """Objects standing on a ground plane, seen in perspective, with haze.

    The focal length equals the picture's side. Camera height 1 to 2 m and the horizon's row (its pitch) vary.
    Returns images; labels n x K (-1: none); metres n x K (distance of each object); depth n x size x size in metres,
    0 in the sky (unknown); boxes n x K x 4; captions. Distances are whole centimetres: depth is bit-equal.
    """
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    most = objects[1]
    horizon = torch.randint(size * 22 // 100, size * 48 // 100, (n,), generator=g)
    camera = torch.randint(100, 201, (n,), generator=g)  # cm above the ground
    images, _, _, _ = _two_regions(g, n, size, horizon)
    row = torch.arange(size).view(1, size)
    drop = (2 * (row - horizon.view(n, 1)) + 1).clamp(min=1)  # half pixels below the horizon
    ground = (2 * size * camera.view(n, 1)).div(drop, rounding_mode="floor")  # cm
    ground = torch.where(row >= horizon.view(n, 1), ground, 0)
    depth = ground.view(n, size, 1).expand(n, size, size).clone()
    number = torch.randint(objects[0], most + 1, (n,), generator=g)
    # near ones are drawn last: distances fall with k
    nearest = (size * camera).div(size * 115 // 100 - horizon, rounding_mode="floor").maximum(torch.tensor(110))
    step = torch.randint(0, 1001, (n, most), generator=g)
    far = nearest.view(n, 1) * _growth()[step] // 1000
    far = far.sort(1, descending=True).values
    labels, boxes = torch.full((n, most), -1), torch.zeros(n, most, 4, dtype=torch.int64)
    metres = torch.zeros(n, most)
    for k in range(most):
        here = (number > most - 1 - k).nonzero().squeeze(1)
        m, z = len(here), far[here, k]
        label, who = _choose(g, m, styles, names)
        tall = torch.randint(90, 161, (m,), generator=g)  # cm
        side = (size * tall).div(z, rounding_mode="floor").clamp(min=6)
        foot = horizon[here] + (size * camera[here]).div(z, rounding_mode="floor")
        x = torch.randint(size * 15 // 100, size * 85 // 100 + 1, (m,), generator=g)
        at = _Place(x, foot - side // 2, side, flip=torch.randint(0, 2, (m,), generator=g))
        tiles = _tiles(who, label)
        haze = (1 - torch.exp(-z.float() / 2500)).view(m, 1, 1, 1)
        tiles = torch.cat([tiles[:, :3] * (1 - haze) + 0.8 * haze * tiles[:, 3:], tiles[:, 3:]], 1)
        images[here], _ = at.paint(images[here], tiles)
        whole = at.masks(sprites()[0][who, label, 3] > 127, size)
        depth[here] = torch.where(whole, z.view(m, 1, 1), depth[here])
        labels[here, k], metres[here, k] = label, z.float() / 100
        boxes[here, k] = at.boxes(_hulls()[who, label], size)
    captions = []
    for label, distance in zip(labels.tolist(), metres.tolist(), strict=True):
        known = [(i, d) for i, d in zip(label, distance, strict=True) if i >= 0]
        captions.append(grammar.depth(known, rng))
    return dict(images=images.clamp(0, 1), labels=labels, metres=metres, depth=depth.float() / 100, boxes=boxes,
                captions=captions)


# The share of each kind of picture in training. Depth maps, projected points and films are left out on purpose:
# they stay what they are in the papers, a domain that CLIP never saw.
MIX = {"singles": 0.40, "crops": 0.15, "counted": 0.08, "line_art": 0.08, "renders": 0.06, "scenes": 0.16,
       "perspective": 0.07}


def pretraining(n: int, seed: int = 0, size: int = 64, *, styles: Sequence[str] = TRAIN_STYLES,
                names: Sequence[str] | None = None) -> dict:
    """A shuffled batch of the training mix: images n x 3 x size x size, captions. Shares are those of MIX."""
    share = torch.tensor(list(MIX.values()))
    sizes = (share / share.sum() * n).round().long()
    sizes[0] += n - sizes.sum()
    count = dict(zip(MIX, sizes.tolist(), strict=True))
    look = dict(styles=styles, names=names)
    parts = [singles(count["singles"], seed, size, tints=0.25, training=True, **look),
             crops(count["crops"], seed + 1, size, training=True, **look),
             counted(count["counted"], seed + 2, size, training=True, **look),
             line_art(count["line_art"], seed + 3, size, **look),
             renders(count["renders"], seed + 4, size),
             scenes(count["scenes"], seed + 5, size, masks=False, **look),
             perspective(count["perspective"], seed + 6, size, **look)]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    captions = [c for p in parts for c in p["captions"]]
    return dict(images=torch.cat([p["images"] for p in parts])[order], captions=[captions[i] for i in order.tolist()])


def batch_seed(seed: int, step: int, rank: int = 0, world: int = 1) -> int:
    """The seed of a run's batch: no two steps, ranks or runs share one (`pretraining` uses a few after its own)."""
    return 16 * ((seed * 1_000_003 + step) * world + rank)


class Stream(torch.utils.data.IterableDataset):
    """An endless stream of batches of `pretraining`; workers and ranks get different seeds.

    `seed + step` decides a batch, so a run that resumes at `start` sees what it would have seen.
    """

    def __init__(self, batch: int, size: int = 64, seed: int = 0, start: int = 0, rank: int = 0, world: int = 1,
                 **look):
        self.batch, self.size, self.look = batch, size, look
        self.seed, self.start, self.rank, self.world = seed, start, rank, world

    def __iter__(self) -> Iterator[dict]:
        worker = torch.utils.data.get_worker_info()
        each, first = (worker.num_workers, worker.id) if worker else (1, 0)
        step = self.start + first
        while True:
            seed = batch_seed(self.seed, step, self.rank, self.world)
            yield pretraining(self.batch, seed, self.size, **self.look)
            step += each


def as_dataset(batch: dict):
    """A batch as a `datasets.Dataset` with the columns of the real sets: image (PIL), and caption, label, objects
    (bbox as x, y, width, height; category) where the batch has them."""
    from datasets import Dataset, Features, Image, Sequence, Value
    from torchvision.transforms.functional import to_pil_image

    rows, kinds = {"image": [to_pil_image(i) for i in batch["images"]]}, {"image": Image()}
    if "captions" in batch:
        rows["caption"], kinds["caption"] = batch["captions"], Value("string")
    if "labels" in batch and batch["labels"].dim() == 1:
        rows["label"], kinds["label"] = batch["labels"].tolist(), Value("int64")
    if "boxes" in batch and batch["boxes"].dim() == 3:
        rows["objects"] = []
        for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True):
            xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)[labels >= 0]
            rows["objects"].append(dict(bbox=xywh.tolist(), category=labels[labels >= 0].tolist()))
        kinds["objects"] = dict(bbox=Sequence(Sequence(Value("int64"))), category=Sequence(Value("int64")))
    return Dataset.from_dict(rows, features=Features(kinds))


def postcard(size: int = 96) -> dict:
    """The one fixed scene that runs through the course: a dog and a red apple on the grass, a rocket in the sky.

    Returns images 1 x 3 x size x size and the keys of `scenes`: labels, boxes, object_map, regions, captions, phrases.
    """
    g = torch.Generator().manual_seed(2021)
    names_ = ["rocket", "tree", "dog", "apple"]
    labels = name_indices(names_)
    style = torch.tensor([STYLES.index("noto")] * 4)
    spots = [(72, 22, 34), (20, 40, 44), (44, 66, 44), (78, 76, 24)]  # x, y, side in 96ths
    names_index = list(REGIONS)
    upper, lower = names_index.index("sky"), names_index.index("grass")
    horizon = torch.tensor([size * 44 // 96])
    below = (torch.arange(size) >= horizon).view(1, size, 1).expand(1, size, size)
    image = torch.where(below.unsqueeze(1), _region(g, torch.tensor([lower]), size),
                        _region(g, torch.tensor([upper]), size))
    object_map, boxes = torch.full((1, size, size), -1), []
    for k, (x, y, side) in enumerate(spots):
        one = slice(k, k + 1)
        at = _Place(*(torch.tensor([v * size // 96]) for v in (x, y, side)))
        image, _ = at.paint(image, _tiles(style[one], labels[one]))
        whole = at.masks(sprites()[0][style[one], labels[one], 3] > 127, size)
        object_map = torch.where(whole, k, object_map)
        boxes.append(at.boxes(_hulls()[style[one], labels[one]], size))
    return dict(images=image.clamp(0, 1), labels=labels.view(1, -1), styles=style.view(1, -1),
                boxes=torch.stack(boxes, 1), object_map=object_map,
                regions=torch.where(below, lower, upper),
                captions=["a dog on the grass and a rocket in the sky"],
                phrases=[["a rocket", "a tree", "a dog", "a red apple"]])
