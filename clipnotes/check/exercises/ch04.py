"""The answers to chapter 4's exercises."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import boxes
from clipnotes.check.exercises import Exercise


def parts(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """IoU, union, and the smallest box around both."""
    low, high = torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:])
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, other)]
    overlap = boxes.iou(one, other)
    return overlap, sum(areas) / (1 + overlap), (high - low).prod(-1)


def giou(one: Tensor, other: Tensor) -> Tensor:
    overlap, union, around = parts(one, other)
    return overlap - (around - union) / around


def of_the_union(one: Tensor, other: Tensor) -> Tensor:
    overlap, union, around = parts(one, other)
    return overlap - (around - union) / union


def added(one: Tensor, other: Tensor) -> Tensor:
    overlap, union, around = parts(one, other)
    return overlap + (around - union) / around


def pairs_of_boxes() -> list[tuple[Tensor, Tensor]]:
    """Boxes that overlap, touch, lie far apart, lie inside one another, and many at random."""
    g = torch.Generator().manual_seed(4)
    few = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    others = torch.tensor([[5.0, 0, 15, 10], [10, 0, 20, 10], [30, 40, 50, 45], [2, 3, 4, 5]])
    corner = 20 * torch.rand(2, 30, 2, generator=g)
    many = torch.cat([corner, corner + 1 + 20 * torch.rand(2, 30, 2, generator=g)], -1)
    return [(few, others), (many[0], many[1])]


def soft_labels(student: Tensor, teacher: Tensor, temperature: float, square: bool = True) -> Tensor:
    loss = F.cross_entropy(student / temperature, (teacher / temperature).softmax(1))
    return loss * temperature**2 if square else loss


def answers() -> list[tuple[Tensor, Tensor, float]]:
    g = torch.Generator().manual_seed(5)
    return [(3 * torch.randn(4, 3, generator=g), 3 * torch.randn(4, 3, generator=g), temperature)
            for temperature in (1.0, 2.0, 5.0)]


def text_scores(logits: Tensor) -> Tensor:
    return logits.softmax(1)[:, 1:]


def logits() -> list[tuple[Tensor]]:
    g = torch.Generator().manual_seed(6)
    ground = torch.tensor([[9.0, 0, 1], [0, 2, 1]])
    return [(ground,), (4 * torch.randn(5, 8, generator=g),)]


def federated(labels: Tensor, there: list[int], vain: list[int]) -> Tensor:
    return torch.isin(labels, torch.tensor([*there, *vain], dtype=torch.long))


def federated_cases() -> list[tuple[Tensor, list[int], list[int]]]:
    labels = torch.tensor([0, 3, 3, 7, 5])
    return [(labels, [0], [3]), (labels, [], [5]), (labels, [7, 3], []), (labels, [], [])]


def my_distillation(student: Tensor, teacher: Tensor, box: Tensor) -> Tensor:
    apart = (student - F.normalize(teacher, dim=-1)).abs().sum(-1)
    valid = (box.amax(-1) > 0).float()
    return (apart * valid).sum() / valid.sum().clamp(min=1)


EXERCISES = {
    "generalised_iou": Exercise(
        reference=giou,
        twins=[(boxes.iou, "that is IoU: boxes that do not touch should be below 0, the farther the lower."),
               (of_the_union, "the empty part is a share of the box around both, not of the union."),
               (added, "the empty part is subtracted, not added.")],
        hint="the union is (area of one + area of the other) / (1 + IoU); the box around both takes the smaller "
             "beginnings and the larger ends.",
        cases=pairs_of_boxes,
        anew=["giou", "generalized_box_iou"],
    ),
    "soft_labels": Exercise(
        reference=soft_labels,
        twins=[(lambda s, t, temperature: soft_labels(s, t, temperature, square=False),
                "the square of the temperature is missing: gradients shrink by it."),
               (lambda s, t, temperature: temperature**2 * F.cross_entropy(s / temperature, t.softmax(1)),
                "the teacher's logits are divided by the temperature as well."),
               (lambda s, t, temperature: temperature**2 * F.cross_entropy(s / temperature, t.argmax(1)),
                "that is the teacher's hard answer: its softmax knows more.")],
        hint="F.cross_entropy takes probabilities as targets.",
        cases=answers,
    ),
    "text_scores": Exercise(
        reference=text_scores,
        twins=[(lambda logits: logits.softmax(1)[:, :-1], "the background stands first, not last."),
               (lambda logits: logits.softmax(1), "the background is no name: drop its column afterwards.")],
        hint="who is in the denominator?",
        bug=lambda logits: logits[:, 1:].softmax(1),
        cases=logits,
        anew=["scores_of", "ensemble_scores"],
    ),
    "federated": Exercise(
        reference=federated,
        twins=[(lambda labels, there, vain: federated(labels, there, []),
                "a name that somebody looked for in vain counts, too: its boxes are misses."),
               (lambda labels, there, vain: ~federated(labels, [], vain),
                "a name of which nobody knows whether it is there does not count."),
               (lambda labels, there, vain: federated(labels, [], vain),
                "names that are there count first of all.")],
        hint="torch.isin tells which labels are in a list.",
        cases=federated_cases,
    ),
    "my_distillation": Exercise(
        reference=my_distillation,
        twins=[(lambda student, teacher, box: my_distillation(student, teacher, torch.ones_like(box)),
                "padding was counted: a proposal whose coordinates are all 0."),
               (lambda student, teacher, box: my_distillation(student, teacher, box) / student.shape[-1],
                "the distance is summed over the numbers of a vector, not their mean."),
               (lambda student, teacher, box: (student - teacher).abs().sum(-1)[box.amax(-1) > 0].mean(),
                "the teacher's vectors are made unit vectors first.")],
        hint="unit vectors of the teacher; absolute differences, summed; the mean over real proposals.",
        component="vild.distillation",
        anew=["distillation_loss"],
    ),
}
