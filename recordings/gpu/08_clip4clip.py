"""Chapter 8: the heads at the release's size: width 512, four blocks, twelve frames."""

import torch
from torch import nn

from bench import ROOT
from gpu_check import Model, model
from notebooks import defined


def head(small: bool, name: str, films: int) -> Model:
    chapter = defined(ROOT / "chapters" / "08_clip4clip.ipynb")
    width, films = (32, 2) if small else (512, films)
    shape = (width, 4, 8, 128)
    modules = {"LSTM": lambda: chapter.LSTMHead(width), "transformer": lambda: chapter.TransformerHead(*shape),
               "tight": lambda: chapter.TightHead(*shape)}
    ours: nn.Module = modules[name]().eval()
    mask = (torch.arange(12) < torch.randint(1, 13, (films, 1))).long()
    inputs = torch.randn(films, width), torch.randn(films, 12, width), mask
    return Model(ours, inputs, lambda head, *given: head(*given), f"{films} films of 12 frames and {films} texts")


@model
def lstm(small: bool) -> Model:
    """CLIP4Clip's seqLSTM."""
    return head(small, "LSTM", 128)


@model
def transformer(small: bool) -> Model:
    """CLIP4Clip's seqTransf."""
    return head(small, "transformer", 128)


@model
def tight(small: bool) -> Model:
    """CLIP4Clip's tightTransf: all pairs of a film and a text."""
    return head(small, "tight", 16)
