"""Chapter 9: ActionCLIP with ViT-B/32, shift and transformer head."""

import torch

from bench import ROOT
from clipnotes.clip import CLIP, CLIPConfig, load_clip
from gpu_check import Model, model
from notebooks import defined


@model
def films(small: bool) -> Model:
    """ActionCLIP with ViT-B/32: shift inside, six blocks behind, eight frames."""
    chapter = defined(ROOT / "chapters" / "09_actionclip.ipynb")
    clip = CLIP(CLIPConfig(32, 32, 2, 64, 8, 16, 512, 64, 2)) if small else load_clip("ViT-B-32", pretrained=None)
    width, side, batch = clip.config.embed_dim, clip.config.image_size, 2 if small else 4
    ours = chapter.ActionCLIP(clip, chapter.Transf(width, heads=2 if small else 8), div=8).eval()
    return Model(ours, (torch.rand(batch, 8, 3, side, side),), lambda model, frames: model.encode_video(frames),
                 f"{batch} films of 8 frames of {side} pixels")
