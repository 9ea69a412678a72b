"""Chapter 8's recordings: CLIP4Clip's heads on films of the toy world, factor by factor, under three seeds.

    python tools/ch08_clip4clip.py                      everything that is not recorded yet, seed by seed
    python tools/ch08_clip4clip.py LSTM_16000:0         some runs, VARIANT:SEED

The definitions are those of chapters/08_clip4clip.ipynb. Frames are encoded once by the frozen tiny CLIP and kept in
build/ch08. All runs of a group see equally many films and are judged on the same ones: 500 films with distinct captions
for retrieval, 1,560 films and their reverses for the two-way choice. Each run goes into
clipnotes/data/ch08_clip4clip.json; what is there is not run again. "transformer_16000:0" ships.
"""

import argparse
import ast
import hashlib
import inspect
import json
import os
import sys
import time
from functools import cache
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipnotes import video
from clipnotes.clip import CLIP, load_clip
from clipnotes.temporal import encode_films
from clipnotes.toyworld import films
from clipnotes.weights import save_weights, stored, toy_world, write
from notebooks import ROOT, defined, read, record_run, recorded_runs, write_json
from recordings.tiny.train import log_run

NOTEBOOK = ROOT / "chapters" / "08_clip4clip.ipynb"
BUILD, OUT = ROOT / "build" / "ch08", ROOT / "clipnotes" / "data" / "ch08_clip4clip.json"
TRAIN, TEST, POOL = 88_000_000, 88_100_000, 88_150_000
SIZES, RATES = (100, 800, 16_000), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
MAIN = dict(head="transformer", films=16_000, steps=300, batch=32, lr=2e-3, clip_lr=1e-3)
LSTM = MAIN | dict(head="LSTM", lr=3e-3)
TIGHT = MAIN | dict(head="tight", batch=8, lr=1e-3)  # all pairs of a batch: 16 films and 16 texts are 256 sequences
SMALL = MAIN | dict(films=800, steps=120, batch=8, lr=1e-3, clip_lr=3e-4)
VARIANTS = {"zero_shot": dict(head="mean", films=0, steps=0)}
for size in SIZES:
    VARIANTS |= {f"mean_{size}": MAIN | dict(head="mean", films=size), f"LSTM_{size}": LSTM | dict(films=size),
                 f"transformer_{size}": MAIN | dict(films=size)}
VARIANTS |= {
    # what learns, and from what
    "LSTM_frozen_text": LSTM | dict(text=False), "transformer_frozen_text": MAIN | dict(text=False),
    "LSTM_no_reverses": LSTM | dict(reverses=False), "transformer_text_start": MAIN | dict(text_start=True),
    # what frames hold and what not: lessons of two pairs of events alone, left/right and spins
    "place_pooled": MAIN | dict(pairs=(5, 7)), "place_quarters": MAIN | dict(pairs=(5, 7), tokens="cells"),
    # the image tower learns, too; beside it the same small lesson with a frozen one, and a model without CLIP's weights
    "small_frozen": SMALL, "small_2d": SMALL | dict(image="2D"), "small_3d": SMALL | dict(image="3D"),
    "scratch": SMALL | dict(clip_lr=1e-3, image="scratch"),
    # frames, and how they are chosen
    "LSTM_1_even": LSTM | dict(frames=1), "LSTM_2_even": LSTM | dict(frames=2), "LSTM_4_even": LSTM | dict(frames=4),
    "LSTM_4_first": LSTM | dict(frames=4, sampling="first"), "LSTM_4_random": LSTM | dict(frames=4, sampling="random"),
}
VARIANTS |= {f"tight_{size}": TIGHT | dict(films=size) for size in SIZES}
for rate in RATES:
    short = dict(films=800, steps=60)
    VARIANTS |= {f"rate_mean_{rate:g}": MAIN | short | dict(head="mean", clip_lr=rate),
                 f"rate_LSTM_{rate:g}": LSTM | short | dict(lr=rate),
                 f"rate_transformer_{rate:g}": MAIN | short | dict(lr=rate)}
SHIPPED = {"transformer_16000:0": "ch08_transformer"}


