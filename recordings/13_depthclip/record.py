"""Chapter 13's recordings: DepthCLIP by source of the patch vectors and size of the picture, on the toy world's scenes.

    python tools/ch13_depthclip.py                               everything that is not recorded yet, in order
    python tools/ch13_depthclip.py "layer4 at 128:0"             some runs, VARIANT:SEED
    python tools/ch13_depthclip.py figure                        the answers for the first figure

The definitions are those of chapters/13_depthclip.ipynb. A variant is a source of patch vectors and a size:
joint space, layer4    tiny-rn through its attention pool, place by place; or before it, as released. The pictures are
                       scenes of 128 pixels, enlarged where the name says more
ViT values, ViT tokens the tiny ViT's patches
windows                the tiny ViT sees windows of the picture, each enlarged to 64 pixels, as if they were pictures
Seeds draw the scenes (300 to train, 150 to choose the temperature, 200 to test; windows 100, 60, 100); the CLIPs are
those that ship. The temperature is chosen on the second part, for set and for learned bins apart.
Each run goes into clipnotes/data/ch13_depthclip.json. A program that is stopped goes on with the run it was at.
"""

import argparse
import ast
import hashlib
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import grammar
from clipnotes.clip import CLIP, load_clip
from notebooks import ROOT, code_cells, defined, read, record_run, recorded_runs, write_json

NOTEBOOK = ROOT / "chapters" / "13_depthclip.ipynb"
OUT = ROOT / "clipnotes" / "data" / "ch13_depthclip.json"
SEEDS, SCALES, WORDS = (0, 1, 2), (10, 30, 100, 300, 1000), list(grammar.DISTANCES)
# name: model, source of the vectors, size of the scenes, size they are enlarged to, window
VARIANTS = {f"joint space at {size}": ("tiny-rn", "space", 128, size, 0) for size in (128, 192, 256)}
VARIANTS |= {f"layer4 at {size}": ("tiny-rn", "layer4", 128, size, 0) for size in (128, 256)}
VARIANTS |= {f"ViT values at {size}": ("tiny", "space", size, size, 0) for size in (64, 96, 128)}
VARIANTS |= {"ViT tokens at 96": ("tiny", "tokens", 96, 96, 0)}
VARIANTS |= {f"windows of {side} in 128": ("tiny", "space", 128, 128, side) for side in (48, 96)}
DECIDES = ("metric_scenes", "sentences", "word_vectors", "keep_channels", "patch_vectors", "window_vectors", "shares",
           "to_pixels", "check_bins", "DepthCLIP", "depth_errors", "scene_ranks", "thing_ranks", "least_relative",
           "patch_depth", "learn_bins", "fitted", "figure_pictures")


def code_hash() -> str:
    """What decides the figures: this program, without its text, and the notebook's definitions."""
    parts = [ast.dump(ast.parse(Path(__file__).read_text()))]
    for cell in code_cells(read(NOTEBOOK)):
        parts += [ast.dump(node) for node in ast.parse(cell.source).body if getattr(node, "name", "") in DECIDES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def vectors_of(clip: CLIP, scenes: dict[str, Tensor], variant: str) -> Tensor:
    """The patch vectors of a variant, B×h×w×E."""
    _, source, _, size, window = VARIANTS[variant]
    if window:
        return chapter.window_vectors(clip, scenes["images"], window)
    images = scenes["images"]
    if size != images.shape[-1]:
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False).clamp(0, 1)
    return chapter.patch_vectors(clip, images, source)


def measures(depth: Tensor, scenes: dict[str, Tensor]) -> dict[str, float]:
    """AbsRel on all known pixels, on things, on ground; RMSE; rank inside scenes and over objects."""
    true, things = scenes["depth"], scenes["things"]
    found = {name: chapter.depth_errors(depth, true, where)["abs_rel"].nanmean().item()
             for name, where in (("abs_rel", None), ("things", things), ("ground", ~things))}
    found |= {"rmse": chapter.depth_errors(depth, true)["rmse"].mean().item()}
    found |= {"rank": chapter.scene_ranks(depth, true).mean().item(), "thing_rank": chapter.thing_ranks(depth, scenes)}
    return {k: round(v, 4) for k, v in found.items()}


