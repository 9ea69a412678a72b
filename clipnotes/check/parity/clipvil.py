"""CLIP-ViL (chapter 10): positions for another size of grid, and the grid features of the ResNet."""

import math
from typing import Any

from clipnotes.check.parity import Config, Pairs, Tensors, build, cases, component, load

RELEASE = "clip-vil/CLIP-ViL at d806157"


@component(note="of the function itself: the released pre-training script never uses its result")
def resize_pos(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(positions 1×(1+g²)×D, places n² of the new grid) -> positions 1×(1+n²)×D.

    Usual mistakes: the result is returned, not left at zero as in the release; the class token's position
    stays as it is; the grid is row by row; bilinear, not bicubic; align_corners false; no antialiasing.
    """
    for case in cases(tensors, "in/pos_(.+)"):
        places = int(tensors[f"in/tokens_{case}"])
        yield candidate(tensors[f"in/pos_{case}"], places), tensors[f"out/resized_{case}"]


@component()
def grid_features(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(image_size, layers, width, heads, embed_dim) -> module, standardised images B×3×H×W -> the map
    B×C×h×w and the pooled vectors B×E.

    Usual mistakes: the map is the last stage's, after its ReLU, not normalised and not projected; the pooled
    vector is that of the attention pool, with its positions, not the mean of the map.
    """
    places, _ = tensors["weights/visual.attnpool.positional_embedding"].shape
    named = dict(image_size=32 * math.isqrt(places - 1), layers=tuple(config["layers"]))
    named |= dict(width=len(tensors["weights/visual.conv3.weight"]), heads=config["heads"])
    named["embed_dim"] = len(tensors["weights/visual.attnpool.c_proj.weight"])
    module = load(build(candidate, **named), tensors, "weights/visual.")
    grid, pooled = module(tensors["in/image"])
    yield grid, tensors["out/grid"]
    yield grid, tensors["out/caption_grid"]
    yield pooled, tensors["out/caption_pooled"]
