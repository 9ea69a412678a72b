"""The answers to the exercises of chapter 9, ActionCLIP."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes.check.exercises import Exercise


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---------------------------------------------------------------- shared targets


def same_label(labels: Tensor) -> Tensor:
    return (labels[:, None] == labels).float()


def shared_targets(labels: Tensor) -> Tensor:
    return same_label(labels) / same_label(labels).sum(1, keepdim=True)


def some_labels() -> list[tuple[Tensor]]:
    return [(torch.tensor([3, 1, 3, 3, 2]),), (torch.tensor([0, 1, 1, 0]),)]


# ---------------------------------------------------------------- a shift without a future


def online(before: Callable[[Tensor], Tensor], start: int = 0) -> Callable:
    """A shift of one eighth of the channels, the one numbered `start`; `before` says where it comes from."""
    def move(x: Tensor, div: int = 8) -> Tensor:
        fold, moved = x.shape[-1] // div, x.clone()
        part = slice(start * fold, (start + 1) * fold)
        moved[..., part] = before(x[..., part])
        return moved

    return move


def predecessor(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def own_first(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1], x[:, :-1]], 1)


def successor(x: Tensor) -> Tensor:
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)


def both_ways(x: Tensor, div: int = 8) -> Tensor:
    """The chapter's shift."""
    return online(predecessor, 1)(online(successor)(x, div), div)


def films_to_shift() -> list[tuple]:
    g = generator()
    return [(torch.randn(2, 5, 3, 16, generator=g),), (torch.randn(3, 4, 8, generator=g), 4)]


# ---------------------------------------------------------------- a convolution over time


def conv(turned: Callable[[Tensor], Tensor], padding: int = 1) -> Callable:
    """A convolution over frames B×T×D; `turned` puts time last."""
    return lambda x, kernel: F.conv1d(turned(x), kernel, padding=padding, groups=x.shape[2]).mT


def reinterpreted(x: Tensor) -> Tensor:
    return x.reshape(len(x), x.shape[2], x.shape[1])


def films_and_kernels() -> list[tuple[Tensor, Tensor]]:
    g = generator()
    sizes = [(6, 8), (9, 4)]
    return [(torch.randn(2, T, D, generator=g), torch.randn(D, 1, 3, generator=g)) for T, D in sizes]


# ---------------------------------------------------------------- films look for films


def film_to_film(own: bool = False, divided: bool = True, inside: bool = False) -> Callable:
    """Supervised contrastive learning. own: a film finds itself; divided: by the number of positives; inside: the mean
    stands inside the logarithm."""
    def loss(emb: Tensor, labels: Tensor, scale: float) -> Tensor:
        logits, same = scale * emb @ emb.T, same_label(labels)
        if not own:
            logits, same = logits.fill_diagonal_(-1e9), same.fill_diagonal_(0)
        shares = same / same.sum(1, keepdim=True) if divided else same
        if inside:
            return -(logits.softmax(1) * shares).sum(1).log().mean()
        return -(logits.log_softmax(1) * shares).sum(1).mean()

    return loss


def labelled_vectors() -> list[tuple[Tensor, Tensor, float]]:
    g = generator()
    six, five = (F.normalize(torch.randn(n, 8, generator=g), dim=1) for n in (6, 5))
    return [(six, torch.tensor([0, 1, 0, 1, 1, 0]), 5.0), (five, torch.tensor([2, 2, 4, 4, 4]), 12.0)]


# ---------------------------------------------------------------- the loss from memory


