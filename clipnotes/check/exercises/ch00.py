"""The answers to the template's exercises."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes.check.exercises import Exercise


def loss(image_emb: Tensor, text_emb: Tensor, logit_scale: Tensor) -> Tensor:
    logits = logit_scale * image_emb @ text_emb.T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def one_way(image_emb: Tensor, text_emb: Tensor, logit_scale: Tensor) -> Tensor:
    return F.cross_entropy(logit_scale * image_emb @ text_emb.T, torch.arange(len(image_emb)))


def tables() -> list[tuple[Tensor]]:
    """Scores without ties, of several sizes; in the first the right text is never in the first place."""
    g = torch.Generator().manual_seed(0)
    hard = torch.tensor([[0.1, 0.9, 0.5], [0.6, 0.2, 0.4], [0.8, 0.3, 0.7]])
    return [(hard,), (torch.randn(6, 6, generator=g),), (torch.eye(4) + torch.arange(16).view(4, 4) / 100,)]


def rows() -> list[tuple[Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [(torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 2.0]]),), (torch.randn(5, 3, generator=g),)]


EXERCISES = {
    "negatives": Exercise(
        reference=lambda n: n * n - n,
        twins=[(lambda n: n * n - 1, "the diagonal holds n right pairs, not one."),
               (lambda n: n - 1, "that is one row; there are n of them."),
               (lambda n: n * n, "those are all places; the right pairs are among them.")],
        hint="how many places has the table, and how many are right?",
        cases=lambda: [(2,), (8,), (100,)],
    ),
    "certainty": Exercise(
        reference=7,
        twins=[(6, "6 reaches 0.987. One more."),
               (100, "it can be smaller: the second best cosine lies 0.7 below the best.")],
        hint="try a few factors and print the probabilities.",
    ),
    "row_lengths": Exercise(
        reference=lambda x: x / x.norm(dim=1, keepdim=True),
        twins=[(lambda x: x / x.norm(), "one number for the whole table leaves rows of different length."),
               (lambda x: x / x.sum(dim=1, keepdim=True), "the sum of a row is not its length.")],
        hint="which dimension is divided by, and what does it run over?",
        bug=lambda x: x / x.norm(dim=0, keepdim=True),
        cases=rows,
    ),
    "ranks": Exercise(
        reference=lambda table: (table > table.diagonal()[:, None]).sum(1) + 1,
        twins=[(lambda table: (table > table.diagonal()[:, None]).sum(1), "the first place is 1, not 0."),
               (lambda table: (table > table.diagonal()).sum(0) + 1, "a picture asks along its row.")],
        hint="how many entries of the row are larger than the diagonal one?",
        cases=tables,
    ),
    "my_loss": Exercise(
        reference=loss,
        twins=[(one_way, "only the pictures ask: the columns are questions, too."),
               (lambda *given: 2 * loss(*given), "the two directions are averaged, not added."),
               (lambda u, v, scale: loss(u, v, scale.exp()), "the factor comes as it is, exp taken.")],
        hint="logits, labels on the diagonal, two cross entropies.",
        component="clip.loss",
        anew=["clip_loss", "loss_naive"],
    ),
}
