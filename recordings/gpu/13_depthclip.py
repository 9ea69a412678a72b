"""Chapter 13: DepthCLIP with ResNet-50 at the size of NYU's pictures."""

import torch

from bench import ROOT
from clipnotes.clip import load_clip
from gpu_check import Model, model
from notebooks import defined


@model
def depth(small: bool) -> Model:
    """DepthCLIP with ResNet-50, seven words, 416 by 544 pixels; nothing is trained."""
    chapter = defined(ROOT / "chapters" / "13_depthclip.ipynb")
    clip = load_clip("tiny-rn" if small else "RN50", pretrained=None)
    ours = chapter.DepthCLIP(clip, chapter.WORDS, chapter.BINS).eval()
    size = (128, 128) if small else (416, 544)
    return Model(ours, (torch.rand(2, 3, *size, requires_grad=True),), lambda model, images: model(images, flip=True),
                 f"2 pictures of {size[0]}×{size[1]} pixels, and mirrored")