def divergence(sharpness: float = 10.0, both: bool = True, per_row: bool = True, crossed: bool = False) -> Callable:
    """The release's loss. sharpness: of the targets; both directions, or the films'; per_row: batchmean; crossed: the
    cross-entropy, which has the targets' entropy on top."""
    def loss(video_emb: Tensor, text_emb: Tensor, labels: Tensor, scale: Tensor | float) -> Tensor:
        logits = scale * video_emb @ text_emb.T
        target = (sharpness * same_label(labels).to(logits.dtype)).softmax(1)
        tables = (logits, logits.T) if both else (logits,)
        if crossed:
            return sum(F.cross_entropy(table, target) for table in tables) / len(tables)
        found = [F.kl_div(table.log_softmax(1), target, reduction="batchmean") for table in tables]
        return sum(found) / len(found) / (1 if per_row else len(labels))

    return loss


EXERCISES = {
    "targets": Exercise(
        reference=shared_targets,
        twins=[(same_label, "a row has to add up to one."),
               (lambda labels: torch.eye(len(labels)), "the diagonal alone is chapter 1's answer."),
               (lambda labels: (10 * same_label(labels)).softmax(1),
                "that is the release's: here nothing at all is left for the others."),
               (lambda labels: same_label(labels).softmax(1),
                "a softmax over 1 and 0 leaves the others a good share: divide instead.")],
        hint="where labels agree, one divided by how often the label stands in the batch.",
        cases=some_labels,
    ),
    "shift_online": Exercise(
        reference=online(predecessor),
        twins=[(both_ways, "that still reads the next frame."),
               (online(lambda x: x.roll(1, 1)), "a roll: frame 0 must not know the last one."),
               (online(own_first), "nothing comes before frame 0: zeros stand there, as in `shift`."),
               (lambda x, div=8: online(successor, 1)(online(predecessor)(x, div), div),
                "the second eighth stays: nothing comes from the future."),
               (online(predecessor, 1), "the first eighth of the channels is to move, not the second."),
               (online(successor), "that frame is still to come: take the one before.")],
        hint="channels [0, D/div) of frame t are those of frame t - 1; zeros in frame 0.",
        cases=films_to_shift,
    ),
    "conv_over_time": Exercise(
        reference=conv(lambda x: x.mT),
        twins=[(conv(lambda x: x.mT, padding=0), "there are as many frames as before: pad by one on each side."),
               (lambda x, kernel: conv(lambda x: x.mT)(x, kernel).mT,
                "turn the answer back: frames come before channels."),
               (lambda x, kernel: conv(lambda x: x.mT)(x, kernel).mT.reshape(x.shape),
                "the way back is a transpose, too: a reshape moves no number."),
               (lambda x, kernel: conv(lambda x: x.mT)(x, kernel.flip(2)),
                "the kernel runs backwards: its first tap belongs to the frame before.")],
        hint="channel k at time t has to meet channel k at the times t - 1, t and t + 1.",
        bug=conv(reinterpreted),
        cases=films_and_kernels,
    ),
    "film_to_film": Exercise(
        reference=film_to_film(),
        twins=[(film_to_film(own=True), "a film finds itself: take it out of softmax and positives."),
               (film_to_film(divided=False), "each film counts alike: divide by the number of its positives."),
               (film_to_film(inside=True), "the mean of the logarithms, not the logarithm of the mean.")],
        hint="take the film itself out twice: of the softmax, and of its positives; divide by their number.",
        cases=labelled_vectors,
    ),
    "my_kl_loss": Exercise(
        reference=divergence(),
        twins=[(divergence(per_row=False), "the mean over all entries also divides by the batch: batchmean."),
               (divergence(both=False), "a film looks for its texts, and a text for its films: both directions."),
               (divergence(crossed=True),
                "that is the cross-entropy with the targets: a divergence is 0 where both agree."),
               (divergence(sharpness=1.0), "the targets are a softmax over 10 and 0, not over 1 and 0."),
               (divergence(sharpness=1e3), "the targets keep a trace of each negative: a softmax over 10 and 0.")],
        hint="targets, logarithms of a softmax, a divergence: row by row, and column by column.",
        component="actionclip.kl_loss",
        anew=["kl_loss", "kl_loss_naive"],
    ),
}
