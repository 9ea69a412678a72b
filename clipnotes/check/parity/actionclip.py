"""ActionCLIP (chapter 9): the loss, the shift of channels, the heads over time."""

from typing import Any

import torch.nn.functional as F

from clipnotes.check.parity import Config, Pairs, Tensors, build, cases, component, load

RELEASE = "sallymmx/ActionCLIP at 31c34df"


@component()
def kl_loss(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(unit film vectors B×D, unit text vectors B×D, labels B, the factor) -> loss.

    Usual mistakes: the target is softmax(10 * same label) over a row; KL(target || softmax(logits)), summed
    over columns and averaged over rows (batchmean); the mean of both directions; the scale is the factor
    itself.
    """
    films, texts = (F.normalize(tensors[f"in/{key}"], dim=-1) for key in ("video", "text"))
    for case in cases(tensors, "in/scale_(.+)"):
        factor = tensors[f"in/scale_{case}"]
        yield candidate(films, texts, tensors["in/labels"], factor), tensors[f"out/loss_{case}"]


@component()
def shift(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(tokens (B·T)×L×C, T, div, skip) -> the same shape; the first `skip` tokens stay as they are.

    Usual mistakes: the first C/div channels come from the next frame, as many from the one before, zeros at
    the ends; nothing wraps; the class token stays.
    """
    tokens, maps = tensors["in/tokens"].transpose(0, 1), tensors["in/maps"]
    count = int(tensors["in/n_segment"])
    for div in cases(tensors, r"out/tokens_one_frame_div(\d+)"):
        yield candidate(tokens, 1, int(div), 1).transpose(0, 1), tensors[f"out/tokens_one_frame_div{div}"]
    for div in cases(tensors, r"out/tokens_div(\d+)"):
        yield candidate(tokens, count, int(div), 1).transpose(0, 1), tensors[f"out/tokens_div{div}"]
    for div in cases(tensors, r"out/maps_div(\d+)"):
        moved = candidate(maps.flatten(2).mT, count, int(div), 0)
        yield moved.mT.unflatten(2, maps.shape[2:]), tensors[f"out/maps_div{div}"]


def _head(candidate: Any, tensors: Tensors, config: Config, expected: str = "out/video_feature") -> Pairs:
    named = dict(width=tensors["in/frames"].shape[-1])
    if (table := tensors.get("weights/frame_position_embeddings.weight")) is not None:
        named |= dict(layers=config["layers"], heads=config["heads"], positions=len(table))
    yield load(build(candidate, **named), tensors)(tensors["in/frames"]), tensors[expected]


@component()
def transf(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(width, layers, heads, positions) -> module, frames B×T×width -> B×width.

    Usual mistakes: positions are added for the blocks, not for the shortcut; norms with eps 1e-12; QuickGELU;
    no mask; the shortcut is the frames themselves; then the mean over time.
    """
    yield from _head(candidate, tensors, config)


@component()
def lstm(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(width) -> module, frames B×T×width -> B×width.

    Usual mistakes: one layer, batch first, in one direction; plus the frames; then the mean over time.
    """
    yield from _head(candidate, tensors, config)


@component()
def conv1d(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(width) -> module, frames B×T×width -> B×width: over time, as meant.

    Usual mistakes: depthwise kernel of 3 over time, so B×T×C has to be transposed; no bias; plus the frames;
    then the mean over time.
    """
    yield from _head(candidate, tensors, config, "out/video_feature_permuted")


@component("actionclip_conv1d")
def conv1d_released(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(width) -> module, frames B×T×width -> B×width: as released, axes mixed up.

    Usual mistakes: B×T×C is reinterpreted as B×C×T without moving a number; the result is transposed.
    """
    yield from _head(candidate, tensors, config, "out/video_feature_released")
