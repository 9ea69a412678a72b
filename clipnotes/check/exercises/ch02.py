"""The answers to chapter 2's exercises."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes.check.exercises import Exercise
from clipnotes.lseg import ResidualConvUnit, twice_as_large


def own_costs(logits: Tensor, labels: Tensor) -> Tensor:
    """What each pixel's own word costs, B×H×W; the first word's where nobody labelled."""
    return -logits.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]


def holed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return own_costs(logits, labels)[labels >= 0].mean()


def with_other(cosines: Tensor, least: float) -> Tensor:
    best, word = cosines.max(1)
    return torch.where(best >= least, word, -1)


def turned_round(cosines: Tensor, least: float) -> Tensor:
    best, word = cosines.max(1)
    return torch.where(best < least, word, -1)


def product(pixels: Tensor, text_emb: Tensor, axis: int = 1, factor: float = 1 / 0.07) -> Tensor:
    """Cosines times a factor, with the axis along which a pixel's vector lies."""
    pixels, text_emb = F.normalize(pixels, dim=axis), F.normalize(text_emb, dim=1)
    return torch.einsum("bdhw,kd->bkhw", pixels, text_emb) * factor


def named_iou(predicted: Tensor, true: Tensor, word: int) -> float:
    a, b = (predicted == word) & (true >= 0), true == word
    return ((a & b).sum() / (a | b).sum()).item()


def counted_without_label(predicted: Tensor, true: Tensor, word: int) -> float:
    a, b = predicted == word, true == word
    return ((a & b).sum() / (a | b).sum()).item()


def over_the_truth(predicted: Tensor, true: Tensor, word: int) -> float:
    a, b = predicted == word, true == word
    return ((a & b).sum() / b.sum()).item()


def fusion(forward: Callable) -> type[nn.Module]:
    """A fusion block that works as `forward` says; twins may not inherit from one another."""
    class Fusion(nn.Module):
        def __init__(self, features: int):
            super().__init__()
            self.resConfUnit1, self.resConfUnit2 = ResidualConvUnit(features), ResidualConvUnit(features)
            self.out_conv = nn.Conv2d(features, features, 1)

    Fusion.forward = forward
    return Fusion


def fused(self: nn.Module, path: Tensor, skip: Tensor | None = None) -> Tensor:
    if skip is not None:
        path = path + self.resConfUnit1(skip)
    return self.out_conv(twice_as_large(self.resConfUnit2(path)))


def refined_alone(self: nn.Module, path: Tensor, skip: Tensor | None = None) -> Tensor:
    path = self.resConfUnit1(path) if skip is None else path + self.resConfUnit1(skip)
    return self.out_conv(twice_as_large(self.resConfUnit2(path)))


def loose_corners(self: nn.Module, path: Tensor, skip: Tensor | None = None) -> Tensor:
    if skip is not None:
        path = path + self.resConfUnit1(skip)
    x = F.interpolate(self.resConfUnit2(path), scale_factor=2, mode="bilinear", align_corners=False)
    return self.out_conv(x)


def refined_sum(self: nn.Module, path: Tensor, skip: Tensor | None = None) -> Tensor:
    if skip is not None:
        path = self.resConfUnit1(path + skip)
    return self.out_conv(twice_as_large(self.resConfUnit2(path)))


def labelled_maps() -> list[tuple[Tensor, Tensor]]:
    """Logits and labels, some pixels without a label; in the second case one picture has a single one."""
    g = torch.Generator().manual_seed(5)
    holes = torch.tensor([0, 1, -1, 3, -1, 2, 0, 0, -1]).view(1, 3, 3)
    lonely = torch.full((2, 2, 4), -1)
    lonely[0, 1, 2], lonely[1, :, 0] = 2, 1
    return [(torch.randn(2, 4, 3, 3, generator=g), holes.expand(2, 3, 3)),
            (torch.randn(2, 5, 2, 4, generator=g), lonely)]


