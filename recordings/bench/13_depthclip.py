"""Chapter 13: the head against the image tower."""

from collections.abc import Callable

import torch

from bench import ROOT, Results, benchmark, versus
from clipnotes.clip import load_clip
from notebooks import defined


@benchmark
def head(batch: int = 16, turns: int = 5) -> Results:
    """The head on given vectors against the image tower, and how it grows with the number of bins."""
    chapter = defined(ROOT / "chapters" / "13_depthclip.ipynb")
    torch.manual_seed(0)
    rn, images, found = load_clip("tiny-rn").eval(), torch.rand(batch, 3, 128, 128), {}
    vectors = chapter.patch_vectors(rn, images)

    def answer(count: int) -> Callable[[], torch.Tensor]:
        text_emb, bins = torch.randn(count, vectors.shape[-1]), torch.linspace(1, 20, count)
        return lambda: chapter.to_pixels(chapter.word_probs(vectors, text_emb, 100) @ bins, (128, 128))

    for count in (7, 64, 512):
        found[f"DepthCLIP, head with {count} bins against tower"] = versus(
            answer(count), lambda: chapter.patch_vectors(rn, images), turns, 0.5 if count == 7 else None)
    found["DepthCLIP, 512 bins against 64"] = versus(answer(512), answer(64), turns, 16)
    return found
