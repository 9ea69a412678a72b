"""Chapter 7: the rasteriser, and where a step of drawing spends its time."""

from collections.abc import Callable, Sequence

import torch

from bench import ROOT, Results, benchmark, versus
from clipnotes.clip import load_clip
from clipnotes.strokes import render, render_naive
from notebooks import defined


@benchmark
def strokes(sides: Sequence[int] = (64, 112, 224), numbers: Sequence[int] = (4, 16, 64), turns: int = 3,
            pieces: int = 8) -> Results:
    """The sparse rasteriser against the dense one, forward and backward; and that it costs as much as there is ink.

    The dense one gets few pieces a curve, which is too coarse to draw with: at 224 pixels it takes gigabytes even so.
    """
    torch.manual_seed(0)
    start = torch.rand(1, max(numbers), 1, 2)
    unit = (start + (0.15 * torch.randn(1, max(numbers), 4, 2)).cumsum(2)).clamp(0.05, 0.95)

    def both_ways(draw: Callable[..., torch.Tensor], number: int, side: int, canvas: int, **extra: int) -> Callable:
        points = (side * unit[:, :number]).requires_grad_()
        return lambda: draw(points, 1.5, canvas, **extra).square().mean().backward()

    found = {}
    for side in sides:
        for number in numbers:
            ours = both_ways(render, number, side, side)
            dense = both_ways(render_naive, number, side, side, pieces=pieces)
            bar = 0.25 if number * side >= 16 * 112 else None  # below that, calling torch takes the time
            found[f"{number} strokes at {side} px, sparse against dense"] = versus(ours, dense, turns, bar)
    few, many, small, large = min(numbers), max(numbers), min(sides), max(sides)
    found[f"{many} strokes on {large} px against {small} px, with the same ink"] = versus(
        both_ways(render, many, small, large), both_ways(render, many, small, small), turns, 2)
    found[f"{many} strokes against {few}"] = versus(
        both_ways(render, many, small, small), both_ways(render, few, small, small), turns, 1.5 * many / few)
    return found


@benchmark
def steps(names: Sequence[str] = ("tiny-rn", "RN101"), count: int = 16, turns: int = 5) -> Results:
    """Where a step of chapter 7 spends its time: drawing (ours) against CLIP (reference), forward and backward."""
    chapter, found = defined(ROOT / "chapters" / "07_clipasso.ipynb"), {}
    for name in names:
        recipe = chapter.Recipe() if name == "tiny-rn" else chapter.released()
        model = load_clip(name, pretrained=None).requires_grad_(False)
        image = torch.rand(1, 3, recipe.canvas, recipe.canvas)
        points = chapter.starts_anywhere(1, count, recipe.canvas).requires_grad_()
        grids = chapter.warp_grids(recipe.views, recipe.view, torch.Generator().manual_seed(0))
        with torch.no_grad():
            target = chapter.read_image(model, chapter.seen(image, grids, recipe.view))

        def drawing(points=points, recipe=recipe) -> None:
            chapter.render(points, recipe.width, recipe.canvas, "gaussian", recipe.sigma[1]).square().sum().backward()

        def reading(model=model, image=image, grids=grids, target=target, recipe=recipe) -> None:
            sketch = image.clone().requires_grad_()
            read = chapter.read_image(model, chapter.seen(sketch, grids, recipe.view))
            sum(chapter.feature_losses(read, target, recipe.weights, views=1 + recipe.views).values()).sum().backward()

        found[f"CLIPasso, a step at {recipe.canvas} px: {count} strokes against {name}"] = versus(
            drawing, reading, turns)
    return found