def cosine_maps() -> list[tuple[Tensor, float]]:
    """Cosines and a threshold, once below, once above, once on the best."""
    g = torch.Generator().manual_seed(6)
    few = torch.tensor([[[[0.9, 0.25]], [[0.1, 0.2]], [[-0.5, -0.9]]]])
    return [(few, 0.3), (few, 0.25), (torch.rand(2, 4, 3, 5, generator=g) * 2 - 1, 0.5)]


def vectors() -> list[tuple[Tensor, Tensor]]:
    """Pixels and words of any length; maps that are not square."""
    g = torch.Generator().manual_seed(7)
    return [(torch.randn(1, 6, 3, 4, generator=g), torch.randn(5, 6, generator=g)),
            (3 * torch.randn(2, 3, 2, 5, generator=g), torch.randn(7, 3, generator=g))]


def pairs_of_maps() -> list[tuple[Tensor, Tensor, int]]:
    predicted = torch.tensor([[1, 1, 2, 2], [1, 0, 2, 1]])
    true = torch.tensor([[1, 1, 1, 2], [0, 0, 2, -1]])
    return [(predicted, true, 1), (predicted, true, 0), (predicted, true, 2)]


EXERCISES = {
    "holed_loss": Exercise(
        reference=holed_loss,
        twins=[(lambda logits, labels: own_costs(logits, labels).mean(),
                "pixels without a label were counted as the first word."),
               (lambda logits, labels: (own_costs(logits, labels) * (labels >= 0)).mean(),
                "the sum is right; it is divided by all pixels, not by the labelled ones."),
               (lambda logits, labels: own_costs(logits, labels)[labels >= 0].sum(),
                "that is the sum over the labelled pixels; the loss is their mean.")],
        hint="which pixels are in the mean? labels >= 0 is a mask.",
        cases=labelled_maps,
        anew=["masked_loss", "masked_loss_naive", "cross_entropy", "nll_loss"],
    ),
    "with_other": Exercise(
        reference=with_other,
        twins=[(lambda cosines, least: cosines.argmax(1), "the threshold is not applied yet."),
               (turned_round, "the comparison is the wrong way round."),
               (lambda cosines, least: torch.where(cosines.max(1).values > least, cosines.argmax(1), -1),
                "a best cosine that is just the threshold is not below it.")],
        hint="cosines.max(1) gives both, values and indices.",
        cases=cosine_maps,
    ),
    "repaired_product": Exercise(
        reference=product,
        twins=[(lambda pixels, text_emb: product(pixels, text_emb, factor=0.07),
                "the axis is right; the logits are still 200 times too small."),
               (lambda pixels, text_emb: product(pixels, text_emb, axis=-1),
                "the temperature is right; the lengths are still taken along the width (mistake 1).")],
        hint="along which axis does a pixel's vector lie? And is 0.07 a factor or a divisor?",
        bug=lambda pixels, text_emb: product(pixels, text_emb, axis=-1, factor=0.07),
        cases=vectors,
        anew=["pixel_text_product", "product_naive"],
    ),
    "named_iou": Exercise(
        reference=named_iou,
        twins=[(counted_without_label, "a pixel without a label was counted against the word."),
               (over_the_truth, "that is a share of one side only: over the pixels that EITHER claims.")],
        hint="both: (predicted == word) & (true == word). Either: |. And which pixels have no vote?",
        cases=pairs_of_maps,
        anew=["confusion", "iou", "object_miou"],
    ),
    "my_fusion": Exercise(
        reference=fusion(fused),
        twins=[(fusion(refined_alone), "without a finer map resConfUnit1 has nothing to refine: path stays."),
               (fusion(loose_corners), "the shapes fit, the values do not: corners stay put (mistake 2)."),
               (fusion(refined_sum), "resConfUnit1 refines the finer map alone, before it is added.")],
        hint="refine the finer map and add it; refine the sum; double it; one convolution.",
        component="lseg.decoder_block",
        anew=["FeatureFusionBlock"],
    ),
}
