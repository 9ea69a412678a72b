"""DepthCLIP (chapter 13): the head, and the measures on NYU."""

from typing import Any

import torch
from torch import Tensor

from clipnotes.check.parity import Config, Pairs, Tensors, accepted, cases, component

RELEASE = "Adonis-galaxy/DepthCLIP at e247c87"


@component()
def head(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(layer4 B×C×h×w, unit texts K×D, bins K, temperature) -> depth B×h×w. Logits are large: 1e-4 is
    allowed.

    Usual mistakes: unit length over all channels first, then every second channel, not made unit again; 100 /
    temperature times the products with unit texts; softmax over the bins; the weighted sum; no attention
    pool.
    """
    # the release has (h·w)×B×C
    layer4 = tensors["in/layer4"].permute(1, 2, 0).unflatten(2, tuple(config["grid"]))
    constants = accepted(candidate, factor=config.get("factor"))
    for case in cases(tensors, "out/depth_(.+)"):
        bins, temperature = tensors[f"in/bins_{case}"], tensors[f"in/temperature_{case}"].item()
        depth = candidate(layer4, tensors["in/text"].T, bins, temperature, **constants)
        yield depth, tensors[f"out/depth_{case}"][:, 0], 1e-4


@component()
def errors(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(predicted B×416×544, true B×480×640, both in metres) -> {"abs_diff", "a1", "a2", "a3", "abs_rel",
    "log10", "rmse"}: numbers.

    Usual mistakes: the prediction stands at rows 56 to 471, columns 60 to 603; rows 45 to 470 and columns 46
    to 600 count, if the truth lies between 1e-3 and 10 and the prediction above 1e-3; clamped; a picture's
    mean first.
    """
    found = candidate(_enlarged(tensors, "pred"), _enlarged(tensors, "gt"))
    for key in cases(tensors, "out/(.+)"):
        yield torch.as_tensor(found[key]).reshape(()), tensors[f"out/{key}"].reshape(())


def _enlarged(tensors: Tensors, side: str) -> Tensor:
    """A map B×H×W from "in/SIDE_divN", each of whose values stands for N×N pixels."""
    (times,) = cases(tensors, rf"in/{side}_div(\d+)")
    small = tensors[f"in/{side}_div{times}"][:, 0]
    return small.repeat_interleave(int(times), 1).repeat_interleave(int(times), 2)
