"""Chapter 3: the released encoder, beside transformers'."""

from dataclasses import replace

import torch
from torch import nn

from bench import FOLDER, load
from gpu_check import Model, model


def read(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return encoder(images)[0]


def pictures(encoder: nn.Module, batch: int) -> tuple[torch.Tensor]:
    return (torch.randn(batch, 3, encoder.config.image_size, encoder.config.image_size),)


@model
def encoder(small: bool) -> Model:
    """GroupViT's encoder, 12 blocks at 224 pixels, as released."""
    ours, theirs = load(FOLDER / "03_groupvit.py").pair(small)
    batch = 2 if small else 16
    free = {kind: (2.0, -1.0) for kind in ("bf16", "fp16")}
    return Model(ours, pictures(ours, batch), read, f"{batch} pictures of {ours.config.image_size} pixels", theirs,
                 lambda encoder, images: encoder(images).last_hidden_state, "transformers' GroupViTVisionModel", free,
                 "A patch belongs to one group only, and a rounding error may change which: so half precisions are "
                 "only timed here, and compared in the next row.")


@model
def soft_encoder(small: bool) -> Model:
    """The same encoder with soft groups, where nothing can flip."""
    hard = load(FOLDER / "03_groupvit.py").pair(small)[0]
    ours, batch = type(hard)(replace(hard.config, hard=False)).eval(), 2 if small else 16
    ours.load_state_dict(hard.state_dict())
    return Model(ours, pictures(ours, batch), read, f"{batch} pictures of {ours.config.image_size} pixels")
