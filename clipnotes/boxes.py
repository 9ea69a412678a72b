"""Boxes: areas and overlaps, non-maximum suppression, RoIAlign, box coding, masks in boxes; all on batches.

A box is x0, y0, x1, y1 in pixels; x1 and y1 lie outside, so a box from 0 to 1 covers one pixel, and a
pixel's centre is at its index + 0.5. Boxes are tensors …×4; a box whose x1 <= x0 or y1 <= y0 is empty: it has
no area, and overlaps nothing. Shapes broadcast: `iou(a[:, None], b)` is the N×M table of N boxes and M others.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of box coding, as in Fast R-CNN: the four numbers become about 1
LARGEST = math.log(1000 / 16)  # the most that a decoded side may grow, as a logarithm


def _check(*tables: Tensor) -> None:
    for boxes in tables:
        if boxes.ndim == 0 or boxes.shape[-1] != 4:
            raise ValueError(f"Boxes are …×4 (x0, y0, x1, y1), not {tuple(boxes.shape)}.")


def area(boxes: Tensor) -> Tensor:
    """…×4 → …: the area in pixels; 0 where a box is empty."""
    _check(boxes)
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The areas of intersection and union."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    common = area(torch.cat([low, high], -1))
    return common, area(a) + area(b) - common


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes of shapes that broadcast, from 0 to 1; 0 where both are empty."""
    common, union = _overlap(a, b)
    return common / torch.where(union > 0, union, 1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU, from -1 to 1: IoU minus the share of the smallest common box that neither covers.

    Rezatofighi et al., CVPR 2019. It falls on with the distance where the IoU stays 0. 1 - giou is a loss.
    """
    common, union = _overlap(a, b)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = area(torch.cat([low, high], -1))
    gap = (hull - union) / torch.where(hull > 0, hull, 1)
    return common / torch.where(union > 0, union, 1) - gap


def clip(boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Boxes cut at the edges of a picture. size: its side, or (height, width). One outside becomes empty."""
    _check(boxes)
    height, width = (size, size) if isinstance(size, int) else size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def encode(boxes: Tensor, anchors: Tensor, weights: tuple[float, ...] = WEIGHTS) -> Tensor:
    """What an anchor has to learn to become a box, …×4: the centre's shift in sides, logarithms of the ratios
    of sides; each times its weight.

    Raises ValueError for an empty box or anchor: its sides have no logarithm.
    """
    _check(boxes, anchors)
    if not (area(boxes) > 0).all() or not (area(anchors) > 0).all():
        raise ValueError("Empty boxes cannot be encoded: leave out those whose area is 0.")
    side, anchor_side = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    centre, anchor_centre = boxes[..., :2] + side / 2, anchors[..., :2] + anchor_side / 2
    shift = (centre - anchor_centre) / anchor_side
    return torch.cat([shift, (side / anchor_side).log()], -1) * boxes.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: tuple[float, ...] = WEIGHTS) -> Tensor:
    """The boxes, …×4, that `encode` would have given these numbers; sides grow 62.5 times at most."""
    _check(deltas, anchors)
    deltas = deltas / deltas.new_tensor(weights)
    anchor_side = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + anchor_side / 2 + deltas[..., :2] * anchor_side
    half = anchor_side * deltas[..., 2:].clamp(max=LARGEST).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def nms(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None) -> Tensor:
    """Non-maximum suppression: which boxes stay, …×N bool.

    The best box stays and removes all that overlap it by more than `threshold`, then the best of the rest,
    and so on. boxes: …×N×4, scores: …×N; each row of a batch is done for itself. labels: …×N, only boxes of
    one label remove each other. Of equal scores the earlier comes first. A score of minus infinity marks an
    empty place: it does not stay.
    Raises ValueError for a score that is not a number.
    """
    _check(boxes)
    if scores.shape != boxes.shape[:-1]:
        raise ValueError(f"Give one score a box: {tuple(scores.shape)} scores, {tuple(boxes.shape)} boxes.")
    if scores.isnan().any():
        raise ValueError("A score is not a number (NaN). Look for it before boxes are suppressed.")
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ranked = boxes.gather(-2, order[..., None].expand(*order.shape, 4))
    removes = iou(ranked[..., :, None, :], ranked[..., None, :, :]) > threshold
    if labels is not None:
        ranked_labels = labels.gather(-1, order)
        removes &= ranked_labels[..., :, None] == ranked_labels[..., None, :]
    removes = removes.triu(1).float()  # a box removes only worse ones; a product counts who removes it, at once
    real = scores.gather(-1, order) > -math.inf
    stays = real
    while True:  # each round settles at least one more place, most often all
        settled = real & ((stays.float()[..., None, :] @ removes)[..., 0, :] == 0)
        if torch.equal(settled, stays):
            return torch.zeros_like(real).scatter(-1, order, stays)
        stays = settled


