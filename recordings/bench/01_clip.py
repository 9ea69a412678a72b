"""Chapter 1: both towers against open_clip's."""

from tempfile import TemporaryDirectory

import torch
from torch import nn

from bench import Results, benchmark, versus
from clipnotes.clip import CLIP, export_open_clip, load_clip


def pair(ours: CLIP) -> tuple[CLIP, nn.Module]:
    """A CLIP, and open_clip's with the same weights."""
    import open_clip
    from safetensors.torch import load_file

    with TemporaryDirectory() as folder:
        theirs = open_clip.model.CLIP(**export_open_clip(ours, f"{folder}/clip.safetensors"))
        theirs.load_state_dict(load_file(f"{folder}/clip.safetensors"))
    return ours, theirs.eval()


@benchmark
def clip(batch: int = 4, turns: int = 7) -> Results:
    """ViT-B/32 against open_clip with the same random weights: image and text towers together."""
    import open_clip  # after clipnotes, which repairs torchvision

    ours, theirs = pair(load_clip("ViT-B-32", pretrained=None).float().eval())
    texts = open_clip.SimpleTokenizer()([f"a photo of {i} dogs" for i in range(batch)])
    plain = ours.standardise(torch.rand(batch, 3, 224, 224))
    with torch.no_grad():
        images_agree = torch.allclose(ours.visual(plain), theirs.encode_image(plain), atol=1e-4)
        texts_agree = torch.allclose(ours.encode_ids(texts), theirs.encode_text(texts), atol=1e-4)
    assert images_agree and texts_agree, "the towers differ"

    def forward_ours() -> torch.Tensor:
        return ours.visual(plain).sum() + ours.encode_ids(texts).sum()

    def forward_theirs() -> torch.Tensor:
        return theirs.encode_image(plain).sum() + theirs.encode_text(texts).sum()

    with torch.no_grad():
        forward = versus(forward_ours, forward_theirs, turns, 1.1)
    both = versus(lambda: forward_ours().backward(), lambda: forward_theirs().backward(), turns, 1.1)
    return {"ViT-B/32 forward": forward, "ViT-B/32 forward and backward": both}
