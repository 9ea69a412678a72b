"""Chapter 2: the released decoder against DPT's."""

import torch

from bench import Results, benchmark, versus
from clipnotes.lseg import Decoder, official_config


@benchmark
def lseg(channels: int = 256, side: int = 480, turns: int = 7) -> Results:
    """The released decoder's fusion at 480 pixels, 256 channels, against DPT's blocks in transformers."""
    from transformers import DPTConfig
    from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage

    torch.manual_seed(0)
    ours = Decoder(official_config(channels=(channels,) * 4, features=channels)).eval()
    config = DPTConfig(fusion_hidden_size=channels, use_batch_norm_in_fusion_residual=True,
                       use_bias_in_fusion_residual=False)
    theirs = DPTFeatureFusionStage(config).eval()
    for i, layer in enumerate(theirs.layers):
        block = getattr(ours, f"refinenet{4 - i}")
        layer.projection.load_state_dict(block.out_conv.state_dict())
        for mine, other in ((block.resConfUnit1, layer.residual_layer1), (block.resConfUnit2, layer.residual_layer2)):
            torch.nn.init.ones_(mine.bn2.weight)  # zero at the start: half of the block would do nothing
            for a, b in (("conv1", "convolution1"), ("conv2", "convolution2"), ("bn1", "batch_norm1"),
                         ("bn2", "batch_norm2")):
                getattr(other, b).load_state_dict(getattr(mine, a).state_dict())
    maps = [torch.rand(1, channels, side // stride, side // stride) for stride in (4, 8, 16, 32)]
    convolutions = [getattr(ours, f"layer{i}_rn") for i in (1, 2, 3, 4)]

    def reference() -> torch.Tensor:
        return theirs([c(m) for c, m in zip(convolutions, maps, strict=True)])[-1]

    with torch.no_grad():
        assert torch.allclose(ours.fuse(maps), reference(), atol=1e-3), "the decoders differ"
        return {"LSeg's decoder, official size, forward": versus(lambda: ours.fuse(maps), reference, turns, 1.1)}
