"""The answers to chapter 8's exercises."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes.check.exercises import Exercise
from clipnotes.temporal import frame_transformer, mean_over_frames, padding_mask


def some_films(padding: float) -> tuple[Tensor, Tensor]:
    """Frames 3×4×8 of four, two and one frames, and their mask; `padding` stands where no frame is."""
    frames = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(4) < torch.tensor([[4], [2], [1]])).long()
    return torch.where(mask[..., None] == 1, frames, padding), mask


def masked() -> list[tuple[Tensor, Tensor]]:
    return [some_films(padding) for padding in (0.0, 3.0, torch.nan)]


def unit_mean(frames: Tensor, mask: Tensor) -> Tensor:
    unit = torch.where(mask[..., None] == 1, F.normalize(frames, dim=-1), 0.0)
    return F.normalize(unit.sum(1), dim=-1)


def searched() -> list[tuple[Tensor, Tensor, Tensor]]:
    g = torch.Generator().manual_seed(3)
    frames, mask = some_films(2.0)
    return [(torch.randn(n, 8, generator=g), frames, mask) for n in (2, 5)]


def asked() -> list[tuple]:
    return [(*searched()[0], 0.1), (*searched()[1], 0.5), (*searched()[0], 2.0)]


def cosines(text: Tensor, frames: Tensor) -> Tensor:
    return torch.einsum("nd,btd->nbt", F.normalize(text, dim=-1), F.normalize(frames, dim=-1))


def chosen(text: Tensor, frames: Tensor, mask: Tensor, temperature: float) -> Tensor:
    logits = (cosines(text, frames) / temperature).masked_fill(mask[None] == 0, -torch.inf)
    return torch.einsum("nbt,btd->nbd", logits.softmax(2), F.normalize(frames, dim=-1))


def unweighted(frames: Tensor, mask: Tensor) -> Tensor:
    return mean_over_frames(F.normalize(frames, dim=-1), mask)


def tables() -> list[tuple[Tensor]]:
    """Without ties, all equal, and with some ties: places 1.5, 2, 2 and 3.5, so that both middle ones are the same."""
    g = torch.Generator().manual_seed(3)
    some = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.0], [0.9, 0.1, 0.2, 0.1], [0.0, 2.0, 1.0, 0.0]])
    return [(torch.randn(7, 7, generator=g),), (torch.zeros(5, 5),), (some,)]


def median_place(similarity: Tensor) -> float:
    own = similarity.diagonal()[:, None]
    return ((similarity > own).sum(1) + ((similarity == own).sum(1) + 1) / 2).median().item()


class Head(nn.Module):
    """The transformer head in one piece."""

    def __init__(self, width: int, layers: int, heads: int, positions: int):
        super().__init__()
        self.frame_position_embeddings = nn.Embedding(positions, width)
        self.transformerClip = frame_transformer(width, layers, heads)

    def refine(self, frames: Tensor, mask: Tensor) -> Tensor:
        placed = frames + self.frame_position_embeddings.weight[: frames.shape[1]]
        return frames + self.transformerClip(placed, padding_mask(mask))

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor, factor: Tensor | float = 1.0) -> Tensor:
        unit = F.normalize(self.refine(frames, mask), dim=-1)
        video = F.normalize(mean_over_frames(unit, mask), dim=-1)
        return factor * F.normalize(text, dim=-1) @ video.T


class NoShortcut(Head):
    def refine(self, frames: Tensor, mask: Tensor) -> Tensor:
        return super().refine(frames, mask) - frames


class SeesPadding(Head):
    def refine(self, frames: Tensor, mask: Tensor) -> Tensor:
        return super().refine(frames, torch.ones_like(mask))


class PositionsStay(Head):
    def refine(self, frames: Tensor, mask: Tensor) -> Tensor:
        return super().refine(frames, mask) + self.frame_position_embeddings.weight[: frames.shape[1]]


EXERCISES = {
    "masked_mean": Exercise(
        reference=unit_mean,
        twins=[(lambda frames, mask: F.normalize(F.normalize(frames, dim=-1).mean(1), dim=-1),
                "padding is in your mean."),
               (lambda frames, mask: F.normalize(torch.where(mask[..., None] == 1, frames, 0.0).sum(1), dim=-1),
                "frames are not unit before the mean."),
               (lambda frames, mask: F.normalize((F.normalize(frames, dim=-1) * mask[..., None]).sum(1), dim=-1),
                "NaN times zero is NaN: choose with torch.where instead of multiplying."),
               (lambda frames, mask: (torch.where(mask[..., None] == 1, F.normalize(frames, dim=-1), 0.0).sum(1)
                                      / mask.sum(1, keepdim=True)),
                "the mean itself has to be brought to unit length, too.")],
        hint="unit length a frame, zero where the mask is zero, the sum over time, unit length again.",
        cases=masked,
        anew=["mean_video_naive", "mean_over_frames", "MeanHead"],
    ),
    "best_frame_logits": Exercise(
        reference=lambda text, frames, mask: cosines(text, frames).masked_fill(mask[None] == 0, -torch.inf).amax(2),
        twins=[(lambda text, frames, mask: cosines(text, frames).amax(2),
                "padding can win: mask it before you take the largest."),
               (lambda text, frames, mask: F.normalize(text, dim=-1) @ unit_mean(frames, mask).T,
                "that is the mean still."),
               (lambda text, frames, mask: (cosines(text, frames) * mask[None]).amax(2),
                "a padded frame now scores zero, which beats every negative cosine: use minus infinity."),
               (lambda text, frames, mask: torch.einsum("nd,btd->nbt", text, frames)
                .masked_fill(mask[None] == 0, -torch.inf).amax(2), "cosines: texts and frames to unit length first.")],
        hint="all cosines N×B×T, padding to minus infinity, then the largest over time.",
        cases=searched,
    ),
    "median_place": Exercise(
        reference=median_place,
        twins=[(lambda similarity: (similarity >= similarity.diagonal()[:, None]).sum(1).float().median().item(),
                "that counts ties as lost; the fair place is the middle one."),
               (lambda similarity: median_place(similarity) - 1, "places count from 1."),
               (lambda similarity: median_place(similarity.T), "rows ask, not columns.")],
        hint="count larger scores, count equal ones, take the middle.",
        bug=lambda similarity: (1 + (similarity > similarity.diagonal()[:, None]).sum(1)).float().median().item(),
        cases=tables,
        anew=["ranks", "ranks_naive", "median_rank"],
    ),
    "text_chosen_video": Exercise(
        reference=chosen,
        twins=[(lambda text, frames, mask, t: torch.einsum("nbt,btd->nbd", (cosines(text, frames) / t).softmax(2),
                                                           F.normalize(frames, dim=-1)),
                "padding gets weight: mask it first."),
               (lambda text, frames, mask, t: chosen(text, frames, mask, 1.0), "the temperature divides the cosines."),
               (lambda text, frames, mask, t: chosen(text, frames, mask, 0.1),
                "that is always 0.1: divide by the temperature that is passed."),
               (lambda text, frames, mask, t: F.normalize(chosen(text, frames, mask, t), dim=-1),
                "right, but brought to unit length: leave the mean as it is."),
               (lambda text, frames, mask, t: chosen(text, frames, mask, 1 / t),
                "the temperature divides; you multiply."),
               (lambda text, frames, mask, t: unweighted(frames, mask).expand(len(text), -1, -1),
                "that is the mean: the text has no say.")],
        hint="cosines N×B×T over the temperature, padding to minus infinity, softmax over time, weighted sum.",
        cases=asked,
    ),
    "my_transformer_head": Exercise(
        reference=Head,
        twins=[(NoShortcut, "the frames are added to what the blocks give."),
               (SeesPadding, "padding has to be masked."),
               (PositionsStay, "positions are for the blocks, not for the shortcut.")],
        hint="positions, masked blocks, the frames added, the mean of unit frames, cosines.",
        component="clip4clip.seqTransf",
        anew=["TransformerHead", "MeanHead"],
    ),
}
