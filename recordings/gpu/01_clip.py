"""Chapter 1: the towers at OpenAI's sizes, beside open_clip."""

import torch
from torch import Tensor, nn

from bench import FOLDER, load
from clipnotes.clip import CLIP, CLIPConfig, load_clip
from gpu_check import Model, model

SMALL = {"vit": CLIPConfig(32, 32, 2, 64, 8, 16, 512, 64, 2),
         "rn": CLIPConfig(32, 64, (1, 1, 1, 1), 8, None, 16, 512, 64, 2)}


def both_towers(batch: int, name: str, small: CLIPConfig | None) -> Model:
    clip = CLIP(small).eval() if small else load_clip(name, pretrained=None)
    batch, side = 2 if small else batch, clip.config.image_size
    ids = torch.randint(1, clip.config.vocab_size - 1, (batch, clip.config.context_length))
    ids[:, -1] = clip.config.vocab_size - 1  # the end token
    ours, theirs = load(FOLDER / "01_clip.py").pair(clip)
    inputs = clip.standardise(torch.rand(batch, 3, side, side)), ids

    def run(clip: CLIP, images: Tensor, ids: Tensor) -> Tensor:
        return torch.cat([clip.visual(images), clip.encode_ids(ids)])

    def run_theirs(clip: nn.Module, images: Tensor, ids: Tensor) -> Tensor:
        return torch.cat([clip.encode_image(images), clip.encode_text(ids)])

    return Model(ours, inputs, run, f"{batch} pictures of {side} pixels and {batch} texts", theirs, run_theirs,
                 "open_clip.model.CLIP")


@model
def vit_b_32(small: bool) -> Model:
    """CLIP ViT-B/32, both towers."""
    return both_towers(32, "ViT-B-32", SMALL["vit"] if small else None)


@model
def vit_l_14(small: bool) -> Model:
    """CLIP ViT-L/14, both towers."""
    return both_towers(8, "ViT-L-14", SMALL["vit"] if small else None)


@model
def rn50x4(small: bool) -> Model:
    """CLIP RN50x4, both towers, batch norm in evaluation mode."""
    return both_towers(8, "RN50x4", SMALL["rn"] if small else None)
