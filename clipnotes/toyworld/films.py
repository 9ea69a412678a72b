"""Films of the toy world: short events, each beside its own reverse in time, with captions that name object and action.

No film, and no frame of one, was in the tiny CLIP's training; its captions name the actions, as captions of photos do.
Positions, sizes, turns and lengths are integer arithmetic, hence equal to the bit under a seed on any machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from clipnotes.grammar import COUNTS, TINTS, article, concepts, countable, plural
from clipnotes.toyworld.drawings import TRAIN_STYLES, choose, sprites, tiles_of
from clipnotes.toyworld.painting import Place, draw_grounds, recolour


@dataclass(frozen=True)
class Event:
    """What happens. `reverse`: the event that its film shows when run backwards. `frames_tell`: whether what it is can
    be read from what single frames hold, in their order (else only from where or how the object is in each).
    `text`: its caption; {a} the object, {b} another one, {many} four of the object, each with its article."""

    name: str
    reverse: str
    frames_tell: bool
    text: str


def _pair(one: str, other: str, tell: bool, text: str, back: str) -> tuple[Event, Event]:
    return Event(one, other, tell, text), Event(other, one, tell, back)


EVENTS = MappingProxyType({e.name: e for e in (
    *_pair("comes before", "comes after", True, "first {a} and then {b}", "first {b} and then {a}"),
    *_pair("appears", "vanishes", True, "{a} appears", "{a} vanishes"),
    *_pair("grows", "shrinks", True, "{a} grows", "{a} shrinks"),
    *_pair("turns red", "turns blue", True, "a blue {name} turns red", "a red {name} turns blue"),
    *_pair("one and then four", "four and then one", True, "{one} and then {many}", "{many} and then {one}"),
    *_pair("moves left", "moves right", False, "{a} moves left", "{a} moves right"),
    *_pair("moves up", "moves down", False, "{a} moves up", "{a} moves down"),
    *_pair("spins left", "spins right", False, "{a} spins left", "{a} spins right"),
    *_pair("bounces and stops", "waits and bounces", False, "{a} bounces and stops", "{a} waits and bounces"),
)})
_NAMES = tuple(EVENTS)
_CORNERS = torch.tensor([[0, 0], [1, 1], [1, 0], [0, 1]])


def caption(event: str, label: int, other: int) -> str:
    """The sentence of a film: "a dog moves left", "first a dog and then a cat"."""
    name, second = concepts()[label].name, concepts()[other].name
    return EVENTS[event].text.format(a=article(name), b=article(second), name=name, one=f"one {name}",
                                     many=f"{COUNTS[3]} {plural(name)}")


def captions(events: Tensor, labels: Tensor, others: Tensor, backwards: bool = False) -> list[str]:
    """The sentences of the films of a batch, from its columns of B integers; or of the same films run backwards."""
    names = [EVENTS[_NAMES[event]].reverse if backwards else _NAMES[event] for event in events.tolist()]
    return [caption(*film) for film in zip(names, labels.tolist(), others.tolist(), strict=True)]


def films(n: int, seed: int = 0, size: int = 64, *, frames: tuple[int, int] = (5, 8),
          events: Sequence[str] = _NAMES, styles: Sequence[str] = TRAIN_STYLES,
          names: Sequence[str] | None = None) -> dict:
    """Films of one event each. `frames`: the fewest and the most frames of a film.

    `names`: of the objects; all that can be counted by default.
    Returns frames n x T x 3 x size x size in [0, 1], black after a film's end; mask n x T (1: a frame, 0: padding);
    labels n (the object), others n (the second object, used by "comes before" and "comes after"), events n (places in
    `tuple(EVENTS)`), captions. Under one seed an event's films are its reverse's films run backwards, to the bit.
    Raises ValueError for an unknown event, or for numbers of frames that make no film.
    """
    unknown = [e for e in events if e not in EVENTS]
    if unknown or not events:
        raise ValueError(f"There is no event {unknown[0]!r}; there are: {', '.join(EVENTS)}." if unknown else
                         "Give at least one event.")
    least, most = frames
    if not 1 <= least <= most:
        raise ValueError(f"A film has at least one frame, and frames = (fewest, most): {frames} is not that.")
    g = torch.Generator().manual_seed(seed)
    names = [c.name for c in concepts() if countable(c.name)] if names is None else names  # "four milk" is no caption
    labels, style = choose(g, n, styles, names)
    others, other_style = choose(g, n, styles, names)
    others = torch.where(others == labels, labels.roll(1), others)  # two of a name would be no event
    other_style = torch.where(sprites()[1][other_style, others], other_style, style.roll(1))
    event = torch.tensor([_NAMES.index(e) for e in events])[torch.randint(0, len(events), (n,), generator=g)]
    length = torch.randint(least, most + 1, (n,), generator=g)
    canvas, _, _ = draw_grounds(g, n, size)
    path = _path(g, n, size)
    looks = [tiles_of(style, labels), tiles_of(other_style, others)]
    looks += [recolour(looks[0], torch.full((n,), list(TINTS).index(c))) for c in ("blue", "red")]
    mask = (torch.arange(most) < length.view(n, 1)).long()
    pictures = torch.stack([_frame(canvas, looks, path, event, t, length, size) for t in range(most)], 1)
    return dict(frames=pictures * mask.view(n, most, 1, 1, 1), mask=mask, labels=labels, others=others, events=event,
                captions=captions(event, labels, others))


def _path(g: torch.Generator, n: int, size: int) -> dict[str, Tensor]:
    """The integers that decide a film: where it starts, how far it goes, how large and how turned the object is."""
    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (n,), generator=g)

    side = draw(size * 44 // 100, size * 58 // 100)
    return dict(side=side, small=side * 45 // 100, large=side * 16 // 10, far=draw(size * 22 // 100, size * 30 // 100),
                x=draw(size * 44 // 100, size * 56 // 100), y=draw(size * 44 // 100, size * 56 // 100),
                degrees=draw(-20, 20), turn=draw(240, 330), flip=draw(0, 1), change=draw(400, 600))


def _frame(canvas: Tensor, looks: list[Tensor], path: dict, event: Tensor, t: int, length: Tensor, size: int) -> Tensor:
    """Frame t of all films. An event with an odd number is its partner run backwards: time runs from 1000 to 0."""
    last = (length - 1).clamp(min=1)
    step = torch.minimum(torch.tensor(t), last)
    time = 1000 * torch.where(event % 2 == 0, step, last - step) // last
    kind = event // 2

    def when(k: int, then: Tensor, otherwise: Tensor | int) -> Tensor:
        return torch.where(kind == k, then, otherwise)

    past = time >= path["change"]
    x = when(5, path["x"] + path["far"] * (500 - time) // 500, path["x"])
    y = when(6, path["y"] + path["far"] * (500 - time) // 500, path["y"])
    hop = (1000 - (time * 6 % 2000 - 1000).abs()) * (time < 667)  # two hops, then rest
    y = when(8, y + path["far"] // 2 - path["far"] * hop // 1000, y)
    side = when(2, path["small"] + (path["large"] - path["small"]) * time // 1000, path["side"])
    degrees = when(7, path["degrees"] - path["turn"] * time // 1000, path["degrees"])
    tile = looks[0].clone()
    for look, rows in enumerate(((kind == 0) & past, (kind == 3) & ~past, (kind == 3) & past), 1):
        tile[rows] = looks[look][rows]
    tile[kind == 1] *= time[kind == 1].view(-1, 1, 1, 1) / 1000
    crowd = (kind == 4) & past
    quarter = when(4, side * 7 // 10, side)
    image = canvas.clone()
    for copy, (right, low) in enumerate(_CORNERS.tolist()):
        here = (crowd if copy else torch.ones_like(crowd)).nonzero().squeeze(1)
        spread_x, spread_y = ((2 * d - 1) * path["side"] // 2 for d in (right, low))
        at = Place(torch.where(crowd, x + spread_x, x)[here], torch.where(crowd, y + spread_y, y)[here],
                   quarter[here], degrees[here], path["flip"][here])
        image[here], _ = at.paint(image[here], tile[here])
    return image.clamp(0, 1)


def reverse(batch: dict) -> dict:
    """The same films run backwards, with the events and captions that they then show."""
    lengths = batch["mask"].sum(1).tolist()
    pictures = [torch.cat([film[:n].flip(0), film[n:]]) for film, n in zip(batch["frames"], lengths, strict=True)]
    event = torch.tensor([_NAMES.index(EVENTS[_NAMES[e]].reverse) for e in batch["events"].tolist()])
    told = captions(event, batch["labels"], batch["others"])
    return batch | dict(frames=torch.stack(pictures), events=event, captions=told)


def as_dataset(batch: dict):
    """Films as a `datasets.Dataset` with the columns of the real sets: video (its frames as PIL pictures), video_id,
    caption as MSR-VTT has them; label, the event with its name, as UCF101 and Kinetics have it."""
    from datasets import ClassLabel, Dataset, Features, List, Value
    from datasets import Image as ImageColumn
    from torchvision.transforms.functional import to_pil_image

    lengths = batch["mask"].sum(1).tolist()
    videos = [[to_pil_image(f) for f in film[:n]] for film, n in zip(batch["frames"], lengths, strict=True)]
    rows = dict(video=videos, video_id=[f"video{i}" for i in range(len(videos))], caption=batch["captions"],
                label=batch["events"].tolist())
    kinds = Features(video=List(ImageColumn()), video_id=Value("string"), caption=Value("string"),
                     label=ClassLabel(names=list(_NAMES)))
    return Dataset.from_dict(rows, features=kinds)
