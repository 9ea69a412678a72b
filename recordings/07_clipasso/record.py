"""Chapter 7's sketches: twenty names, all variants of the optimisation, stored as control points.

    python tools/ch07_clipasso.py                     everything that is not recorded yet, in order
    python tools/ch07_clipasso.py strokes16 random0   some variants, again

The definitions are those of chapters/07_clipasso.ipynb. A variant is ten or twenty sketches that are drawn together. It
goes into clipnotes/data/ch07_sketches.safetensors (control points, opacities) and ch07_clipasso.json (seed, minutes,
hash of the code, losses) as soon as it is finished, so a run that was stopped goes on with the next one.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import hub, toyworld
from clipnotes.clip import load_clip
from clipnotes.lseg import load_lseg
from clipnotes.weights import load_weights, save_weights, toy_world
from hygiene import bare, definitions
from notebooks import ROOT, code_cells, defined, read, tags, write_json
from recordings.tiny.train import log_run

NOTEBOOK = ROOT / "chapters" / "07_clipasso.ipynb"
OUT = ROOT / "clipnotes" / "data" / "ch07_clipasso.json"
SKETCHES = OUT.with_name("ch07_sketches.safetensors")
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
DECISIVE = ("attention_maps", "min_max", "saliency_map", "sheet_names", "portraits", "settings", "blur", "otsu", "xdog",
            "sampling", "start_strokes", "starts", "homography", "warp_grids", "seen", "read_image", "feature_losses",
            "Recipe", "optimise", "cut_out", "mask_by_lseg", "mask_by_patches", "one_by_one")


def code_hash(variant: str) -> str:
    """What decides a variant's sketches: the notebook's definitions that draw, and the variant's options."""
    found = {}
    for cell in code_cells(read(NOTEBOOK)):
        found |= definitions(cell.source) if "exercise" not in tags(cell) else {}
    parts = [bare(found[name]) for name in DECISIVE] + [repr(VARIANTS[variant])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


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
    find = {"world": lambda: true, "lseg": lambda: chapter.mask_by_lseg(load_lseg(), images, names),
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


def record(name: str, entry: dict, tensors: dict[str, Tensor]) -> None:
    """Put a variant into both files, each by way of a temporary file."""
    stored = load_weights(SKETCHES, "sketches")[0] if SKETCHES.exists() else {}
    card = dict(program="tools/ch07_clipasso.py", teacher="tiny-rn", names=chapter.sheet_names()) | toy_world()
    save_weights(stored | tensors, SKETCHES, "sketches", asdict(chapter.Recipe()), card)
    content = json.loads(OUT.read_text()) if OUT.exists() else dict(command="python tools/ch07_clipasso.py", runs={})
    content["runs"][name] = entry
    content["runs"] = {k: content["runs"][k] for k in VARIANTS if k in content["runs"]}
    write_json(OUT, content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT")
    parser.add_argument("--teacher", default="tiny-rn", help="the CLIP to optimise with")
    args = parser.parse_args()
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"there is no variant {unknown.pop()!r}; write some of: {', '.join(VARIANTS)}")
    torch.set_num_threads(1)
    done = json.loads(OUT.read_text())["runs"] if OUT.exists() else {}
    rn, vit = (load_clip(name).requires_grad_(False) for name in (args.teacher, "tiny"))
    total = 0.0
    for name in args.variants or [v for v in VARIANTS if v not in done]:
        options, began = VARIANTS[name], time.process_time()
        strokes, opacity, losses, facts = draw(options, rn, vit)
        minutes = (time.process_time() - began) / 60
        total += minutes
        entry = dict(seed=options.get("seed", 0), minutes=round(minutes, 2), code=code_hash(name), **facts)
        entry |= dict(loss=[round(v, 4) for v in losses[-10:].mean(0).tolist()])
        tensors = {name: strokes} | ({f"{name}.opacity": opacity} if options.get("price") else {})
        record(name, entry, tensors)
        print(f"{name}: {minutes:.1f} minutes of one core, loss {losses[-10:].mean():.3f}", flush=True)
    if total:
        log_run("ch07_clipasso", SKETCHES, total, 0, 0)


chapter = defined(NOTEBOOK)

if __name__ == "__main__":
    main()
