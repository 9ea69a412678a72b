"""Chapter 4: ViLD's head at its official size."""

import torch

from bench import ROOT
from gpu_check import Model, model
from notebooks import defined


@model
def head(small: bool) -> Model:
    """ViLD-ensemble's head: four convolutions of 256 channels, 1,024 numbers, 512 of CLIP's, LVIS' 1,203 names."""
    chapter = defined(ROOT / "chapters" / "04_vild.ipynb")
    channels, hidden, names, regions = (16, 32, 20, 8) if small else (256, 1024, 1203, 512)
    ours = chapter.ViLDHead(channels, 7, 4, hidden, 512, separate=True)
    inputs = (torch.rand(regions, channels, 7, 7, requires_grad=True), torch.randn(names, 512))

    def run(head: torch.nn.Module, regions: torch.Tensor, text_emb: torch.Tensor) -> torch.Tensor:
        logits, codes, image_emb = head(regions, text_emb)
        return torch.cat([logits / chapter.SCALE, codes, image_emb], 1)

    return Model(ours, inputs, run, f"{regions} regions of one picture, {names} names")
