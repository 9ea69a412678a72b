"""Pictures of one thing, or of several equal things: singles, crops, counted, line_art, renders."""

from collections.abc import Sequence
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import grammar
from clipnotes.grammar import concepts
from clipnotes.toyworld import solids
from clipnotes.toyworld.drawings import TRAIN_STYLES, choose, hulls, tiles_of
from clipnotes.toyworld.painting import Place, draw_grounds, dyes, edges, recolour, vary


def _third(x: Tensor, y: Tensor, size: int) -> Tensor:
    """The cell of the 3 x 3 grid of PLACES in which a centre lies."""
    return (y * 3 // size).clamp(0, 2) * 3 + (x * 3 // size).clamp(0, 2)


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
    labels, style = choose(g, n, styles, names)
    tint = dyes(g, n, tints)
    side = torch.randint(size * 35 // 100, size * 105 // 100, (n,), generator=g)
    room = ((size - side) // 2 + size // 10).clamp(min=1)
    x = size // 2 + (torch.randint(-1000, 1001, (n,), generator=g) * room).div(1000, rounding_mode="trunc")
    y = size // 2 + (torch.randint(-1000, 1001, (n,), generator=g) * room).div(1000, rounding_mode="trunc")
    degrees = torch.randint(-20, 21, (n,), generator=g)
    flip = torch.randint(0, 2, (n,), generator=g)
    canvas, regions, plains = draw_grounds(g, n, size, ground == "plain")
    tiles = recolour(tiles_of(style, labels), tint)
    stretch, event = None, torch.full((n,), -1)
    if training:
        tiles = vary(g, tiles, tint >= 0)
        event = torch.randint(0, 16, (n,), generator=g)
        turned, faded, squashed = event == 0, event == 1, event == 2
        degrees = torch.where(turned, torch.randint(60, 301, (n,), generator=g), degrees)
        tiles = torch.where(faded.view(n, 1, 1, 1), 0.45 * tiles, tiles)
        stretch = torch.exp(0.12 * torch.randn(n, generator=g)).clamp(0.8, 1.25)
        stretch = torch.where(squashed, torch.tensor(1.5), stretch)
    place = Place(x, y, side, degrees, flip)
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
                boxes=place.boxes(hulls()[style, labels], size), captions=captions)


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
    labels, style = choose(g, n, styles, names)
    canvas, _, _ = draw_grounds(g, n, 48)
    other, other_style = choose(g, n, styles, names)
    side = torch.randint(low, high + 1, (n,), generator=g)
    jitter = torch.randint(-3, 4, (2, n), generator=g)
    away = torch.where(torch.randint(0, 2, (2, n), generator=g) == 1, 1, -1) * (side * 9 // 10)
    tiles = tiles_of(style, labels)
    if training:
        tiles = vary(g, tiles, torch.zeros(n, dtype=torch.bool))
    flip = torch.randint(0, 2, (n,), generator=g)
    canvas, _ = Place(24 + away[0], 24 + away[1], side).paint(canvas, tiles_of(other_style, other))
    canvas, _ = Place(24 + jitter[0], 24 + jitter[1], side, flip=flip).paint(canvas, tiles)
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
    labels, style = choose(g, n, styles, able)
    counts = torch.randint(1, 6, (n,), generator=g)
    tint = dyes(g, n, tints)
    canvas, _, _ = draw_grounds(g, n, size)
    tiles = recolour(tiles_of(style, labels), tint)
    if training:
        tiles = vary(g, tiles, tint >= 0)
    cells = torch.rand(n, 9, generator=g).argsort(1)
    for k in range(5):
        here = (counts > k).nonzero().squeeze(1)
        cell, m = cells[here, k], len(here)
        nudge = torch.randint(-size // 24, size // 24 + 1, (2, m), generator=g)
        side = torch.randint(size * 28 // 100, size * 38 // 100, (m,), generator=g)
        x, y = (cell % 3 * 2 + 1) * size // 6 + nudge[0], (cell // 3 * 2 + 1) * size // 6 + nudge[1]
        canvas[here], _ = Place(x, y, side).paint(canvas[here], tiles[here])
    captions = [grammar.several(c, k, rng, t)
                for c, k, t in zip(labels.tolist(), counts.tolist(), tint.tolist(), strict=True)]
    return dict(images=canvas.clamp(0, 1), labels=labels, styles=style, counts=counts, tints=tint, captions=captions)


def line_art(n: int, seed: int = 0, size: int = 64, *, kind: str | None = None,
             styles: Sequence[str] = TRAIN_STYLES, names: Sequence[str] | None = None) -> dict:
    """Silhouettes, outlines and edges on paper: images, labels, styles, kinds (list), captions."""
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    labels, style = choose(g, n, styles, names)
    tiles = tiles_of(style, labels)
    alpha = tiles[:, 3:]
    rim = F.max_pool2d(alpha, 3, 1, 1) + F.max_pool2d(-alpha, 3, 1, 1)
    ink = dict(silhouette=alpha, outline=rim, edges=edges(tiles))
    kinds = [kind or rng.choice(list(ink)) for _ in range(n)]
    pick = torch.tensor([list(ink).index(k) for k in kinds])
    cover = torch.stack(list(ink.values()))[pick, torch.arange(n)]
    shade = torch.randint(0, 90, (n, 3, 1, 1), generator=g) / 255
    paper = torch.randint(215, 256, (n, 3, 1, 1), generator=g).expand(n, 3, size, size) / 255
    side = torch.randint(size * 55 // 100, size, (n,), generator=g)
    shift = torch.randint(-size // 10, size // 10 + 1, (2, n), generator=g)
    flip = torch.randint(0, 2, (n,), generator=g)
    place = Place(size // 2 + shift[0], size // 2 + shift[1], side, torch.randint(-15, 16, (n,), generator=g), flip)
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
    tint = dyes(g, n, 0.4)
    palette = torch.tensor([*grammar.TINTS.values(), (200, 200, 200)]) / 255
    tiles = solids.shade(bank[labels, view], light, palette[tint])
    side = torch.randint(size * 55 // 100, size * 110 // 100, (n,), generator=g)
    shift = torch.randint(-size // 10, size // 10 + 1, (2, n), generator=g)
    level = torch.randint(150, 256, (n, 1, 1, 1), generator=g) / 255
    grounds, _, _ = draw_grounds(g, n, size)
    grounds = torch.where((torch.rand(n, generator=g) < 0.6).view(n, 1, 1, 1), level.expand_as(grounds), grounds)
    images, _ = Place(size // 2 + shift[0], size // 2 + shift[1], side).paint(grounds, tiles)
    captions = []
    for i, t in zip(labels.tolist(), tint.tolist(), strict=True):
        name = grammar.SOLIDS[i]
        colour = list(grammar.TINTS)[t] + " " if t >= 0 and rng.random() < 0.8 else ""
        captions.append(rng.choice(grammar.TEMPLATES[:6] + 3 * grammar.STYLE_TEMPLATES["solid"])
                        .format(grammar.article(colour + name)))
    return dict(images=images.clamp(0, 1), labels=labels, tints=tint, captions=captions)
