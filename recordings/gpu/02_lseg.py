"""Chapter 2: LSeg with ViT-L/16, and its decoder beside DPT's."""

import torch

from bench import FOLDER, load
from clipnotes.clip import CLIP, CLIPConfig
from clipnotes.lseg import LSeg, LSegConfig, official_config
from gpu_check import Model, model


@model
def decoder(small: bool) -> Model:
    """LSeg's decoder, 256 channels at 480 pixels."""
    channels, side, bench = 8 if small else 256, 64 if small else 480, load(FOLDER / "02_lseg.py")
    ours, theirs = bench.pair(channels)
    maps = [x.requires_grad_() for x in bench.maps_of(channels, side)]
    return Model(ours, (maps,), lambda decoder, maps: decoder.fuse(maps), f"one picture of {side} pixels",
                 theirs, lambda decoder, maps: decoder(maps), "transformers' DPTFeatureFusionStage")


@model
def whole(small: bool) -> Model:
    """LSeg with ViT-L/16 and 150 labels, everything but the frozen CLIP trained."""
    config, side = (LSegConfig(), 64) if small else (official_config(), 480)
    clip = CLIP(CLIPConfig(config.embed_dim, 32, 1, 64, 8, 16, 512, 64, 1))  # only its standardise is used here
    labels = torch.randn(150, config.embed_dim)
    return Model(LSeg(config, clip).eval(), (torch.rand(1, 3, side, side), labels),
                 lambda lseg, images, labels: lseg(images, labels), f"one picture of {side} pixels")
