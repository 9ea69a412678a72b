"""Films as sequences of frame vectors: what the chapters on video share.

Chapter 8 builds these blocks in front of the reader. Frames are B×T×3×H×W in [0, 1], a mask B×T holds 1 at a frame and
0 at padding, and padding comes after a film's last frame.
"""

import torch
from torch import Tensor, nn

from clipnotes.clip import CLIP, Transformer


def check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a mask that is not B×T ones followed by zeros, with a frame in each film, and say why."""
    if tuple(mask.shape) != tuple(shape[:2]):
        raise ValueError(f"The mask is B×T, one number a frame: {tuple(shape[:2])} here, not {tuple(mask.shape)}.")
    if mask.numel() == 0 or not (mask.sum(1) > 0).all():
        raise ValueError("A film is all padding: leave it out, or give it at least one frame.")
    if (mask[:, 1:] > mask[:, :-1]).any() or not ((mask == 0) | (mask == 1)).all():
        raise ValueError("A mask is ones, then zeros: put all padding behind a film's last frame.")


def encode_films(model: CLIP, frames: Tensor, mask: Tensor, chunk: int = 512) -> Tensor:
    """Films B×T×3×H×W in [0, 1], mask B×T -> one vector a frame, B×T×D float32, not unit, zeros at padding.

    Only real frames are encoded, `chunk` of them at a time. Gradients flow; use `torch.no_grad` where none are wanted.
    """
    if frames.ndim != 5:
        raise ValueError(f"Films have the shape B×T×3×H×W, not {tuple(frames.shape)}: one film needs frames[None].")
    check_mask(mask, frames.shape)
    real = mask.bool().to(frames.device)
    found = torch.cat([model.encode_image(part, normalize=False) for part in frames[real].split(chunk)])
    emb = found.new_zeros(*mask.shape, found.shape[-1])
    emb[real.to(found.device)] = found
    return emb


def backwards(x: Tensor, mask: Tensor) -> Tensor:
    """Sequences B×T×... run backwards, padding left where it is: frames, or their vectors."""
    check_mask(mask, x.shape)
    last, place = mask.long().sum(1, keepdim=True) - 1, torch.arange(mask.shape[1], device=mask.device)
    place = torch.where(place <= last, last - place, place).to(x.device)
    return x.gather(1, place.view(*place.shape, *(1,) * (x.ndim - 2)).expand_as(x))


def mean_over_frames(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over real frames: B×T×D, mask B×T -> B×D. Added in double precision: their order changes no bit."""
    check_mask(mask, x.shape)
    weight = mask[..., None].to(x.device, torch.float64)
    return ((x * weight).sum(1) / weight.sum(1)).to(x.dtype)


def padding_mask(mask: Tensor) -> Tensor:
    """What is added to attention scores so that nothing looks at padding: mask B×T -> B×1×1×T, 0 or -1e6."""
    return (1.0 - mask[:, None, None].float()) * -1e6


def frame_transformer(width: int, layers: int, heads: int) -> Transformer:
    """CLIP's transformer, but with TensorFlow's epsilon in its norms, 1e-12: so in both releases for video."""
    transformer = Transformer(width, layers, heads)
    for module in transformer.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12
    return transformer


def frame_positions(table: nn.Embedding, x: Tensor) -> Tensor:
    """The first T rows of a table of positions, for a sequence B×T×D -> T×D. ValueError where it has fewer."""
    if x.shape[1] > table.num_embeddings:
        raise ValueError(f"There are {x.shape[1]} tokens in time and {table.num_embeddings} positions: take fewer "
                         "frames (video.sample), or a larger table.")
    return table.weight[: x.shape[1]]


@torch.no_grad()
def start_from_text(model: CLIP, transformer: Transformer, positions: nn.Embedding) -> None:
    """Begin as both releases do: copy the first blocks and the positions of CLIP's text tower, which has its widths.

    Where there are more blocks or positions than the text tower has, the rest keeps its random start.
    """
    width, table = positions.embedding_dim, model.positional_embedding
    if table.shape[1] != width:
        raise ValueError(f"The text tower is {table.shape[1]} wide, the frames are {width}: they have to be equal.")
    rows = min(len(table), positions.num_embeddings)
    positions.weight[:rows] = table[:rows]
    for ours, theirs in zip(transformer.resblocks, model.transformer.resblocks, strict=False):
        ours.load_state_dict(theirs.state_dict())
