"""The answers to chapter 13's exercises."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes.check.exercises import Exercise

BINS = torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(13)


def some_cosines() -> list[tuple[Tensor, Tensor, float]]:
    """Places of different shapes, none with as many rows as words, at soft and at sharp temperatures."""
    shapes, taus = ((3, 4, 6), (2, 5, 6), (7, 6), (6,)), (0.1, 0.03, 2.0, 0.5)
    g = generator()
    return [(torch.rand(shape, generator=g), BINS, tau) for shape, tau in zip(shapes, taus, strict=True)]


def metres(cosines: Tensor, bins: Tensor, tau: float) -> Tensor:
    return (cosines / tau).softmax(-1) @ bins


def some_probs() -> list[tuple[Tensor, Tensor]]:
    two = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]])
    return [(two, torch.tensor([2.0, 8.0])), (torch.randn(2, 3, 6, generator=generator()).softmax(-1), BINS)]


def some_maps() -> list[tuple[Tensor, int]]:
    """Every second, every third, every fourth channel, and all of them."""
    g, sizes = generator(), ((16, 8), (12, 4), (20, 5), (6, 6))
    return [(torch.randn(2, channels, 3, 5, generator=g), width) for channels, width in sizes]


def thinned(maps: Tensor, width: int, first: int = 0) -> Tensor:
    return maps[:, first :: maps.shape[1] // width]


def some_depths() -> list[tuple[Tensor, Tensor]]:
    """Predictions a factor and a shift from the truth, and noisy; a third of the truth is unknown."""
    g, found = generator(), []
    for n in (3, 1):
        true = 1 + 8 * torch.rand(n, 6, 7, generator=g)
        scale, shift = torch.rand(2, n, 1, 1, generator=g) + torch.tensor([0.2, 1.0]).view(2, 1, 1, 1)
        predicted = scale * true + shift + 0.1 * torch.randn(n, 6, 7, generator=g)
        found.append((predicted, torch.where(torch.rand(n, 6, 7, generator=g) > 1 / 3, true, 0.0)))
    return found


def aligned(predicted: Tensor, true: Tensor, shifted: bool = True, known_only: bool = True) -> Tensor:
    """shifted: a shift is fitted, too. known_only: where the true depth is above 0, not everywhere."""
    found = []
    for x, y in zip(predicted, true, strict=True):
        counts = y > 0 if known_only else torch.ones_like(y, dtype=torch.bool)
        rows = torch.stack([x[counts], float(shifted) * torch.ones_like(x[counts])], 1)
        scale, shift = (torch.linalg.pinv(rows) @ y[counts]).unbind()
        found.append(scale * x + shift)
    return torch.stack(found)


def aligned_at_once(predicted: Tensor, true: Tensor) -> Tensor:
    return aligned(predicted.flatten(0, 1)[None], true.flatten(0, 1)[None])[0].view_as(predicted)


def head(layer4: Tensor, text_emb: Tensor, bins: Tensor, temperature: float) -> Tensor:
    kept = thinned(F.normalize(layer4, dim=1), text_emb.shape[1])
    return metres(100 * kept.movedim(1, -1) @ text_emb.T, bins, temperature)


def unit_again(layer4: Tensor, text_emb: Tensor, bins: Tensor, temperature: float) -> Tensor:
    kept = F.normalize(thinned(layer4, text_emb.shape[1]), dim=1)
    return metres(100 * kept.movedim(1, -1) @ text_emb.T, bins, temperature)


def first_channels(layer4: Tensor, text_emb: Tensor, bins: Tensor, temperature: float) -> Tensor:
    kept = F.normalize(layer4, dim=1)[:, : text_emb.shape[1]]
    return metres(100 * kept.movedim(1, -1) @ text_emb.T, bins, temperature)


EXERCISES = {
    "metres_of": Exercise(
        reference=metres,
        twins=[(lambda cosines, bins, tau: metres(cosines, bins, 1 / tau),
                "a temperature divides; you multiply."),
               (lambda cosines, bins, tau: metres(cosines, bins, 1.0), "the temperature is missing."),
               (lambda cosines, bins, tau: bins[cosines.argmax(-1)],
                "that takes the likeliest bin; the sum weighs all of them."),
               (lambda cosines, bins, tau: (cosines / tau).softmax(0) @ bins,
                "the words stand in the last axis: the probabilities of each place add up to one.")],
        hint="divide by tau, softmax over the last axis, then a product with the bins.",
        cases=some_cosines,
        tolerance=1e-4,
    ),
    "log_sum": Exercise(
        reference=lambda probs, bins: (probs @ bins.log()).exp(),
        twins=[(lambda probs, bins: probs @ bins.log(), "those are logarithms: go back to metres."),
               (lambda probs, bins: probs @ bins, "that is still the plain sum."),
               (lambda probs, bins: (probs @ bins).log(),
                "take the logarithms of the bins, before the sum.")],
        hint="the logarithms of the bins, the weighted sum, and back.",
        cases=some_probs,
        tolerance=1e-4,
    ),
    "repaired_vectors": Exercise(
        reference=lambda layer4, width: thinned(F.normalize(layer4, dim=1), width),
        twins=[(lambda layer4, width: F.normalize(layer4, dim=1)[:, :width],
                "channels at equal steps stay, not the first ones."),
               (lambda layer4, width: thinned(F.normalize(layer4, dim=-1), width),
                "the length of a place is taken over its channels, axis 1."),
               (lambda layer4, width: thinned(layer4, width),
                "nothing has length one before the channels go.")],
        hint="all channels take part in the length; then they are thinned out, with no second normalisation.",
        bug=lambda layer4, width: F.normalize(thinned(layer4, width), dim=1),
        cases=some_maps,
        anew=["keep_channels", "layer4_vectors"],
    ),
    "aligned_depth": Exercise(
        reference=aligned,
        twins=[(lambda predicted, true: aligned(predicted, true, shifted=False),
                "a factor alone: fit the shift, too."),
               (lambda predicted, true: aligned(predicted, true, known_only=False),
                "unknown pixels, whose depth is stored as 0, take part in your fit."),
               (aligned_at_once, "each picture has a factor and a shift of its own.")],
        hint="a picture at a time: least squares of s · predicted + c over its known pixels, then all of it.",
        cases=some_depths,
        tolerance=1e-3,
    ),
    "my_depth_head": Exercise(
        reference=head,
        twins=[(unit_again, "unit length comes first, over all channels, and not again."),
               (first_channels, "channels at equal steps stay, not the first ones."),
               (lambda layer4, text_emb, bins, temperature: head(layer4, text_emb, bins, 1 / temperature),
                "the temperature divides the logits."),
               (lambda layer4, text_emb, bins, temperature: head(layer4, text_emb, bins, 100 * temperature),
                "the products with the texts are multiplied by 100 before they are divided.")],
        hint="unit length, every C/E-th channel, 100 · products / temperature, softmax, weighted sum.",
        component="depthclip.head",
        anew=["depth_head_released", "keep_channels", "layer4_vectors", "word_probs"],
    ),
}
