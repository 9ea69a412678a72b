"""Pictures for detectors: several objects of all sizes that hide parts of each other, names with a long tail.

As in LVIS, a few names stand in most training pictures, and many in few: the name of rank r is drawn with frequency
1/r. The first 26 names are frequent, the next 54 common; the last 40 are rare, and are `novel` names of the toy world.
In 4,000 training pictures that is more than 100 objects of a frequent name, 33 to 97 of a common one, 22 to 32 of a
rare one. LVIS calls a name rare that is marked in at most ten pictures: `annotated` marks as few.

A detector is trained on the frequent and common names (the base). Rare objects stand in its pictures, without labels.
Test pictures show all names alike, so that each can be measured.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

import torch
from torch import Tensor

from clipnotes import boxes as geometry
from clipnotes import grammar
from clipnotes.toyworld.drawings import HELD_OUT_STYLE, TRAIN_STYLES, name_indices, sprites, style_indices, tiles_of
from clipnotes.toyworld.drawings import names as names_of
from clipnotes.toyworld.painting import Place, dyes, recolour, two_regions
from clipnotes.toyworld.scenery import tell

GROUPS = {"frequent": range(0, 26), "common": range(26, 80), "rare": range(80, 120)}  # ranks, from 0
BASE = 80  # names below this rank are labelled
MARKED = 10  # in so many pictures a rare name is marked, where all names are learned
HIDDEN = 20  # per cent: of what less is seen neither counts as found nor as missed
_SMALL, _LARGE = 20, 120  # names of the two other sets


@cache
def _order() -> dict[str, tuple[str, ...]]:
    """The names that the held-out artist has drawn, too, in one fixed order: of this set, and of the two others."""
    g = torch.Generator().manual_seed(7)
    base, novel = ([pool[i] for i in torch.randperm(len(pool), generator=g).tolist()]
                   for pool in (names_of("base", HELD_OUT_STYLE), names_of("novel", HELD_OUT_STYLE)))
    rare = len(GROUPS["rare"])
    rest = base[BASE:] + novel[rare:]
    rest = [rest[i] for i in torch.randperm(len(rest), generator=g).tolist()]
    return dict(main=(*base[:BASE], *novel[:rare]), small=tuple(rest[:_SMALL]),
                large=tuple(rest[_SMALL:_SMALL + _LARGE]))


def names(group: str | None = None) -> list[str]:
    """The 120 names by rank, or those of a group: "frequent", "common", "rare", "base" (both of the first)."""
    ranks = {None: range(120), "base": range(BASE)} | GROUPS
    if group not in ranks:
        raise ValueError(f"There is no group {group!r}; there are: frequent, common, rare, base.")
    return [_order()["main"][rank] for rank in ranks[group]]


def small() -> dict:
    """Options of `scenes` for a small set elsewhere: 20 other names, one to three large objects."""
    return dict(names=list(_order()["small"]), objects=(1, 3), scale=(25, 60))


def large() -> dict:
    """Options of `scenes` for a large set elsewhere: 120 other names, four to eight small objects."""
    return dict(names=list(_order()["large"]), objects=(4, 8), scale=(10, 30))


def scenes(n: int, seed: int = 0, size: int = 128, *, names: Sequence[str] | None = None, tail: bool = False,
           objects: tuple[int, int] = (2, 5), scale: tuple[int, int] = (12, 50),
           styles: Sequence[str] = TRAIN_STYLES, tints: float = 0.2) -> dict:
    """Pictures of several objects over two regions.

    `names`: by rank, all 120 where None; `tail`: drawn with frequency 1/rank, else alike; `objects`: least and most
    (at most nine); `scale`: sides in per cent of the picture, small ones more often.
    Returns images n x 3 x size x size in [0, 1]; ids n; for each of K objects (-1 or 0 where there are fewer), the
    largest first: labels (of concepts()), categories (places in `names`), styles, tints n x K; boxes n x K x 4, around
    what is seen of each; areas n x K, the pixels that are seen; visible n x K, their share of the object; crowd n x K,
    True for what is hardly seen. object_map n x size x size: the object (0 … K-1) at each pixel, -1 on the ground;
    regions n x size x size. captions; phrases, a list of noun phrases a picture, one an object; spans, where in the
    caption each of them stands: (begin, end), end outside.
    Raises ValueError for unknown names, styles or numbers that make no picture.
    """
    g, rng = torch.Generator().manual_seed(seed), Random(seed)
    known = list(_order()["main"]) if names is None else list(names)
    least, most = objects
    if not 1 <= least <= most <= 9:
        raise ValueError(f"objects = (least, most) lie between 1 and 9, not {objects}.")
    pool = name_indices(known)
    horizon = torch.randint(size * 35 // 100, size * 60 // 100, (n,), generator=g)
    images, regions, upper, lower = two_regions(g, n, size, horizon)
    images = images.movedim(1, 3).contiguous()  # windows of it are read and written below
    number = torch.randint(least, most + 1, (n, 1), generator=g)
    here = torch.arange(most) < number
    categories = _ranks(g, (n, most), len(pool), tail)
    labels, style = pool[categories], _artists(g, pool[categories], styles)
    place = _places(g, n, most, size, scale)
    flip, tint = torch.randint(0, 2, (n, most), generator=g), dyes(g, n * most, tints).view(n, most)
    object_map, whole = torch.full((n, size, size), -1), torch.zeros(n, most, dtype=torch.int64)
    for k in range(most):
        rows = here[:, k].nonzero()[:, 0]
        at, window = _window(place[rows, k], flip[rows, k], rows, size, size * scale[1] // 100 + 4)
        tiles = recolour(tiles_of(style[rows, k], labels[rows, k]), tint[rows, k])
        images[window] = at.paint(images[window].movedim(3, 1), tiles)[0].movedim(1, 3)
        ink = at.masks(sprites()[0][style[rows, k], labels[rows, k], 3] > 127, window[1].shape[1])
        object_map[window], whole[rows, k] = torch.where(ink, k, object_map[window]), ink.sum((1, 2))
    seen = object_map[:, None] == torch.arange(most).view(1, most, 1, 1)
    areas = seen.sum((2, 3))
    labels, categories, style, tint = (torch.where(here, v, -1) for v in (labels, categories, style, tint))
    rows = zip(labels, tint, place, horizon.tolist(), upper, lower, strict=True)
    told = [tell(*row, size, rng, (size // 5, size * 2 // 5)) for row in rows]
    captions, phrases = [t[0] for t in told], [t[1] for t in told]
    return dict(images=images.movedim(3, 1).clamp(0, 1), ids=(seed << 20) + torch.arange(n), labels=labels,
                categories=categories, styles=style, tints=tint, boxes=geometry.mask_boxes(seen), areas=areas,
                visible=areas / whole.clamp(min=1), crowd=here & (100 * areas < HIDDEN * whole),
                object_map=object_map, regions=regions, captions=captions, phrases=phrases,
                spans=[_spans(*t) for t in told])


def _ranks(g: torch.Generator, shape: tuple[int, int], count: int, tail: bool) -> Tensor:
    """Ranks from 0, drawn alike or with frequency 1/rank; in integers, as all that places an object."""
    if not tail:
        return torch.randint(0, count, shape, generator=g)
    share = (10_000_000 // torch.arange(1, count + 1)).cumsum(0)
    return torch.searchsorted(share, torch.randint(0, int(share[-1]), shape, generator=g), right=True)


def _artists(g: torch.Generator, labels: Tensor, styles: Sequence[str]) -> Tensor:
    """For each object one of the artists who drew it."""
    among = style_indices(styles)
    drawn = sprites()[1][among][:, labels].long()  # styles x n x K
    total = drawn.sum(0)
    if not total.all():
        name = grammar.concepts()[int(labels[total == 0][0])].name
        raise ValueError(f"No artist of {', '.join(styles)} has drawn {name!r}: leave it out of names.")
    turn = torch.randint(0, 27720, labels.shape, generator=g) % total  # 27720: a multiple of 1 … 12
    return among[(drawn.cumsum(0) > turn).int().argmax(0)]


def _places(g: torch.Generator, n: int, most: int, size: int, scale: tuple[int, int]) -> Tensor:
    """x, y of the centre and side of each object, n x K x 3: the largest first, so none hides a smaller one."""
    low, high = size * scale[0] // 100, size * scale[1] // 100
    draw = torch.randint(0, 1001, (n, most), generator=g)
    side = (low + (high - low) * draw * draw // 1_000_000).sort(1, descending=True).values
    cell = torch.rand(n, 9, generator=g).argsort(1)[:, :most]  # of 3 x 3, so that they overlap, but seldom wholly
    nudge = torch.randint(-size // 4, size // 4 + 1, (2, n, most), generator=g)
    centre = torch.stack([cell % 3, cell // 3]) * 2 + 1
    centre = (centre * size // 6 + nudge).maximum(side * 2 // 5).minimum(size - side * 2 // 5)
    return torch.stack([*centre, side], 2)


def _window(place: Tensor, flip: Tensor, rows: Tensor, size: int, side: int) -> tuple[Place, tuple[Tensor, ...]]:
    """The part of each picture that holds an object, as an index, and the object's place in it: quicker to paint."""
    x, y, extent = place.unbind(1)
    side = min(side, size)
    left, top = ((v - side // 2).clamp(0, size - side) for v in (x, y))
    steps = torch.arange(side)
    index = rows.view(-1, 1, 1), (top[:, None] + steps)[:, :, None], (left[:, None] + steps)[:, None]
    return Place(x - left, y - top, extent, flip=flip), index


def _spans(caption: str, phrases: list[str]) -> list[tuple[int, int]]:
    """Where each phrase stands in its caption; they stand there in their order."""
    found, start = [], 0
    for phrase in phrases:
        span = re.compile(rf"\b{re.escape(phrase)}(?!\w)").search(caption, start)
        found.append(span.span())
        start = span.end()
    return found


# ---------------------------------------------------------------- as data sets are


def annotated(categories: Tensor, marked: int = MARKED) -> Tensor:
    """Which objects of a training set are marked, B x K bool: all of the base, rare ones in their first few pictures.

    categories: B x K, of all pictures together. `marked`: in how many pictures a rare name is marked; 0: only the base.
    """
    kept = (categories >= 0) & (categories < BASE)
    for rank in GROUPS["rare"]:
        here = (categories == rank).any(1)
        first = here & (here.long().cumsum(0) <= marked)
        kept |= (categories == rank) & first[:, None]
    return kept


def truth(batch: Mapping, kept: Tensor | None = None) -> list[dict]:
    """A dict a picture as `metrics.match_boxes` takes it: boxes, labels (categories), crowd, masks, of real objects.

    kept: B x K bool, only these.
    """
    kept = batch["categories"] >= 0 if kept is None else kept & (batch["categories"] >= 0)
    rows = []
    for i, places in enumerate(kept):
        k = places.nonzero()[:, 0]
        rows.append(dict(boxes=batch["boxes"][i, k], labels=batch["categories"][i, k], crowd=batch["crowd"][i, k],
                         masks=batch["object_map"][i] == k.view(-1, 1, 1)))
    return rows


def as_dataset(batch: Mapping, kept: Tensor | None = None, count: int = 120):
    """A batch as a `datasets.Dataset` with the columns of LVIS.

    image (PIL), image_id, height, width, caption; objects: id, bbox (x, y, width, height), category (rank), area,
    iscrowd, segmentation (run lengths as pycocotools writes them); neg_category_ids: names that somebody looked for in
    vain; not_exhaustive_category_ids: names of which not all objects are marked. kept: B x K bool, which objects are
    marked (all where None); `count`: how many names there are.
    """
    from datasets import Dataset, Features, Image, List, Value
    from pycocotools import mask as coder
    from torchvision.transforms.functional import to_pil_image

    there = batch["categories"] >= 0
    kept = there if kept is None else kept & there
    rows = []
    for i, real in enumerate(truth(batch, kept)):
        x0, y0, x1, y1 = real["boxes"].T
        codes = [coder.encode(mask.numpy().astype("uint8", order="F"))["counts"].decode() for mask in real["masks"]]
        objects = dict(id=[(int(batch["ids"][i]) << 4) + k for k in kept[i].nonzero()[:, 0].tolist()],
                       bbox=torch.stack([x0, y0, x1 - x0, y1 - y0], 1).tolist(), category=real["labels"].tolist(),
                       area=batch["areas"][i, kept[i]].tolist(), iscrowd=real["crowd"].long().tolist(),
                       segmentation=codes)
        present = set(batch["categories"][i, there[i]].tolist())
        marked = set(objects["category"])
        unmarked = set(batch["categories"][i, there[i] & ~kept[i]].tolist())
        height, width = batch["images"][i].shape[1:]
        rows.append(dict(image=to_pil_image(batch["images"][i]), image_id=int(batch["ids"][i]), height=height,
                         width=width, caption=batch["captions"][i], objects=objects,
                         neg_category_ids=sorted(set(range(count)) - present),
                         not_exhaustive_category_ids=sorted(marked & unmarked)))
    whole, ids = Value("int64"), List(Value("int64"))
    objects = dict(id=ids, bbox=List(ids), category=ids, area=ids, iscrowd=ids, segmentation=List(Value("string")))
    kinds = dict(image=Image(), image_id=whole, height=whole, width=whole, caption=Value("string"), objects=objects,
                 neg_category_ids=ids, not_exhaustive_category_ids=ids)
    return Dataset.from_list(rows, features=Features(kinds))
