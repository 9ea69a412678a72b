"""Chapter 7's sketches: twenty names, all variants of the optimisation, stored as control points.

A variant is ten or twenty sketches that are drawn together. Their control points go into sketches.safetensors beside
this program, under the variant's name (opacities under NAME.opacity); what was measured goes into runs.json. See
recordings/runner.py for the command line.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import grammar, hub, prompts, toyworld
from clipnotes.clip import CLIP, load_clip
from clipnotes.files import lock
from clipnotes.lseg import LSeg, load_lseg
from clipnotes.weights import load_weights, save_weights, toy_world
from recordings.runner import Recorder

recorder = Recorder("07_clipasso")

TEN = dict(names=10)
SHARED = dict(strokes=16, seed=0, where="saliency", pictures="sheet", names=20, rounds=1, teacher="tiny-rn",
              scenes=87_000_000)
# What differs from SHARED; "names" are the first so many, "recipe" changes fields of the chapter's Recipe.
VARIANTS = {
    "figure": dict(strokes=32, pictures="figure", names=2, recipe=dict(canvas=224, view=128, steps=150)),
    **{f"strokes{n}": dict(strokes=n) for n in (16, 8, 4, 32)},
    "semantic": dict(losses=["fc"]),
    "geometric": dict(losses=["layer2", "layer3", "layer4"]),
    **{f"saliency{seed}": dict(seed=seed) | TEN for seed in (1, 2)},
    **{f"random{seed}": dict(seed=seed, where="random") | TEN for seed in (0, 1, 2)},
    **{f"ground_{mask}": dict(pictures=f"ground_{mask}") | TEN for mask in ("none", "world", "lseg", "patches")},
    "one_by_one": dict(rounds=4) | TEN,
    "priced": dict(strokes=32, recipe=dict(price=0.004)),
}


def recipe(variant: str) -> dict:
    """All that decides a variant's sketches; "recipe" holds the fields of the chapter's Recipe."""
    options = SHARED | VARIANTS[variant]
    fields = asdict(recorder.chapter.Recipe()) | options.get("recipe", {})
    kept = options.pop("losses", list(fields["weights"]))
    return options | dict(recipe=fields | dict(weights={layer: fields["weights"][layer] for layer in kept}))


@cache
def models(teacher: str) -> tuple[CLIP, CLIP]:
    """The teacher, and the tiny ViT whose attention places the strokes."""
    return load_clip(teacher).requires_grad_(False), load_clip("tiny").requires_grad_(False)


# ---------------------------------------------------------------- pictures and masks


def cut_out(images: Tensor, masks: Tensor) -> Tensor:
    """Images B×3×S×S, masks B×S×S -> the objects on white paper; an empty mask leaves its picture as it is."""
    masks = masks | ~masks.flatten(1).any(1)[:, None, None]
    return torch.where(masks[:, None], images, 1.0)


def mask_by_lseg(lseg: LSeg, images: Tensor, names: Sequence[str]) -> Tensor:
    """Chapter 2's model, asked for each picture's name and the grounds: masks B×S×S."""
    large = F.interpolate(images, (128, 128), mode="bilinear")
    found = torch.cat([lseg.segment(large[i : i + 1], [name, *grammar.REGIONS]) for i, name in enumerate(names)])
    return F.interpolate((found == 0)[:, None].float(), images.shape[-2:])[:, 0] > 0.5


@torch.no_grad()
def mask_by_patches(vit: CLIP, images: Tensor, names: Sequence[str]) -> Tensor:
    """The tiny CLIP's patches, asked the same: masks B×S×S as coarse as the patches."""
    patches = vit.patch_features(F.interpolate(images, (96, 96), mode="area"))
    grounds = prompts.class_embeddings(vit, [f"the {r}" for r in grammar.REGIONS], ("{}",))
    own = prompts.class_embeddings(vit, names, ("a photo of {}",))
    found = (patches * own[:, None, None]).sum(-1) > (patches @ grounds.T).amax(-1)
    return F.interpolate(found[:, None].float(), images.shape[-2:], mode="bilinear")[:, 0] > 0.5


def pictures_of(kind: str, names: list[str], canvas: int, vit: CLIP) -> tuple[Tensor, dict]:
    """The pictures of a variant, B×3×S×S on white paper where they are cut out, and what to note of the masks."""
    chapter = recorder.chapter
    if kind == "sheet":
        return chapter.portraits(names, canvas)[0], {}
    if kind == "figure":
        card = toyworld.postcard()
        cut = cut_out(card["images"], card["object_map"] >= 0)
        return torch.cat([F.interpolate(cut, (canvas, canvas), mode="bilinear"), hub.photo("cat", canvas)]), {}
    images, true = chapter.settings(names, canvas, SHARED["scenes"])
    how = kind.removeprefix("ground_")
    if how == "none":
        return images, {}
    began = time.process_time()
    find = {"world": lambda: true, "lseg": lambda: mask_by_lseg(load_lseg("02_lseg/lseg"), images, names),
            "patches": lambda: mask_by_patches(vit, images, names)}[how]
    masks = find()
    spent = time.process_time() - began
    iou = ((masks & true).sum((1, 2)) / (masks | true).sum((1, 2)).clamp(min=1)).tolist()
    return cut_out(images, masks), dict(mask_iou=[round(v, 4) for v in iou], mask_seconds=round(spent, 3))


