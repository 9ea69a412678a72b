"""Chapter 1: both towers against open_clip's."""

import torch

from bench import Results, benchmark, versus
from clipnotes.clip import load_clip


@benchmark
def clip(batch: int = 4, turns: int = 7) -> Results:
    """ViT-B/32 against open_clip with the same random weights: image and text towers together."""
    import open_clip  # after clipnotes, which repairs torchvision

    theirs = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).float().eval()
    ours = load_clip("ViT-B-32", pretrained=None).float().eval()
    ours.load_state_dict(theirs.state_dict())
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
