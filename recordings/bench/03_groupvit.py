"""Chapter 3: the released encoder against transformers'."""

import torch

from bench import ROOT, Results, benchmark, versus
from notebooks import defined


@benchmark
def groupvit(batch: int = 2, turns: int = 5) -> Results:
    """Chapter 3's encoder at the official size against transformers, with the same random weights."""
    from transformers import GroupViTVisionConfig, GroupViTVisionModel

    chapter = defined(ROOT / "chapters" / "03_groupvit.ipynb")
    torch.manual_seed(0)
    theirs = GroupViTVisionModel(GroupViTVisionConfig(num_output_groups=[64, 8, 0], initializer_range=0.1)).eval()
    ours = chapter.GroupViT(chapter.official()).eval()
    ours.load_state_dict(chapter.from_transformers(theirs.state_dict()))
    images = torch.randn(batch, 3, 224, 224)
    with torch.no_grad():
        mine, other = ours(images)[0], theirs(images).last_hidden_state
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max(), "the encoders differ"
        forward = versus(lambda: ours(images), lambda: theirs(images), turns, 1.1)
    both = versus(lambda: ours(images)[0].sum().backward(),
                  lambda: theirs(images).last_hidden_state.sum().backward(), turns, 1.1)
    return {"GroupViT, official size, forward": forward, "GroupViT, official size, forward and backward": both}