@cache
def code_hash() -> str:
    """What decides the figures, besides the options that each row holds: the functions here and in the notebook."""
    program = ast.parse(Path(__file__).read_text())
    parts = [ast.dump(node) for node in program.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    for cell in read(NOTEBOOK).cells:
        if cell.cell_type == "code" and ("class " in cell.source or "def fit" in cell.source):
            parts.append(inspect.cleandoc(cell.source))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


# ---------------------------------------------------------------- films


@cache
def block(seed: int, n: int = 500) -> dict[str, Tensor]:
    """n films as the frozen tiny CLIP sees them, encoded once and kept in build/ch08 (fp16)."""
    path, kept = BUILD / f"{seed}.safetensors", ("cells", "mask", "labels", "others", "events")
    if not path.exists():
        found = chapter.film_vectors(load_clip("tiny").requires_grad_(False), n, seed)
        write({k: found[k].half() if k == "cells" else found[k] for k in kept}, path, {"seed": str(seed)})
    return load_file(path)


def blocks(seeds: list[tuple[int, int]], tokens: str = "frames") -> dict:
    """Blocks of films, one behind the other; tokens "cells" gives four vectors a frame."""
    parts = [block(*seed) for seed in seeds]
    found = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    cells, facts = found.pop("cells").float(), (found["events"], found["labels"], found["others"])
    found["frames"] = cells if tokens == "cells" else cells.mean(2)
    return found | dict(captions=films.captions(*facts), reversed=films.captions(*facts, backwards=True))


def kept(films_: dict, places: list[int]) -> dict:
    return {k: v[places] if isinstance(v, Tensor) else [v[i] for i in places] for k, v in films_.items()}


def training(options: dict) -> dict:
    """The first films of the training blocks, of all events or of some pairs of them."""
    count, pairs = options["films"], options.get("pairs")
    parts = [(TRAIN + i, 500) for i in range(32 if pairs else -(-count // 500))]
    found = blocks(parts, options.get("tokens", "frames"))
    wanted = [i for i, e in enumerate(found["events"].tolist()) if pairs is None or e // 2 in pairs]
    return kept(found, wanted[:count])


def testing(tokens: str = "frames") -> tuple[dict, list[int]]:
    found = blocks([(POOL, 560), (TEST, 500), (TEST + 1, 500)], tokens)
    return found, chapter.distinct({"captions": found["captions"][:560]}, 500)


def thinned(films_: dict, count: int, how: str, seed: int) -> dict:
    """Films with at most `count` of their frames: evenly spread, the first ones, or random ones in order."""
    g, frames = torch.Generator().manual_seed(seed), torch.zeros(len(films_["mask"]), count, films_["frames"].shape[-1])
    mask = torch.zeros(len(frames), count, dtype=torch.long)
    for i, n in enumerate(films_["mask"].sum(1).tolist()):
        if how == "even":
            kept = video.sample(n, count)
        else:
            kept = list(range(n))[:count] if how == "first" else torch.randperm(n, generator=g)[:count].sort().values
        frames[i, : len(kept)], mask[i, : len(kept)] = films_["frames"][i, kept], 1
    return films_ | dict(frames=frames, mask=mask)


def pictures(count: int, first: int = TRAIN, n: int = 500) -> dict:
    """The films themselves, as bytes, for runs whose image tower learns."""
    parts = [films.films(n, first + i) for i in range(-(-count // n))]
    facts = [torch.cat([p[k] for p in parts])[:count] for k in ("events", "labels", "others")]
    frames, mask = (torch.cat([p[k] for p in parts])[:count] for k in ("frames", "mask"))
    return dict(frames=(255 * frames).byte(), mask=mask, events=facts[0], captions=films.captions(*facts),
                reversed=films.captions(*facts, backwards=True))


# ---------------------------------------------------------------- one run


def make_head(options: dict, clip: CLIP) -> nn.Module:
    """A fresh head; blocks begin as those of the text tower, as in the release, positions loud enough to be heard."""
    kind, positions = options["head"], 33 if options.get("tokens") == "cells" else 16
    if kind in ("mean", "LSTM"):
        return chapter.MeanHead() if kind == "mean" else chapter.LSTMHead(128)
    head = (chapter.TightHead if kind == "tight" else chapter.TransformerHead)(128, 2, 2, positions)
    chapter.start_head(head, clip, loud=not options.get("text_start"))
    if kind == "tight":
        head.cross["transformer"] = Half(head.cross["transformer"])
    return head


class Half(nn.Module):
    """Blocks in half precision: the tight head runs them for each pair."""

    def __init__(self, blocks: nn.Module):
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.blocks(x, mask).float()


class Seer(nn.Module):
    """What makes vectors of frames that are bytes: the image tower, with patches in two or in three dimensions."""

    def __init__(self, clip: CLIP, three: bool):
        super().__init__()
        self.three = chapter.Film3D(clip) if three else None
        self.flat = [clip]  # its weights are the caller's

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        frames = frames.float() / 255
        return encode_films(self.flat[0], frames, mask) if self.three is None else self.three(frames, mask)


def prepare(options: dict, seed: int, tiny: CLIP) -> tuple[nn.Module, CLIP, Seer | None]:
    image = options.get("image")
    clip = CLIP(tiny.config) if image == "scratch" else tiny
    clip = chapter.copy_for_training(clip, image=image in ("2D", "scratch"), text=options.get("text", True))
    clip.token_embedding.weight.requires_grad_(image == "scratch")
    head = make_head(options, clip)
    if image is None:
        return head, clip, None
    see = Seer(clip, image == "3D")
    if see.three is not None:
        clip.films = see.three.requires_grad_(True)  # learns at the rate of CLIP's weights
    return head, clip, see


def run(variant: str, seed: int, tiny: CLIP) -> tuple[dict, nn.Module, CLIP]:
    options, begun = VARIANTS[variant], time.time()
    torch.manual_seed(seed)
    head, clip, see = prepare(options, seed, tiny)
    test, pool = testing(options.get("tokens", "frames"))
    losses = []
    if options["steps"]:
        data = pictures(options["films"]) if see else training(options)
        if "frames" in options:
            how = options.get("sampling", "even")
            data, test = (thinned(d, options["frames"], how, seed) for d in (data, test))
        named = {k: options[k] for k in ("lr", "clip_lr", "batch") if k in options}
        losses = chapter.fit(head, clip, data, options["steps"], seed=seed, see=see,
                             reverses=options.get("reverses", True), **named)
    minutes = (time.time() - begun) / 60
    if see:
        test = pictures(560, POOL, 560)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            parts = zip(test["frames"].split(40), test["mask"].split(40), strict=True)
            test["frames"] = torch.cat([see(*part) for part in parts]).float()
    found = chapter.judge(head, clip, test, pool)
    found["hits"] = "".join(map(str, found["hits"].int().tolist()))
    facts = dict(variant=variant, seed=seed, minutes=round(minutes, 2), code=code_hash())
    facts |= options
    facts["loss"] = round(sum(losses[-20:]) / max(1, len(losses[-20:])), 4)
    return facts | tidy(found), head, clip


def tidy(value):
    if isinstance(value, dict):
        return {k: tidy(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


# ---------------------------------------------------------------- files


def place(run: dict) -> tuple[int, int]:
    """Where a run stands in the JSON file."""
    return list(VARIANTS).index(run["variant"]), run["seed"]


def learnt(head: nn.Module, clip: CLIP) -> dict[str, Tensor]:
    """What a run has changed: the head, and the text tower without its table of tokens."""
    state = {f"head.{k}": v for k, v in head.state_dict().items()}
    text = {k: p for k, p in clip.named_parameters() if not k.startswith("visual.") and p.requires_grad}
    return state | {f"clip.{k}": v.detach() for k, v in text.items()}


def ship(name: str, head: nn.Module, clip: CLIP, variant: str, seed: int) -> Path:
    path, options = OUT.with_name(f"{name}.safetensors"), VARIANTS[variant]
    card = dict(program="tools/ch08_clip4clip.py", variant=variant, seed=seed, films=options["films"]) | toy_world()
    save_weights(stored(learnt(head, clip)), path, "clip4clip", dict(width=128, layers=2, heads=2, positions=16), card)
    return path


def note_figure(tiny: CLIP) -> None:
    """The scores of the chapter's first figure, by the model that ships."""
    content = json.loads(OUT.read_text())
    head, clip, _ = chapter.load_head(SHIPPED["transformer_16000:0"], tiny)
    write_json(OUT, content | dict(figure=chapter.figure_scores(tiny, head, clip)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="VARIANT:SEED")
    args = parser.parse_args()
    torch.set_num_threads(1)
    BUILD.mkdir(parents=True, exist_ok=True)
    code_hash()  # now: the notebook may change while this runs
    done = {f"{r['variant']}:{r['seed']}" for r in recorded_runs(OUT)}
    tiny = load_clip("tiny").requires_grad_(False)
    wanted = [f"{v}:{seed}" for seed in range(3) for v in VARIANTS if not (seed and v == "zero_shot")]
    wanted.sort(key=lambda name: name.startswith("tight"))  # the slowest come last
    for name in args.runs or [r for r in wanted if r not in done]:
        if "transformer_16000:0" in done and "figure" not in json.loads(OUT.read_text()):
            note_figure(tiny)
        variant, seed = name.split(":")
        row, head, clip = run(variant, int(seed), tiny)
        record_run(OUT, "python tools/ch08_clip4clip.py", row, place)
        done.add(name)
        print({k: v for k, v in row.items() if k != "hits"}, flush=True)
        if name in SHIPPED:
            log_run("ch08_clip4clip", ship(SHIPPED[name], head, clip, variant, int(seed)), row["minutes"],
                    row["films"], int(seed))


chapter = defined(NOTEBOOK)

if __name__ == "__main__":
    main()
