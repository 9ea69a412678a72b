"""Pictures of several things in one place: scenes, perspective, and the course's postcard."""

from collections.abc import Sequence
from functools import cache
from random import Random

import torch
from torch import Tensor

from clipnotes import grammar
from clipnotes.grammar import REGIONS, concepts
from clipnotes.toyworld.drawings import STYLES, TRAIN_STYLES, choose, hulls, name_indices, names, sprites, tiles_of
from clipnotes.toyworld.painting import Place, dyes, recolour, region, two_regions


def scenes(n: int, seed: int = 0, size: int = 96, *, objects: tuple[int, int] = (2, 3),
           styles: Sequence[str] = TRAIN_STYLES, names: Sequence[str] | None = None, tints: float = 0.2,
           masks: bool = True, scale: tuple[int, int] = (28, 48)) -> dict:
    """Several objects over two named regions.

    `objects`: least and most a scene; `scale`: sides in per cent of the picture.
    Returns images n x 3 x size x size; labels, styles, tints n x K (-1: no such object);
    boxes n x K x 4 (whole objects, clipped to the picture); visible n x K (share of the object that is not hidden);
    regions n x size x size (indices into REGIONS); captions; phrases (a list of lists). With `masks` also object_map
    n x size x size: the object (0 … K-1) seen at each pixel, -1 on the ground.
    Later objects hide earlier ones.
    """
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    least, most = objects
    horizon = torch.randint(size * 35 // 100, size * 60 // 100, (n,), generator=g)
    images, regions, upper, lower = two_regions(g, n, size, horizon)
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
        label, who = choose(g, m, styles, names)
        cell = corners[here, k]
        side = torch.randint(size * scale[0] // 100, size * scale[1] // 100 + 1, (m,), generator=g)
        nudge = torch.randint(-size // 16, size // 16 + 1, (2, m), generator=g)
        x = ((cell % 3 * 2 + 1) * size // 6 + nudge[0]).maximum(side * 2 // 5).minimum(size - side * 2 // 5)
        y = ((cell // 3 * 2 + 1) * size // 4 + nudge[1]).maximum(side * 2 // 5).minimum(size - side * 2 // 5)
        dye = dyes(g, m, tints)
        at = Place(x, y, side, flip=torch.randint(0, 2, (m,), generator=g))
        images[here], _ = at.paint(images[here], recolour(tiles_of(who, label), dye))
        boxes[here, k] = at.boxes(hulls()[who, label], size)
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
    rows = zip(labels, tint, place, horizon.tolist(), upper, lower, strict=True)
    told = [tell(*row, size, rng, (size * 0.33, size * 0.45)) for row in rows]
    return out | dict(captions=[t[0] for t in told], phrases=[t[1] for t in told])


def tell(labels: Tensor, tint: Tensor, place: Tensor, horizon: int, upper: Tensor, lower: Tensor, size: int,
         rng: Random, middling: tuple[float, float]) -> tuple[str, list[str]]:
    """A picture's caption and phrases.

    labels (-1: no object), tint: K; place: K x 3, centre and side; upper, lower: places in REGIONS; middling: the
    least and the largest side in pixels that the caption calls neither small nor big.
    """
    rows, far, near = [], REGIONS[upper], REGIONS[lower]
    for index, dye, (x, y, side) in zip(labels.tolist(), tint.tolist(), place.tolist(), strict=True):
        if index >= 0:
            cell = min(max(y * 3 // size, 0), 2) * 3 + min(max(x * 3 // size, 0), 2)
            sized = "small" if side < middling[0] else "big" if side > middling[1] else ""
            ground = near if y + side // 3 >= horizon else far
            rows.append(dict(index=index, tint=dye, size=sized, place=cell, ground=ground, x=x, y=y))
    return grammar.scene(rows, far, near, rng)


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
    images, _, _, _ = two_regions(g, n, size, horizon)
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
        label, who = choose(g, m, styles, names)
        tall = torch.randint(90, 161, (m,), generator=g)  # cm
        side = (size * tall).div(z, rounding_mode="floor").clamp(min=6)
        foot = horizon[here] + (size * camera[here]).div(z, rounding_mode="floor")
        x = torch.randint(size * 15 // 100, size * 85 // 100 + 1, (m,), generator=g)
        at = Place(x, foot - side // 2, side, flip=torch.randint(0, 2, (m,), generator=g))
        tiles = tiles_of(who, label)
        haze = (1 - torch.exp(-z.float() / 2500)).view(m, 1, 1, 1)
        tiles = torch.cat([tiles[:, :3] * (1 - haze) + 0.8 * haze * tiles[:, 3:], tiles[:, 3:]], 1)
        images[here], _ = at.paint(images[here], tiles)
        whole = at.masks(sprites()[0][who, label, 3] > 127, size)
        depth[here] = torch.where(whole, z.view(m, 1, 1), depth[here])
        labels[here, k], metres[here, k] = label, z.float() / 100
        boxes[here, k] = at.boxes(hulls()[who, label], size)
    captions = []
    for label, distance in zip(labels.tolist(), metres.tolist(), strict=True):
        known = [(i, d) for i, d in zip(label, distance, strict=True) if i >= 0]
        captions.append(grammar.depth(known, rng))
    return dict(images=images.clamp(0, 1), labels=labels, metres=metres, depth=depth.float() / 100, boxes=boxes,
                captions=captions)


def postcard(size: int = 96) -> dict:
    """The one fixed scene that runs through the course: a dog and a red apple on the grass, a rocket in the sky.

    Returns images 1 x 3 x size x size and the keys of `scenes`: labels, boxes, object_map, regions, captions, phrases.
    """
    g = torch.Generator().manual_seed(2021)
    labels = name_indices(["rocket", "tree", "dog", "apple"])
    style = torch.tensor([STYLES.index("noto")] * 4)
    spots = [(72, 22, 34), (20, 40, 44), (44, 66, 44), (78, 76, 24)]  # x, y, side in 96ths
    upper, lower = REGIONS.index("sky"), REGIONS.index("grass")
    horizon = torch.tensor([size * 44 // 96])
    below = (torch.arange(size) >= horizon).view(1, size, 1).expand(1, size, size)
    image = torch.where(below.unsqueeze(1), region(g, torch.tensor([lower]), size),
                        region(g, torch.tensor([upper]), size))
    object_map, boxes = torch.full((1, size, size), -1), []
    for k, (x, y, side) in enumerate(spots):
        one = slice(k, k + 1)
        at = Place(*(torch.tensor([v * size // 96]) for v in (x, y, side)))
        image, _ = at.paint(image, tiles_of(style[one], labels[one]))
        whole = at.masks(sprites()[0][style[one], labels[one], 3] > 127, size)
        object_map = torch.where(whole, k, object_map)
        boxes.append(at.boxes(hulls()[style[one], labels[one]], size))
    return dict(images=image.clamp(0, 1), labels=labels.view(1, -1), styles=style.view(1, -1),
                boxes=torch.stack(boxes, 1), object_map=object_map,
                regions=torch.where(below, lower, upper),
                captions=["a dog on the grass and a rocket in the sky"],
                phrases=[["a rocket", "a tree", "a dog", "a red apple"]])


def batch_seed(seed: int, step: int, rank: int = 0, world: int = 1) -> int:
    """The seed of a run's batch: no two steps, ranks or runs share one (`pretraining` uses a few after its own)."""
    return 16 * ((seed * 1_000_003 + step) * world + rank)
