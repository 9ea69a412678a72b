"""Chapter 7: the rasteriser, and a step of drawing as released."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from bench import ROOT
from clipnotes.clip import CLIP, load_clip
from clipnotes.strokes import render, render_naive
from gpu_check import Model, model, same
from notebooks import defined


def strokes(batch: int, count: int, side: int) -> Tensor:
    start = torch.rand(batch, count, 1, 2)
    return side * (start + (0.15 * torch.randn(batch, count, 4, 2)).cumsum(2)).clamp(0.05, 0.95)


def drawn(device: str, side: int, count: int, coverage: str) -> Iterator[Tensor]:
    """Black strokes, coloured ones of several widths, and the gradients of all that can be learned."""
    learned = [strokes(2, count, side), 0.5 + 2 * torch.rand(2, count), 0.2 + 0.6 * torch.rand(2, count),
               torch.rand(2, count, 3)]
    points, widths, opacity, colour = (value.to(device).requires_grad_() for value in learned)
    plain = render(points, 1.5, side, coverage)
    painted = render(points, widths, side, coverage, opacity=opacity, colour=colour)
    (plain.square().mean() + painted.square().mean()).backward()
    yield from (plain, painted, points.grad, widths.grad, opacity.grad, colour.grad)


@same
def rasteriser_ramp(device: str, small: bool) -> Iterator[Tensor]:
    """The rasteriser, coverage "ramp": 16 strokes at 224 pixels, values and gradients."""
    return drawn(device, 32 if small else 224, 4 if small else 16, "ramp")


@same
def rasteriser_gaussian(device: str, small: bool) -> Iterator[Tensor]:
    """The rasteriser, coverage "gaussian": 16 strokes at 224 pixels, values and gradients."""
    return drawn(device, 32 if small else 224, 4 if small else 16, "gaussian")


@same
def rasteriser_area(device: str, small: bool) -> Iterator[Tensor]:
    """The rasteriser, coverage "area": 16 strokes at 224 pixels, values and gradients."""
    return drawn(device, 32 if small else 224, 4 if small else 16, "area")


@same
def many_strokes(device: str, small: bool) -> Iterator[Tensor]:
    """The rasteriser, 256 strokes at 224 pixels."""
    return drawn(device, 32 if small else 224, 8 if small else 256, "ramp")


@same
def rasteriser_naive(device: str, small: bool) -> list[Tensor]:
    """The first version of the rasteriser: every pixel, every curve."""
    points = strokes(1, 4, 32 if small else 112).to(device).requires_grad_()
    image = render_naive(points, 1.5, 32 if small else 112)
    image.square().mean().backward()
    return [image, points.grad]


@model
def step(small: bool) -> Model:
    """A step of CLIPasso as released: 16 strokes, ResNet-101, one plain and four warped views; the strokes learn."""
    chapter = defined(ROOT / "chapters" / "07_clipasso.ipynb")
    recipe = replace(chapter.Recipe(), canvas=64, view=96) if small else chapter.released()
    clip = load_clip("tiny-rn" if small else "RN101", pretrained=None).requires_grad_(False)
    image = torch.rand(1, 3, recipe.canvas, recipe.canvas)
    grids = chapter.warp_grids(recipe.views, recipe.view, torch.Generator().manual_seed(0))
    points = strokes(1, 16, recipe.canvas).requires_grad_()

    def run(clip: CLIP, points: Tensor, image: Tensor, grids: Tensor) -> Tensor:
        sketch = chapter.render(points, recipe.width, recipe.canvas, "gaussian", recipe.sigma[1])
        with torch.no_grad():
            target = chapter.read_image(clip, chapter.seen(image, grids, recipe.view))
        read = chapter.read_image(clip, chapter.seen(sketch, grids, recipe.view))
        return sum(chapter.feature_losses(read, target, recipe.weights, views=1 + recipe.views).values())

    return Model(clip, (points, image, grids), run, f"one sketch of {recipe.canvas} pixels, {1 + recipe.views} views")
