"""Chapter 7's sketches: twenty names, all variants of the optimisation, stored as control points.

A variant is ten or twenty sketches that are drawn together; its control points and opacities go into sketches.safetensors
beside this program. See recordings/runner.py for the command line.
"""

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import hub, toyworld
from clipnotes.clip import load_clip
from clipnotes.lseg import load_lseg
from clipnotes.weights import load_weights, save_weights, toy_world
from recordings.runner import Recorder
from recordings.tiny.train import log_run

recorder = Recorder("07_clipasso")
chapter = recorder.chapter
SKETCHES = recorder.path.with_name("sketches.safetensors")
# A variant: strokes (16), seed (0), where they begin, pictures, names (the first so many), what of the recipe changes.
TEN = dict(names=10)
VARIANTS = {
    "figure": dict(strokes=32, pictures="figure", recipe=dict(canvas=224, view=128, steps=150)),
    **{f"strokes{n}": dict(strokes=n) for n in (16, 8, 4, 32)},
    "semantic": dict(weights=("fc",)),
    "geometric": dict(weights=("layer2", "layer3", "layer4")),
    **{f"saliency{seed}": dict(seed=seed) | TEN for seed in (1, 2)},
    **{f"random{seed}": dict(seed=seed, where="random") | TEN for seed in (0, 1, 2)},
    **{f"ground_{mask}": dict(pictures=f"ground_{mask}") | TEN for mask in ("none", "world", "lseg", "patches")},
    "one_by_one": dict(rounds=4) | TEN,
    "priced": dict(strokes=32, price=0.004),
}


def pictures_of(kind: str, names: list[str], canvas: int, vit) -> tuple[Tensor, dict]:
    """The pictures of a variant, B×3×S×S on white paper where they are cut out, and what to note of the masks."""
    if kind == "sheet":
        return chapter.portraits(names, canvas)[0], {}
    if kind == "figure":
        card = toyworld.postcard()
        cut = chapter.cut_out(card["images"], card["object_map"] >= 0)
        return torch.cat([F.interpolate(cut, (canvas, canvas), mode="bilinear"), hub.photo("cat", canvas)]), {}
    images, true = chapter.settings(names, canvas)
    how = kind.removeprefix("ground_")
    if how == "none":
        return images, {}
    began = time.process_time()
    find = {"world": lambda: true, "lseg": lambda: chapter.mask_by_lseg(load_lseg("02_lseg/lseg"), images, names),
            "patches": lambda: chapter.mask_by_patches(vit, images, names)}[how]
    masks = find()
    spent = time.process_time() - began
    iou = ((masks & true).sum((1, 2)) / (masks | true).sum((1, 2)).clamp(min=1)).tolist()
    return chapter.cut_out(images, masks), dict(mask_iou=[round(v, 4) for v in iou], mask_seconds=round(spent, 3))


def draw(options: dict, rn, vit) -> tuple[Tensor, Tensor, Tensor, dict]:
    """-> strokes B×N×4×2, opacities B×N, losses steps×B, facts."""
    recipe, seed = replace(chapter.Recipe(), **options.get("recipe", {})), options.get("seed", 0)
    if "weights" in options:
        recipe = replace(recipe, weights={k: recipe.weights[k] for k in options["weights"]})
    if options.get("price"):
        recipe = replace(recipe, price=options["price"])
    names = chapter.sheet_names()[: options.get("names")]
    images, facts = pictures_of(options.get("pictures", "sheet"), names, recipe.canvas, vit)
    count = options.get("strokes", 16)
    if options.get("rounds"):
        return *chapter.one_by_one(rn, vit, images, count, options["rounds"], recipe, seed), facts
    start = chapter.starts(vit, images, count, seed, options.get("where", "saliency"))
    return *chapter.optimise(rn, images, start, recipe, seed), facts


def ship(name: str, tensors: dict[str, Tensor]) -> None:
    """Put a variant's control points into the file that ships."""
    kept = load_weights(SKETCHES, "sketches")[0] if SKETCHES.exists() else {}
    card = dict(program="recordings/07_clipasso/record.py", teacher="tiny-rn", names=chapter.sheet_names()) | toy_world()
    save_weights(kept | tensors, SKETCHES, "sketches", asdict(chapter.Recipe()), card)


def plain(value):
    """An option as JSON can hold it."""
    return list(value) if isinstance(value, tuple) else value


@recorder.study(variants=tuple(VARIANTS), seeds=1, recipe=lambda v: {k: plain(o) for k, o in VARIANTS[v].items()})
def sketches(variant: str, seed: int) -> dict:
    """A variant holds its own seed among its options."""
    options, begun = VARIANTS[variant], time.process_time()
    rn, vit = (load_clip(name).requires_grad_(False) for name in ("tiny-rn", "tiny"))
    strokes, opacity, losses, facts = draw(options, rn, vit)
    ship(variant, {variant: strokes} | ({f"{variant}.opacity": opacity} if options.get("price") else {}))
    log_run("07_clipasso", SKETCHES, (time.process_time() - begun) / 60, 0, 0)
    return facts | dict(loss=[round(v, 4) for v in losses[-10:].mean(0).tolist()])


@recorder.probe
def probe() -> dict:
    """Two names, four strokes, two steps: the losses, and where the strokes are."""
    rn, vit = (load_clip(name).requires_grad_(False) for name in ("tiny-rn", "tiny"))
    recipe = replace(chapter.Recipe(), steps=2)
    images, _ = pictures_of("sheet", chapter.sheet_names()[:2], recipe.canvas, vit)
    start = chapter.starts(vit, images, 4, 0, "saliency")
    strokes, _, losses = chapter.optimise(rn, images, start, recipe, 0)
    return {"sketches.loss": losses[-1].mean(), "sketches.first_loss": losses[0].mean(),
            "sketches.strokes": strokes.mean() / recipe.canvas, "sketches.start": start.mean() / recipe.canvas}


if __name__ == "__main__":
    sys.exit(recorder.main())
