"""Chapter 9: films a second of each temporal module."""

import torch

from bench import ROOT, Results, benchmark, rate
from clipnotes.clip import load_clip
from notebooks import defined


@benchmark
def modules(batch: int = 16, turns: int = 3) -> Results:
    """Films a second, forward, of each temporal module, and how the cost grows with frames.

    Towers read pixels (32×32, the tiny CLIP); heads read the frame vectors.
    """
    chapter = defined(ROOT / "chapters" / "09_actionclip.ipynb")
    torch.manual_seed(0)
    tiny, found = load_clip("tiny").eval(), {}
    heads = {name: chapter.make_head(name).eval() for name in ("mean", "conv1d", "lstm", "transf")}
    joint = chapter.JointTower(tiny.visual, 32).eval()
    for count in (4, 8, 32):
        pixels, vectors = torch.randn(batch, count, 3, 32, 32), torch.randn(batch, count, 128)
        runs = {"no shift": lambda x=pixels: chapter.frame_vectors(tiny.visual, x, 0),
                "shift": lambda x=pixels: chapter.frame_vectors(tiny.visual, x, 8),
                "joint tokens": lambda x=pixels: joint(x)}
        runs |= {f"{name} head": lambda x=vectors, head=head: head(x) for name, head in heads.items()}
        with torch.no_grad():
            for name, run in runs.items():
                found[f"ActionCLIP, {name}, {count} frames"] = rate(run, batch, "films", turns)
    return found
