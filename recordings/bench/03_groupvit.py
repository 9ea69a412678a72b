"""Chapter 3: the released encoder against transformers'."""

import torch
from torch import nn

from bench import ROOT, Results, benchmark, versus
from notebooks import defined


def pair(small: bool = False) -> tuple[nn.Module, nn.Module]:
    """The released encoder with random weights, and transformers' with the same ones."""
    from transformers import GroupViTVisionConfig, GroupViTVisionModel

    chapter = defined(ROOT / "chapters" / "03_groupvit.ipynb")
    shape = dict(num_output_groups=[64, 8, 0])
    config = chapter.official()
    if small:
        shape = dict(image_size=32, patch_size=8, hidden_size=32, intermediate_size=128, num_attention_heads=2,
                     depths=[1, 1, 1], num_group_tokens=[8, 4, 0], num_output_groups=[8, 4, 0])
        config = chapter.GroupViTConfig(32, 8, 32, (1, 1, 1), 2, (8, 4, 0), (8, 4))
    theirs = GroupViTVisionModel(GroupViTVisionConfig(initializer_range=0.1, **shape)).eval()
    ours = chapter.GroupViT(config).eval()
    ours.load_state_dict(chapter.from_transformers(theirs.state_dict()))
    return ours, theirs


@benchmark
def groupvit(batch: int = 2, turns: int = 5, small: bool = False) -> Results:
    """Chapter 3's encoder at the official size against transformers, with the same random weights."""
    torch.manual_seed(0)
    ours, theirs = pair(small)
    images = torch.randn(batch, 3, *2 * [ours.config.image_size])
    with torch.no_grad():
        mine, other = ours(images)[0], theirs(images).last_hidden_state
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max(), "the encoders differ"
        forward = versus(lambda: ours(images), lambda: theirs(images), turns, 1.1)
    both = versus(lambda: ours(images)[0].sum().backward(),
                  lambda: theirs(images).last_hidden_state.sum().backward(), turns, 1.1)
    return {"GroupViT, official size, forward": forward, "GroupViT, official size, forward and backward": both}
