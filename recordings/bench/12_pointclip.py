"""Chapter 12: points a second, and what a view costs."""

from collections.abc import Callable, Sequence

import torch

from bench import ROOT, Results, benchmark, rate, versus
from clipnotes.clip import load_clip
from notebooks import defined


@benchmark
def projections(numbers: Sequence[int] = (256, 1024, 4096, 65536), clouds: int = 4, turns: int = 3) -> Results:
    """Points a second of both projections, six or ten views, against the loop, and what views cost.

    The loop is timed on the fewest points. The cost of a view is that of projecting and of the tiny CLIP together.
    """
    chapter = defined(ROOT / "chapters" / "12_pointclip.ipynb")
    g, six, found = torch.Generator().manual_seed(0), chapter.views(6), {}
    ball = torch.randn(clouds, max(numbers), 3, generator=g)
    ball = ball / ball.norm(dim=2, keepdim=True).clamp(min=1)

    def loop(points: torch.Tensor) -> None:
        for cloud in points:
            for rotation, translation in zip(*six, strict=True):
                chapter.project_naive(cloud, rotation, translation, 37)

    few = ball[:, : min(numbers)]
    found[f"PointCLIP, {min(numbers)} points in six views, at once against the loop"] = versus(
        lambda: chapter.project(few, *six, 37), lambda: loop(few), turns, 0.25)
    for n in numbers:
        points = ball[:, :n]
        for name, run in (("projection", lambda p=points: chapter.project(p, *six, 37)),
                          ("V2's projection", lambda p=points: chapter.project_v2(p, chapter.views_v2()))):
            found[f"PointCLIP, {name}, clouds of {n}"] = rate(run, clouds * n, "points", turns)
    most, least = ball, ball[:, : max(numbers) // 4]
    found[f"PointCLIP, {max(numbers)} points against a quarter of them"] = versus(
        lambda: chapter.project(most, *six, 37), lambda: chapter.project(least, *six, 37), turns, 8)
    tiny = load_clip("tiny")

    def whole(count: int) -> Callable[[], object]:
        recipe = chapter.Recipe(count)
        return lambda: chapter.encode_views(tiny, recipe(few))

    found["PointCLIP, from points to vectors, ten views against six"] = versus(whole(10), whole(6), turns, 2.5)
    return found
