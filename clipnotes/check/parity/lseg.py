"""LSeg (chapter 2): the decoder's block, the spatial blocks, the head."""

import re
from typing import Any

import torch
import torch.nn.functional as F

from clipnotes.check.parity import Config, Pairs, Tensors, build, component, load

RELEASE = "isl-org/lang-seg at bb00b21"
ACTIVATIONS = {"relu": F.relu, "lrelu": F.leaky_relu, "tanh": torch.tanh}


@component()
def decoder_block(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(features) -> module, (path B×F×h×w, skip of the same shape or None) -> B×F×2h×2w.

    Usual mistakes: a residual unit is x + bn2(conv2(relu(bn1(conv1(relu(x)))))), its convolutions without
    bias; path + resConfUnit1(skip), then resConfUnit2; twice as large, align_corners=True; out_conv last.
    """
    path, skip = tensors["in/path"], tensors["in/skip"]
    module = load(build(candidate, features=path.shape[1]), tensors)
    yield module(path), tensors["out/one_input"]
    yield module(path, skip), tensors["out/two_inputs"]


def _spatial_block(candidate: Any, tensors: Tensors) -> Pairs:
    """Each activation and each number of applications that the file has."""
    for key, expected in tensors.items():
        if found := re.fullmatch(r"out/(.+)_depth(\d+)", key):
            block = load(build(candidate, activation=ACTIVATIONS[found[1]]), tensors)
            x, depth = tensors["in/x"], int(found[2])
            for step in range(depth):
                x = block(x, step < depth - 1)
            yield x, expected


@component()
def spatial_block_bottleneck(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(activation) -> module, (logits B×K×h×w, activate: bool) -> the same shape.

    Usual mistakes: one filter 1×1×3×3 for all labels; plus the maximum over labels of the block's input, not
    of the filter's output; then the activation, unless it is the last application.
    """
    yield from _spatial_block(candidate, tensors)


@component()
def spatial_block_depthwise(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(activation) -> module, (logits B×K×h×w, activate: bool) -> the same shape.

    Usual mistakes: one filter 1×1×3×3 for all labels, a bias of one number; no term across labels; then the
    activation, unless it is the last application.
    """
    yield from _spatial_block(candidate, tensors)


@component()
def head(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(features, embed_dim, block, depth) -> module, (path_1 B×F×h×w, labels K×E) -> B×K×2h×2w.

    Usual mistakes: head1, then unit length per pixel (dim=1); unit texts; divide by 0.07; the block, if there
    is one, on the logits; then twice as large, align_corners=True.
    """
    path_1, labels = tensors["in/path_1"], tensors["in/text_features"]
    for key, expected in tensors.items():
        if found := re.fullmatch(r"out/logits(?:_(bottleneck|depthwise)_depth(\d+))?", key):
            block, depth = found[1] or "none", int(found[2] or 0)
            named = dict(features=path_1.shape[1], embed_dim=labels.shape[1], block=block, depth=depth)
            kept = {k: v for k, v in tensors.items() if depth or "head_block" not in k}
            yield load(build(candidate, **named), kept, "weights/scratch.")(path_1, labels), expected
