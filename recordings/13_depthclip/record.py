"""Chapter 13's recordings: DepthCLIP by source of the patch vectors and size of the picture, on the toy world's scenes.

A variant is a source of patch vectors and a size:
joint space, layer4    tiny-rn through its attention pool, place by place; or before it, as released. The pictures are
                       scenes of 128 pixels, enlarged where the name says more
ViT values, ViT tokens the tiny ViT's patches
windows                the tiny ViT sees windows of the picture, each enlarged to 64 pixels, as if they were pictures
Seeds draw the scenes; the CLIPs are those that ship. The temperature is chosen on a second draw, for set and for
learned bins apart. See recordings/runner.py for the command line.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes.clip import CLIP, load_clip
from recordings.runner import Recorder

recorder = Recorder("13_depthclip")
chapter = recorder.chapter
SCALES, WORDS = (10, 30, 100, 300, 1000), chapter.WORDS
SCENES = (131_000_000, 132_000_000, 133_000_000)  # to train, to choose the temperature, to test
# name: model, source of the vectors, size of the scenes, size they are enlarged to, window
VARIANTS = {f"joint space at {size}": ("tiny-rn", "space", 128, size, 0) for size in (128, 192, 256)}
VARIANTS |= {f"layer4 at {size}": ("tiny-rn", "layer4", 128, size, 0) for size in (128, 256)}
VARIANTS |= {f"ViT values at {size}": ("tiny", "space", size, size, 0) for size in (64, 96, 128)}
VARIANTS |= {"ViT tokens at 96": ("tiny", "tokens", 96, 96, 0)}
VARIANTS |= {f"windows of {side} in 128": ("tiny", "space", 128, 128, side) for side in (48, 96)}


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


def numbers(variant: str) -> tuple[int, int, int]:
    """Scenes to train, to choose the temperature, to test."""
    return (100, 60, 100) if VARIANTS[variant][4] else (300, 150, 200)


def recipe(variant: str) -> dict:
    model, source, size, enlarged, window = VARIANTS[variant]
    return dict(model=model, source=source, size=size, enlarged=enlarged, window=window, numbers=numbers(variant),
                scenes=SCENES, scales=SCALES)


@recorder.study(variants=tuple(VARIANTS), recipe=recipe)
def sources(variant: str, seed: int) -> dict:
    return measured(variant, seed, numbers(variant))


@torch.no_grad()
def measured(variant: str, seed: int, count: tuple[int, int, int]) -> dict:
    """One variant on one draw of scenes: the words with set and with learned bins, and the best constant."""
    name, _, size, _, _ = VARIANTS[variant]
    clip = load_clip(name)
    parts = [chapter.metric_scenes(n, 10_000 * seed + start, size) for n, start in zip(count, SCENES, strict=True)]
    train, choose, test = parts
    at = [vectors_of(clip, part, variant) for part in parts]
    text_emb, patches = chapter.word_vectors(clip, WORDS), chapter.patch_depth(train["depth"], at[0].shape[1:3])
    seen = ~patches.isnan()
    constant = chapter.least_relative(train["depth"][train["depth"] > 0]).expand_as(test["depth"])
    row = dict(grid=list(at[0].shape[1:3]), scenes=len(test["depth"]),
               constant=measures(constant, test))
    for how in ("set", "learned"):
        tried = {}
        for scale in SCALES:
            bins = chapter.fit_bins(how, at[0][seen], patches[seen], text_emb, scale)

            def answer(vectors: Tensor, bins: Tensor = bins, scale: float = scale) -> Tensor:
                return chapter.to_pixels(chapter.word_probs(vectors, text_emb, scale) @ bins, (size, size))

            error = chapter.depth_errors(answer(at[1]), choose["depth"])["abs_rel"].mean().item()
            tried[error] = scale, bins, answer
        scale, bins, answer = tried[min(tried)]
        row[how] = measures(answer(at[2]), test) | {"scale": scale, "bins": [round(b, 2) for b in bins.tolist()]}
    return row


@recorder.extra
@torch.no_grad()
def figure() -> list:
    """The depth of the first figure's pictures, 4×4 patches each, by words with learned bins."""
    clip, train = load_clip("tiny-rn"), chapter.metric_scenes(300, SCENES[0])
    model = chapter.fitted(clip, WORDS, train, 30)
    return [[[round(v, 2) for v in line] for line in depth]
            for depth in model.per_patch(chapter.figure_pictures()[0])[0].tolist()]


@recorder.probe
def probe() -> dict:
    """Three sources on a few scenes."""
    found = {}
    for variant in ("joint space at 128", "layer4 at 128", "windows of 48 in 128"):
        few = (6, 4, 6) if VARIANTS[variant][4] else (20, 10, 20)
        row = measured(variant, 0, few)
        for key in ("set", "learned", "constant"):
            found |= {f"sources.{variant}, {key}, {k}": row[key][k] for k in ("abs_rel", "things", "rank")}
    return found


if __name__ == "__main__":
    sys.exit(recorder.main())