def _shares(low: Tensor, high: Tensor, bins: int, sampling: int, size: int) -> Tensor:
    """How much each of `bins` equal parts of low…high takes of each of `size` cells: … → …×bins×size.

    The mean over `sampling` points a part, each of which divides itself between its two nearest cells.
    """
    step = (high - low) / bins
    point = (torch.arange(bins * sampling, device=low.device) + 0.5) / sampling
    at = (low[..., None] + step[..., None] * point - 0.5)[..., None]  # cell k has its centre at k
    cell = torch.arange(size, device=low.device)
    share = (1 - (at.clamp(0, size - 1) - cell).abs()).clamp(min=0)
    share = share * ((at >= -1) & (at <= size))  # points far outside see nothing
    return share.unflatten(-2, (bins, sampling)).mean(-2)


def roi_align(features: Tensor, boxes: Tensor, bins: int, scale: float, sampling: int = 2) -> Tensor:
    """RoIAlign: what lies in each box, always bins×bins large. B×C×H×W, boxes B×R×4 → B×R×C×bins×bins.

    scale: cells of the map a pixel, 1/4 for a map of stride 4. Each bin is the mean of sampling² points, each
    read by bilinear interpolation: that is one small matrix for the rows and one for the columns. He et al.,
    ICCV 2017, with the half-pixel shift (`aligned=True`) of detectron2 and torchvision. An empty box reads one
    point again and again.
    """
    _check(boxes)
    if features.ndim != 4 or boxes.ndim != 3 or len(features) != len(boxes):
        raise ValueError(f"Give features B×C×H×W and boxes B×R×4, not {tuple(features.shape)} and "
                         f"{tuple(boxes.shape)}.")
    (B, C, H, W), R = features.shape, boxes.shape[1]
    x0, y0, x1, y1 = (boxes * scale).unbind(-1)
    rows = _shares(y0, y1, bins, sampling, H).to(features.dtype)  # B×R×bins×H
    columns = _shares(x0, x1, bins, sampling, W).to(features.dtype)
    lines = rows.flatten(1, 2) @ features.transpose(1, 2).flatten(2)  # B×(R·bins)×(C·W)
    parts = lines.view(B, R, bins * C, W) @ columns.transpose(-1, -2)
    return parts.view(B, R, bins, C, bins).transpose(2, 3)


def paste_masks(masks: Tensor, boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Masks N×m×m that fill their boxes N×4, in the whole picture: N×H×W, 0 outside the box.

    Bilinear, read at the centres of the picture's pixels, as detectron2 does; compare with 0.5 to get bools.
    An empty box gives nothing.
    """
    _check(boxes)
    height, width = (size, size) if isinstance(size, int) else size
    low, side = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    full = (side > 0).all(1)
    side = side.where(full[:, None], 1)
    x = (torch.arange(width, device=boxes.device) + 0.5 - low[:, :1]) / side[:, :1] * 2 - 1
    y = (torch.arange(height, device=boxes.device) + 0.5 - low[:, 1:]) / side[:, 1:] * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), -1)
    pasted = F.grid_sample(masks[:, None].float(), grid.float(), align_corners=False)[:, 0]
    return pasted * full[:, None, None]


def mask_boxes(masks: Tensor) -> Tensor:
    """The smallest boxes that hold masks: …×H×W bool → …×4 int64; 0, 0, 0, 0 for an empty mask."""
    sides = []
    for seen in (masks.any(-2), masks.any(-1)):  # columns, then rows
        size = seen.shape[-1]
        place = torch.arange(size, device=masks.device)
        first = place.where(seen, size).amin(-1)
        last = place.where(seen, -1).amax(-1) + 1
        sides.append((first.minimum(last), last))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], -1)
