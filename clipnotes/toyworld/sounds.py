"""Sounds of the toy world: one second at 8 kHz of what a dog, a bell or a helicopter might sound like, made by code.

What is played is a score: a few events with a pitch, a length, a share of noise and a resonance, varied each time. Who
plays it is one of five synthesisers, as one of several artists draws a sprite. Scores are integers, hence equal to the
bit under a seed on any machine; samples are equal but for rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from clipnotes.grammar import article, concepts
from clipnotes.toyworld.drawings import name_indices

RATE = 8000
PARTIALS = 6
BELL = (1.0, 2.0, 2.41, 3.0, 4.53, 5.33)  # partials of what is struck, in units of the lowest


@dataclass(frozen=True)
class Score:
    """How a thing sounds. `count`: of its events, fewest and most; `length` of each in ms; `pitch` in Hz at an event's
    begin, middle and end; `noise` in per cent; `body`: the resonance in Hz; `fade`: 0 sustained to 8 struck; `attack`
    in ms; `wobble`: of the pitch, times a second and per cent; `even`: events at equal distances; `metal`: with the
    partials of a bell; `turns`: every second event at so many per cent of the pitch."""

    count: tuple[int, int]
    length: tuple[int, int]
    pitch: tuple[int, int, int]
    noise: int
    body: int
    fade: int = 0
    attack: int = 10
    wobble: tuple[int, int] = (0, 0)
    even: bool = True
    metal: bool = False
    turns: int = 100


SCORES = MappingProxyType({
    "dog": Score((1, 3), (120, 220), (350, 520, 260), 25, 900, fade=1),
    "cat": Score((1, 1), (600, 900), (500, 800, 450), 5, 1600, attack=80, wobble=(6, 3)),
    "cow": Score((1, 1), (800, 950), (140, 170, 120), 10, 500, attack=100, wobble=(5, 2)),
    "sheep": Score((1, 2), (350, 480), (320, 340, 300), 15, 1100, attack=30, wobble=(9, 12)),
    "pig": Score((2, 4), (120, 220), (180, 160, 120), 70, 700, wobble=(30, 15)),
    "horse": Score((1, 1), (700, 950), (1200, 1000, 500), 20, 1500, attack=40, wobble=(11, 15)),
    "rooster": Score((3, 4), (140, 230), (650, 950, 750), 12, 1900, attack=20, turns=125),
    "chick": Score((5, 8), (40, 80), (2700, 3300, 2600), 5, 3000, fade=1, attack=5),
    "duck": Score((2, 4), (100, 180), (300, 280, 220), 35, 1300, attack=5),
    "frog": Score((1, 3), (200, 280), (150, 140, 150), 30, 600, wobble=(35, 20)),
    "bee": Score((1, 1), (900, 1000), (210, 235, 220), 10, 1000, attack=100, wobble=(4, 5)),
    "mouse": Score((2, 4), (50, 100), (2000, 2600, 2200), 5, 2400, attack=5),
    "eagle": Score((1, 2), (350, 480), (2400, 2200, 1300), 15, 2200, attack=20),
    "lion": Score((1, 1), (700, 950), (110, 130, 80), 60, 450, fade=1, attack=80, wobble=(28, 20)),
    "elephant": Score((1, 1), (600, 900), (600, 1100, 800), 45, 1800, attack=40, wobble=(20, 6)),
    "whale": Score((1, 2), (450, 480), (250, 400, 180), 2, 400, attack=120),
    "owl": Score((2, 3), (200, 300), (380, 420, 370), 8, 400, attack=60),
    "wolf": Score((1, 1), (900, 1000), (300, 550, 420), 5, 700, attack=150, wobble=(4, 2)),
    "snake": Score((1, 1), (700, 1000), (3000, 3000, 3000), 100, 3200, attack=100),
    "drum": Score((2, 6), (100, 150), (140, 90, 60), 30, 200, fade=5, attack=2),
    "bell": Score((1, 2), (480, 500), (900, 900, 900), 0, 1800, fade=3, attack=2, metal=True),
    "guitar": Score((2, 4), (220, 250), (220, 220, 220), 2, 700, fade=3, attack=3, turns=125),
    "piano": Score((3, 5), (150, 200), (440, 440, 440), 0, 600, fade=4, attack=3, turns=150),
    "flute": Score((1, 3), (250, 330), (880, 880, 880), 10, 900, attack=50, wobble=(5, 2), turns=112),
    "trumpet": Score((2, 3), (200, 320), (460, 470, 460), 2, 1500, attack=25, turns=133),
    "violin": Score((1, 2), (450, 500), (560, 560, 560), 4, 1300, attack=90, wobble=(6, 4), turns=112),
    "police car": Score((4, 5), (190, 200), (600, 1100, 1500), 2, 1300, attack=5),
    "fire truck": Score((1, 1), (950, 1000), (500, 1300, 500), 2, 1100, attack=30),
    "ambulance": Score((2, 3), (320, 330), (450, 450, 450), 2, 900, attack=5, turns=133),
    "train": Score((5, 7), (110, 140), (500, 500, 500), 85, 700, fade=2, attack=15),
    "car": Score((1, 2), (300, 450), (400, 400, 400), 3, 1200, attack=5),
    "motorcycle": Score((1, 1), (900, 1000), (70, 100, 130), 25, 300, attack=60, wobble=(12, 8)),
    "helicopter": Score((10, 13), (50, 70), (90, 80, 70), 65, 250, fade=2, attack=8),
    "airplane": Score((1, 1), (950, 1000), (1500, 1400, 1200), 85, 700, attack=250),
    "ship": Score((1, 1), (800, 1000), (110, 110, 105), 6, 330, attack=120),
    "phone": Score((1, 2), (400, 450), (1100, 1100, 1100), 0, 2000, attack=5, wobble=(20, 18), metal=True),
    "alarm clock": Score((4, 6), (70, 90), (2000, 2000, 2000), 0, 2200, attack=3),
    "watch": Score((2, 4), (12, 20), (2500, 2200, 2000), 60, 2600, fade=6, attack=1),
    "hammer": Score((2, 4), (80, 130), (1300, 1250, 1200), 20, 1700, fade=6, attack=1, metal=True),
    "saw": Score((3, 5), (150, 190), (400, 700, 500), 80, 1900, attack=50, turns=80),
    "broom": Score((2, 3), (280, 330), (800, 900, 800), 98, 1300, attack=100),
    "lightning": Score((1, 1), (900, 1000), (60, 50, 40), 92, 120, fade=3, attack=15),
    "wave": Score((1, 1), (900, 1000), (300, 300, 300), 100, 550, attack=450),
    "fire": Score((16, 24), (6, 14), (1500, 1500, 1500), 95, 1700, fade=5, attack=1, even=False),
    "umbrella": Score((20, 24), (15, 45), (1800, 2200, 2600), 95, 2400, fade=2, attack=2, even=False),
    "drop": Score((2, 4), (60, 90), (700, 1000, 1700), 3, 1200, fade=3, attack=3),
})
NAMES = tuple(SCORES)
MOST = max(score.count[1] for score in SCORES.values())


# ---------------------------------------------------------------- five players of a score


def _sum_of_sines(phase: Tensor, ratios: Tensor, weights: Tensor, g: torch.Generator) -> Tensor:
    """Additive: each partial a sine of its own."""
    return sum(weights[:, k : k + 1] * (phase * ratios[:, k : k + 1]).sin() for k in range(PARTIALS))


def _fm(phase: Tensor, ratios: Tensor, weights: Tensor, g: torch.Generator) -> Tensor:
    """Frequency modulation: a sine whose phase another one moves."""
    bright = 1 + 2 * weights[:, 2:].sum(1, keepdim=True)
    return (phase + bright * (phase * ratios[:, 2:3] / 2).sin()).sin()


def _pulses(phase: Tensor, ratios: Tensor, weights: Tensor, g: torch.Generator) -> Tensor:
    """A saw tooth, as vocal cords and reeds give it; what is struck has a second one."""
    tooth = (phase / torch.pi) % 2 - 1
    return tooth + (ratios[:, 2:3] != 3) * ((phase * ratios[:, 2:3] / torch.pi) % 2 - 1)


def _breath(phase: Tensor, ratios: Tensor, weights: Tensor, g: torch.Generator) -> Tensor:
    """Narrow bands of noise where the partials are: sines whose phases wander."""
    wander = torch.randn(phase.shape, generator=g).cumsum(1) * 0.08
    return _sum_of_sines(phase + wander, ratios, weights, g)


def _square(phase: Tensor, ratios: Tensor, weights: Tensor, g: torch.Generator) -> Tensor:
    """A square wave with a narrow duty, as a game console has it."""
    return ((phase / (2 * torch.pi)) % 1 < 0.3).float() * 2 - 0.6


_PLAYERS: dict[str, Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]] = {
    "sines": _sum_of_sines, "fm": _fm, "pulses": _pulses, "breath": _breath, "square": _square}
SYNTHESISERS = tuple(_PLAYERS)
HELD_OUT_SYNTHESISER = "square"
TRAIN_SYNTHESISERS = SYNTHESISERS[:-1]


# ---------------------------------------------------------------- from a score to samples


def sounds(n: int, seed: int = 0, *, names: Sequence[str] = NAMES, labels: Tensor | None = None,
           synthesisers: Sequence[str] = TRAIN_SYNTHESISERS, room: bool = True) -> dict:
    """Sounds of one thing each. labels: n concepts, where they are given; drawn from `names` where not.

    Returns samples n x 8000 in [-1, 1]; labels n (places in `grammar.concepts()`); players n (places in SYNTHESISERS);
    captions n; ids n. `room`: with an echo and a little noise behind. ValueError for a thing that has no sound, or a
    synthesiser that does not exist.
    """
    if unknown := [s for s in synthesisers if s not in SYNTHESISERS]:
        raise ValueError(f"There is no synthesiser {unknown[0]!r}; there are: {', '.join(SYNTHESISERS)}.")
    if not names or not synthesisers:
        raise ValueError("Give at least one name and one synthesiser.")
    g = torch.Generator().manual_seed(seed)
    if labels is None:
        labels = name_indices(names)[torch.randint(0, len(names), (n,), generator=g)]
    scores = _scores([concepts()[label].name for label in labels.tolist()])
    chosen = torch.tensor([SYNTHESISERS.index(s) for s in synthesisers])
    players = chosen[torch.randint(0, len(chosen), (n,), generator=g)]
    frequency, loudness = _tracks(g, scores)
    samples = _played(g, scores, players, frequency, loudness)
    samples = _in_a_room(g, samples) if room else samples
    peak = samples.abs().amax(1, keepdim=True).clamp(min=1e-6)
    samples = samples / peak * torch.randint(30, 96, (n, 1), generator=g) / 100
    captions = [f"the sound of {article(concepts()[label].name)}" for label in labels.tolist()]
    return dict(samples=samples, labels=labels, players=players, captions=captions,
                ids=(seed << 20) + torch.arange(n))


def mixtures(n: int, seed: int = 0, *, names: Sequence[str] = NAMES,
             synthesisers: Sequence[str] = TRAIN_SYNTHESISERS) -> dict:
    """Two different things at once, equally loud: as `sounds`, with labels n x 2, and the caption of both."""
    if len(set(names)) < 2:
        raise ValueError("A mixture needs at least two names.")
    g = torch.Generator().manual_seed(seed)
    first = torch.randint(0, len(names), (n,), generator=g)
    second = (first + torch.randint(1, len(names), (n,), generator=g)) % len(names)
    labels = name_indices(names)[torch.stack([first, second], 1)]
    parts = [sounds(n, seed * 2 + i, labels=labels[:, i], synthesisers=synthesisers) for i in range(2)]
    total = sum(part["samples"] / part["samples"].norm(dim=1, keepdim=True) for part in parts)
    samples = 0.9 * total / total.abs().amax(1, keepdim=True)
    captions = [f"{one} and {article(concepts()[other].name)}"
                for one, other in zip(parts[0]["captions"], labels[:, 1].tolist(), strict=True)]
    return dict(samples=samples, labels=labels, players=torch.stack([part["players"] for part in parts], 1),
                captions=captions, ids=(seed << 20) + torch.arange(n))


def _scores(names: Sequence[str]) -> dict[str, Tensor]:
    """The scores of n things as columns of integers, n or n x 2 or n x 3 each."""
    if silent := [name for name in names if name not in SCORES]:
        raise ValueError(f"{silent[0]!r} has no sound; these have one: {', '.join(NAMES)}.")
    return {key: torch.tensor([getattr(SCORES[name], key) for name in names], dtype=torch.long)
            .view(-1, *[{"pitch": 3}.get(key, 2)] * (key in ("count", "length", "pitch", "wobble")))
            for key in Score.__dataclass_fields__}


def _between(g: torch.Generator, ends: Tensor, *shape: int) -> Tensor:
    """Integers n x shape, each from ends[:, 0] to ends[:, 1]."""
    low, high = (ends[:, i].view(-1, *[1] * len(shape)) for i in range(2))
    return low + torch.randint(0, 1 << 30, (len(ends), *shape), generator=g) % (high - low + 1)


def _tracks(g: torch.Generator, scores: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The pitch in Hz and the loudness of each sample, both n x 8000. A later event takes over from an earlier one."""
    n = len(scores["noise"])
    count, length = _between(g, scores["count"]), _between(g, scores["length"], MOST) * RATE // 1000
    tune = torch.randint(67, 150, (n, 1), generator=g)  # of a sound, per cent; then of each of its events
    each = tune * torch.randint(97, 104, (n, MOST), generator=g)
    slot = RATE // count.clamp(min=1)
    late = torch.randint(0, 1 << 30, (n, MOST), generator=g) % (slot[:, None] // 6 + 1)
    begin = torch.where(scores["even"][:, None] > 0, torch.arange(MOST) * slot[:, None] + late,
                        torch.randint(0, RATE * 95 // 100, (n, MOST), generator=g))
    level = torch.randint(60, 101, (n, MOST), generator=g)
    time, frequency, loudness = torch.arange(RATE), torch.full((n, RATE), 100.0), torch.zeros(n, RATE)
    attack = (scores["attack"] * RATE // 1000).clamp(min=4)[:, None]
    for k in range(int(count.max())):
        here = time - begin[:, k : k + 1]
        inside = (here >= 0) & (here < length[:, k : k + 1]) & (k < count)[:, None]
        u = here / length[:, k : k + 1]
        low, middle, high = (scores["pitch"] * each[:, k : k + 1] / 10_000).T[..., None]
        pitch = low * (1 - u) * (1 - 2 * u) + 4 * middle * u * (1 - u) + high * u * (2 * u - 1)
        if k % 2:
            pitch = pitch * scores["turns"][:, None] / 100
        ramp = (here / attack).clamp(0, 1) * ((length[:, k : k + 1] - here) / 80).clamp(0, 1)
        envelope = ramp * (-scores["fade"][:, None] * u).exp() * level[:, k : k + 1] / 100
        frequency, loudness = torch.where(inside, pitch, frequency), torch.where(inside, envelope, loudness)
    rate, depth = (scores["wobble"] * torch.randint(80, 121, (n, 1), generator=g) / 100).T[..., None]
    frequency = frequency * (1 + depth / 100 * (2 * torch.pi * rate * time / RATE).sin())
    return frequency.clamp(20, RATE * 0.45), loudness


def _resonance(hertz: Tensor, body: Tensor) -> Tensor:
    """How much of each frequency a body at `body` Hz lets through: a third at an octave and a half's distance."""
    return 1 / (1 + (hertz.clamp(min=10) / body).log2() ** 2)


def _played(g: torch.Generator, scores: dict[str, Tensor], players: Tensor, frequency: Tensor,
            loudness: Tensor) -> Tensor:
    """Tone and noise of each score, n x 8000, by the synthesiser whose turn it is."""
    n, noise = len(players), scores["noise"][:, None] / 100
    phase = 2 * torch.pi * (frequency.double() / RATE).cumsum(1) + torch.randint(0, 628, (n, 1), generator=g) / 100
    ratios = torch.where(scores["metal"][:, None] > 0, torch.tensor(BELL), torch.arange(1.0, PARTIALS + 1))
    body = scores["body"][:, None] * torch.randint(67, 150, (n, 1), generator=g) / 100
    partials = ratios * scores["pitch"].amax(1, keepdim=True)
    weights = (_resonance(partials, body) + 0.02) * (1.5 * partials < RATE / 2)  # 1.5: the highest tuning
    weights[:, 0] += 0.02  # the lowest is never above half the rate
    weights = weights / weights.sum(1, keepdim=True)
    tone, hiss = torch.zeros(n, RATE), torch.randn(n, RATE, generator=g)
    for number, play in enumerate(_PLAYERS.values()):
        rows = (players == number).nonzero()[:, 0]
        if len(rows):
            turned = (phase[rows] % (2 * torch.pi * 1000)).float()  # by whole turns of each partial, too
            made = play(turned, ratios[rows], weights[rows], g)
            tone[rows] = made / made.std(1, keepdim=True).clamp(min=1e-6)
    hertz = torch.fft.rfftfreq(RATE, 1 / RATE)
    dry = loudness * ((1 - noise) * tone + noise * hiss)
    return torch.fft.irfft(torch.fft.rfft(dry) * _resonance(hertz, body), RATE)


def _in_a_room(g: torch.Generator, samples: Tensor) -> Tensor:
    """With an echo that dies away in a tenth to four tenths of a second, and noise 15 to 45 dB below."""
    n, length = len(samples), RATE // 2
    decay = torch.randint(100, 401, (n, 1), generator=g) * RATE / 7000  # samples until a third is left
    echo = torch.randn(n, length, generator=g) * (-torch.arange(length) / decay).exp()
    wet = torch.randint(0, 61, (n, 1), generator=g) / 100
    size = RATE + length
    tail = torch.fft.irfft(torch.fft.rfft(samples, size) * torch.fft.rfft(echo, size), size)[:, :RATE]
    tail = tail * samples.norm(dim=1, keepdim=True) / tail.norm(dim=1, keepdim=True).clamp(min=1e-6)
    both = samples + wet * tail
    below = 10 ** (-torch.randint(15, 46, (n, 1), generator=g) / 20)
    return both + below * both.std(1, keepdim=True) * torch.randn(n, RATE, generator=g)


def as_dataset(batch: dict):
    """Sounds as a `datasets.Dataset` with ESC-50's columns filename, target, category, and audio: its samples and their
    rate, as that column gives them."""
    from datasets import Dataset, Features, List, Value

    rows = [dict(filename=f"{number}.wav", target=label, category=concepts()[label].name,
                 audio=dict(array=samples, sampling_rate=RATE))
            for number, label, samples in zip(batch["ids"].tolist(), batch["labels"].tolist(),
                                              batch["samples"].tolist(), strict=True)]
    audio = dict(array=List(Value("float32")), sampling_rate=Value("int64"))
    kinds = dict(filename=Value("string"), target=Value("int64"), category=Value("string"), audio=audio)
    return Dataset.from_list(rows, features=Features(kinds))