@torch.no_grad()
def run(variant: str, seed: int) -> dict:
    """One variant on one draw of scenes: the words with set and with learned bins, and the best constant."""
    started, (name, _, size, _, window) = time.time(), VARIANTS[variant]
    clip, numbers = load_clip(name), (100, 60, 100) if window else (300, 150, 200)
    parts = [chapter.metric_scenes(n, 10_000 * seed + start, size)
             for n, start in zip(numbers, (131_000_000, 132_000_000, 133_000_000), strict=True)]
    train, choose, test = parts
    at = [vectors_of(clip, part, variant) for part in parts]
    text_emb, patches = chapter.word_vectors(clip, WORDS), chapter.patch_depth(train["depth"], at[0].shape[1:3])
    seen = ~patches.isnan()
    constant = chapter.least_relative(train["depth"][train["depth"] > 0]).expand_as(test["depth"])
    row = dict(variant=variant, seed=seed, grid=list(at[0].shape[1:3]), scenes=len(test["depth"]),
               constant=measures(constant, test))
    for how in ("set", "learned"):
        tried = {}
        for scale in SCALES:
            bins = (patches[seen].quantile((torch.arange(6) + 0.5) / 6) if how == "set" else
                    chapter.learn_bins(chapter.shares(at[0][seen], text_emb, scale), patches[seen]))

            def answer(vectors: Tensor, bins: Tensor = bins, scale: float = scale) -> Tensor:
                return chapter.to_pixels(chapter.shares(vectors, text_emb, scale) @ bins, (size, size))

            error = chapter.depth_errors(answer(at[1]), choose["depth"])["abs_rel"].mean().item()
            tried[error] = scale, bins, answer
        scale, bins, answer = tried[min(tried)]
        row[how] = measures(answer(at[2]), test) | {"scale": scale, "bins": [round(b, 2) for b in bins.tolist()]}
    return row | dict(minutes=round((time.time() - started) / 60, 2), code=code_hash())


@torch.no_grad()
def record_figure() -> None:
    """The depth of the first figure's pictures, 4×4 patches each, by words with learned bins."""
    clip, train = load_clip("tiny-rn"), chapter.metric_scenes(300, 131_000_000)
    model = chapter.fitted(clip, WORDS, train, 30)
    content = json.loads(OUT.read_text()) if OUT.exists() else dict(command="python tools/ch13_depthclip.py", runs=[])
    content["figure"] = [[[round(v, 2) for v in line] for line in depth]
                         for depth in model.per_patch(chapter.figure_pictures()[0])[0].tolist()]
    write_json(OUT, content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="figure, or VARIANT:SEED")
    asked = parser.parse_args().what
    if not asked or "figure" in asked:
        record_figure()
    if asked and (unknown := [a for a in asked if a != "figure" and a.rpartition(":")[0] not in VARIANTS]):
        parser.error(f"There is no run {unknown[0]!r}. Variants: {', '.join(VARIANTS)}; a run is VARIANT:SEED.")
    done = {(r["variant"], r["seed"]) for r in recorded_runs(OUT) if r["code"] == code_hash()}
    for variant in VARIANTS:
        for seed in SEEDS:
            if f"{variant}:{seed}" in asked or (not asked and (variant, seed) not in done):
                row = run(variant, seed)
                record_run(OUT, "python tools/ch13_depthclip.py", row,
                           lambda r: (list(VARIANTS).index(r["variant"]), r["seed"]))
                print(variant, seed, row["set"], row["learned"], row["minutes"], flush=True)
    return 0


chapter = defined(NOTEBOOK)

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.exit(main())
