"""The answers to chapter 12's exercises."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes.check.exercises import Exercise


def turned() -> list[tuple[Tensor, int]]:
    """Points before the eye, and the canvas."""
    g = torch.Generator().manual_seed(5)
    x, z = 1.2 * torch.rand(40, 2, generator=g) - 0.6, 0.7 + 1.8 * torch.rand(40, 1, generator=g)
    return [(torch.cat([x, z], 1), 32), (torch.cat([-x, z], 1), 37)]


def nearest(q: Tensor, size: int) -> Tensor:
    return torch.ceil((q[:, :2] / q[:, 2:] + 1) * size / 2 - 0.5).long()


def some_maps() -> list[tuple[Tensor]]:
    """Depth maps with empty pixels, each with a largest depth of its own; one is full."""
    g = torch.Generator().manual_seed(6)
    depth = 0.6 + 2 * torch.rand(2, 3, 5, 4, generator=g)
    return [(depth.where(torch.rand(2, 3, 5, 4, generator=g) > 0.6, 0.0),), (depth[:1],)]


def white(depth: Tensor) -> Tensor:
    return torch.where(depth > 0, 0.8 * depth / depth.amax((2, 3), keepdim=True), 1.0)


def weighed() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Views of any length, unit texts, weights that differ and weights that do not."""
    g = torch.Generator().manual_seed(7)
    view_emb, text_emb = 3 * torch.randn(3, 4, 8, generator=g), F.normalize(torch.randn(5, 8, generator=g), dim=1)
    return [(view_emb, text_emb, torch.tensor([1.0, 0.25, 0.5, 0.75])), (view_emb, text_emb, torch.full((4,), 0.5))]


def weighted_scores(view_emb: Tensor, text_emb: Tensor, weights: Tensor) -> Tensor:
    return (F.normalize(view_emb, dim=-1) * weights[:, None]).sum(1) @ text_emb.T


def weights_swallowed(view_emb: Tensor, text_emb: Tensor, weights: Tensor) -> Tensor:
    return F.normalize(view_emb * weights[:, None], dim=-1).sum(1) @ text_emb.T


def two_models() -> list[tuple[Tensor, Tensor]]:
    """Probabilities of two models on random clouds, and by hand: with equal bests in the last row."""
    g = torch.Generator().manual_seed(8)
    one, other = (torch.randn(30, 4, generator=g).softmax(1) for _ in range(2))
    first = torch.tensor([[0.6, 0.4, 0.0], [0.34, 0.33, 0.33], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]])
    second = torch.tensor([[0.0, 0.5, 0.5], [0.1, 0.1, 0.8], [0.1, 0.45, 0.45], [0.5, 0.1, 0.4]])
    return [(one, other), (first, second)]


def likelier(one: Tensor, other: Tensor) -> Tensor:
    return torch.where(one.amax(1) >= other.amax(1), one.argmax(1), other.argmax(1))


def projection(place=nearest, harmonic: bool = True, to_border: bool = False):
    """A projection, right as it stands; each argument makes one of the usual mistakes."""
    def project(points: Tensor, rotation: Tensor, translation: Tensor, size: int) -> Tensor:
        q = points[:, None] @ rotation - translation[:, None]
        row_column = place(q.flatten(0, 2), size).view(*q.shape[:3], 2)
        seen = ((row_column >= 0) & (row_column < size)).all(-1) | to_border
        row, column = row_column.clamp(0, size - 1).unbind(-1)
        cell, empty = row * size + column, q.new_zeros(*q.shape[:2], size * size)
        count, value = empty.scatter_add(2, cell, seen.float()), 1 / q[..., 2] if harmonic else q[..., 2]
        total = empty.scatter_add(2, cell, seen * value)
        depth = count / total.clamp(min=1e-9) if harmonic else total / count.clamp(min=1)
        return torch.where(count > 0, depth, 0.0).unflatten(2, (size, size))

    return project


EXERCISES = {
    "pixels": Exercise(
        reference=nearest,
        twins=[(lambda q, size: torch.ceil((q[:, :2] / q[:, 2:] + 1) * size / 2).long(),
                "that is plain ceil: half a pixel too far."),
               (lambda q, size: torch.ceil((q[:, :2] + 1) * size / 2 - 0.5).long(),
                "perspective is missing: divide by the depth first."),
               (lambda q, size: nearest(q, size).flip(1), "x gives the row and y the column.")],
        hint="divide by the depth, add one, times half the canvas, minus a half, ceil, as whole numbers.",
        cases=turned,
        anew=["pixels_met"],
    ),
    "inside_out": Exercise(
        reference=white,
        twins=[(lambda depth: 0.8 * depth / depth.amax((2, 3), keepdim=True), "the ground is still black."),
               (lambda depth: torch.where(depth > 0, 0.8 * depth / depth.max(), 1.0),
                "each map has a largest depth of its own."),
               (lambda depth: 1 - 0.8 * depth / depth.amax((2, 3), keepdim=True), "now near is bright.")],
        hint="torch.where on depth > 0; the largest depth over H and W, kept as two dimensions of one.",
        cases=some_maps,
    ),
    "weighted_scores": Exercise(
        reference=weighted_scores,
        twins=[(lambda view_emb, text_emb, weights: (view_emb * weights[:, None]).sum(1) @ text_emb.T,
                "now long vectors count more: the views must be unit."),
               (lambda view_emb, text_emb, weights: F.normalize(view_emb, dim=-1).sum(1) @ text_emb.T,
                "the weights are gone."),
               (lambda view_emb, text_emb, weights:
                F.normalize((view_emb * weights[:, None]).sum(1), dim=-1) @ text_emb.T,
                "each view is made unit, not their sum.")],
        hint="unit length first, the weight afterwards: normalising swallows every factor.",
        bug=weights_swallowed,
        cases=weighed,
        anew=["fuse", "fuse_naive"],
    ),
    "likelier": Exercise(
        reference=likelier,
        twins=[(lambda one, other: (one + other).argmax(1), "that is the mean: both answer."),
               (lambda one, other: one.argmax(1), "the first model always answers."),
               (lambda one, other: torch.where(one.amax(1) > other.amax(1), one.argmax(1), other.argmax(1)),
                "where both are equal, the first answers.")],
        hint="compare the two largest probabilities row by row, then take that model's argmax.",
        cases=two_models,
    ),
    "my_project": Exercise(
        reference=projection(),
        twins=[(projection(place=lambda q, size: torch.ceil((q[:, :2] / q[:, 2:] + 1) * size / 2).long()),
                "that is plain ceil: take away a half before it."),
               (projection(harmonic=False), "a pixel holds the harmonic mean, n over the sum of 1/z."),
               (projection(to_border=True), "what lies beyond the canvas is dropped, not moved to its border."),
               (projection(place=lambda q, size: nearest(q, size).flip(1)), "x gives the row and y the column.")],
        hint="turn, subtract the translation, divide by z, round as in (12.2), two sums a pixel.",
        component="pointclip.project",
        anew=["project", "project_naive", "project_overwriting", "pixels_met"],
    ),
}
