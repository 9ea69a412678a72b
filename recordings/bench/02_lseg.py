"""Chapter 2: the released decoder against DPT's."""

import torch
from torch import Tensor, nn

from bench import Results, benchmark, versus
from clipnotes.lseg import Decoder, official_config


class DPTDecoder(nn.Module):
    """The decoder's fusion by transformers' DPT, with the same weights: its blocks, behind our first convolutions."""

    def __init__(self, ours: Decoder, channels: int):
        super().__init__()
        from transformers import DPTConfig
        from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage

        config = DPTConfig(fusion_hidden_size=channels, use_batch_norm_in_fusion_residual=True,
                           use_bias_in_fusion_residual=False)
        self.stage = DPTFeatureFusionStage(config)
        self.narrow = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(4))
        for i, conv in enumerate(self.narrow, 1):
            conv.load_state_dict(getattr(ours, f"layer{i}_rn").state_dict())
        for i, layer in enumerate(self.stage.layers):
            block = getattr(ours, f"refinenet{4 - i}")
            layer.projection.load_state_dict(block.out_conv.state_dict())
            units = (block.resConfUnit1, layer.residual_layer1), (block.resConfUnit2, layer.residual_layer2)
            for mine, other in units:
                for a, b in (("conv1", "convolution1"), ("conv2", "convolution2"), ("bn1", "batch_norm1"),
                             ("bn2", "batch_norm2")):
                    getattr(other, b).load_state_dict(getattr(mine, a).state_dict())

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.stage([conv(x) for conv, x in zip(self.narrow, maps, strict=True)])[-1]


def pair(channels: int = 256) -> tuple[Decoder, DPTDecoder]:
    """The released decoder with random weights, and DPT's with the same ones."""
    ours = Decoder(official_config(channels=(channels,) * 4, features=channels))
    for name, module in ours.named_modules():
        if name.endswith("bn2"):
            nn.init.ones_(module.weight)  # zero at the start: half of the block would do nothing
    return ours.eval(), DPTDecoder(ours, channels).eval()


def maps_of(channels: int = 256, side: int = 480) -> list[Tensor]:
    """Four maps, as the encoder gives them for one picture."""
    return [torch.rand(1, channels, side // stride, side // stride) for stride in (4, 8, 16, 32)]


@benchmark
def lseg(channels: int = 256, side: int = 480, turns: int = 7) -> Results:
    """The released decoder's fusion at 480 pixels, 256 channels, against DPT's blocks in transformers."""
    torch.manual_seed(0)
    (ours, theirs), maps = pair(channels), maps_of(channels, side)
    with torch.no_grad():
        assert torch.allclose(ours.fuse(maps), theirs(maps), atol=1e-3), "the decoders differ"
        found = versus(lambda: ours.fuse(maps), lambda: theirs(maps), turns, 1.1)
    return {"LSeg's decoder, official size, forward": found}
