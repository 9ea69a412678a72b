"""Chapter 12: projections on both devices, and PointCLIP with ResNet-101 and its adapter."""

import torch
from torch import Tensor, nn

from bench import ROOT
from clipnotes.clip import load_clip
from gpu_check import Model, model, same
from notebooks import defined


def clouds(count: int, points: int) -> Tensor:
    x = torch.randn(count, points, 3)
    return x / x.norm(dim=2, keepdim=True).clamp(min=1)


@same(bound=0.02)  # a point on the edge between two pixels may fall on the other side
def projections(device: str, small: bool) -> list[Tensor]:
    """Clouds of 1,024 points as depth maps: PointCLIP's projection and V2's."""
    chapter = defined(ROOT / "chapters" / "12_pointclip.ipynb")
    points = clouds(2 if small else 16, 64 if small else 1024).to(device)
    return [chapter.RELEASED(points), chapter.RELEASED_FEW_SHOT(points),
            chapter.project_v2(points, chapter.views_v2().to(device))]


class Adapted(nn.Module):
    """A frozen CLIP that sees depth maps, and the adapter that learns."""

    def __init__(self, clip: nn.Module, adapter: nn.Module):
        super().__init__()
        self.clip, self.adapter = clip.requires_grad_(False), adapter


@model
def few_shot(small: bool) -> Model:
    """PointCLIP with ResNet-101, ten views of 224 pixels; the adapter learns."""
    chapter = defined(ROOT / "chapters" / "12_pointclip.ipynb")
    clip = load_clip("tiny-rn" if small else "RN101", pretrained=None)
    count, recipe = (1, chapter.Recipe(10, 37, 128)) if small else (4, chapter.RELEASED_FEW_SHOT)
    ours = Adapted(clip, chapter.InterViewAdapter(10, clip.config.embed_dim)).eval()
    maps = recipe(clouds(count, 1024))

    def run(model: Adapted, maps: Tensor) -> Tensor:
        view_emb = chapter.encode_views(model.clip, maps)  # the chapter keeps vectors on the CPU
        return model.adapter(view_emb.to(maps.device))

    return Model(ours, (maps,), run, f"{count} cloud{'s' * (count > 1)} in 10 views of {recipe.size} pixels")