# ---------------------------------------------------------------- drawing


def one_by_one(images: Tensor, count: int, rounds: int, fields: Any, seed: int,
               teacher: str = "tiny-rn") -> tuple[Tensor, ...]:
    """Draw `count` strokes in rounds, each placed by what is still missing; results as those of `optimise`."""
    chapter, (rn, vit) = recorder.chapter, models(teacher)
    views = chapter.attention_maps(vit, F.interpolate(images, (96, 96), mode="area"))
    short = replace(fields, steps=fields.steps // rounds)
    drawn, losses = torch.zeros(len(images), 0, 4, 2), []
    for k in range(rounds):
        start, inked = [], 1 - chapter.render(drawn, 2 * fields.width, fields.canvas)[:, 0]
        for image, attention, ink in zip(images, views, inked, strict=True):
            place = chapter.sampling(chapter.saliency_map(attention, fields.canvas, "mean"), chapter.xdog(image))
            start.append(chapter.start_strokes(place * (1 - ink) + 1e-9, count // rounds, seed + k))
        new, _, loss = chapter.optimise(rn, images, torch.stack(start), short, seed + k, drawn)
        drawn, losses = torch.cat([drawn, new], 1), [*losses, loss]
    return drawn, torch.ones(drawn.shape[:2]), torch.cat(losses)


def draw(options: dict) -> tuple[Tensor, Tensor, Tensor, dict]:
    """A recipe as above -> strokes B×N×4×2, opacities B×N, losses steps×B, facts."""
    chapter, (rn, vit) = recorder.chapter, models(options["teacher"])
    fields, seed = chapter.Recipe(**options["recipe"]), options["seed"]
    images, facts = pictures_of(options["pictures"], chapter.sheet_names()[: options["names"]], fields.canvas, vit)
    if options["rounds"] > 1:
        return *one_by_one(images, options["strokes"], options["rounds"], fields, seed, options["teacher"]), facts
    start = chapter.starts(vit, images, options["strokes"], seed, options["where"])
    return *chapter.optimise(rn, images, start, fields, seed), facts


def ship(tensors: dict[str, Tensor]) -> None:
    """Put control points into the file beside runs.json, instead of older ones of the same name."""
    path, chapter = recorder.path.with_name("sketches.safetensors"), recorder.chapter
    with lock(path):
        stored = load_weights(path, "sketches")[0] if path.exists() else {}
        card = dict(program="recordings/07_clipasso/record.py", teacher=SHARED["teacher"], names=chapter.sheet_names())
        save_weights(stored | tensors, path, "sketches", asdict(chapter.Recipe()), card | toy_world())


@recorder.study(variants=tuple(VARIANTS), seeds=1, recipe=recipe)
def sketches(variant: str, seed: int) -> dict:
    """The final loss of each sketch, and how the masks of grounds were. The seed is the recipe's."""
    options = recipe(variant)
    strokes, opacity, losses, facts = draw(options)
    ship({variant: strokes} | ({f"{variant}.opacity": opacity} if options["recipe"]["price"] else {}))
    return facts | dict(loss=[round(v, 4) for v in losses[-10:].mean(0).tolist()])


PROBED = {"plain": "strokes16", "random": "random1", "rounds": "one_by_one", "priced": "priced",
          "patches": "ground_patches", "lseg": "ground_lseg"}


@recorder.probe
def probe() -> dict:
    """Four steps each: at once, from anywhere, in rounds, with a price, and cut out by the patches and by LSeg."""
    found, short = {}, dict(steps=4, canvas=64, view=64)
    found["sketches.figure_pictures"] = pictures_of("figure", [], 64, models(SHARED["teacher"])[1])[0].mean()
    for name, variant in PROBED.items():
        options = recipe(variant)
        options |= dict(names=1, strokes=4, rounds=min(2, options["rounds"]), recipe=options["recipe"] | short)
        strokes, opacity, losses, facts = draw(options)
        found[f"sketches.{name}_loss"] = losses[-1].sum()
        found[f"sketches.{name}_place"] = strokes.mean() / 64
        if "mask_iou" in facts:
            found[f"sketches.{name}_iou"] = facts["mask_iou"][0]
        if options["recipe"]["price"]:
            found[f"sketches.{name}_opacity"] = opacity.mean()
    return found


if __name__ == "__main__":
    sys.exit(recorder.main())
