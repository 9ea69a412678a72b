"""CLIP4Clip (chapter 8): the four heads, the loss, the ranks."""

from typing import Any

import torch

from clipnotes.check.parity import Config, Pairs, Tensors, build, cases, component, load

RELEASE = "ArrowLuo/CLIP4Clip at 508ffa3"


def _head(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """All heads take (texts N×D, frames B×T×D, mask B×T, the factor) and give logits N×B."""
    tables = [v for k, v in tensors.items() if k.endswith("position_embeddings.weight")]
    named = dict(width=tensors["in/frames"].shape[-1])
    if tables:
        named |= dict(layers=config["layers"], heads=config["heads"], positions=len(tables[0]))
    if any(k.startswith("weights/") for k in tensors):
        candidate = load(build(candidate, **named), tensors)
    elif isinstance(candidate, type):
        candidate = candidate()
    factor = tensors["in/logit_scale"].exp() if "in/logit_scale" in tensors else 1.0
    inputs = tensors["in/text"][:, 0], tensors["in/frames"], tensors["in/video_mask"], factor
    yield candidate(*inputs), tensors["out/logits"]


@component()
def meanP(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(texts N×D, frames B×T×D, mask B×T, the factor) -> logits N×B; or a class without arguments whose
    module does so.

    Usual mistakes: each frame to unit length before the mean; the mean over real frames only; then unit
    length again; unit texts; times the factor; rows are texts.
    """
    yield from _head(candidate, tensors, config)


@component()
def seqLSTM(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(width) -> module, (texts N×D, frames B×T×D, mask B×T, the factor) -> logits N×B.

    Usual mistakes: frames enter as they are, not unit; the outputs are added to the frames; then the mean
    head.
    """
    yield from _head(candidate, tensors, config)


@component()
def seqTransf(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(width, layers, heads, positions) -> module, (texts N×D, frames B×T×D, mask B×T, the factor) -> logits
    N×B.

    Usual mistakes: positions are added before the blocks and not to the residual; -1e6 on padding as keys;
    norms with eps 1e-12; QuickGELU; the blocks' output plus the frames without positions; then the mean head.
    """
    yield from _head(candidate, tensors, config)


@component()
def tightTransf(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(width, layers, heads, positions) -> module, (texts N×D, frames B×T×D, mask B×T, the factor) -> logits
    N×B.

    Usual mistakes: the text's token comes first; positions run over text and frames together; no token types,
    nothing of unit length, no factor; pooler: norm, the first token, linear, QuickGELU; then linear to one.
    """
    yield from _head(candidate, tensors, config)


@component("clip4clip_meanP")
def loss(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(logits N×N) -> loss.

    Usual mistakes: the right pairs are on the diagonal; cross entropy over rows and over columns, and their
    mean.
    """
    logits = tensors["out/logits"]
    yield candidate(logits[:, : len(logits)]), tensors["out/loss"]


@component()
def metrics(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(similarity N×N) -> the release's list of ranks, from 0.

    Usual mistakes: ranks from 0; sort each row from the largest; every place that holds the right answer's
    score is an entry of its own, row by row.
    """
    for case in cases(tensors, "in/sim_(.+)"):
        places = torch.as_tensor(candidate(tensors[f"in/sim_{case}"]))
        yield places, tensors[f"out/{case}_ranks0"]
        for k in cases(tensors, rf"out/{case}_R(\d+)"):
            yield 100 * (places < int(k)).double().mean(), tensors[f"out/{case}_R{k}"]
        yield places.double().quantile(0.5) + 1, tensors[f"out/{case}_MedianR"]
        yield places.double().mean() + 1, tensors[f"out/{case}_MeanR"]
