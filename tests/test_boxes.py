"""Boxes against plain loops, against torchvision where it can compute them, and where a box is hardly one."""

import math

import pytest
import torch

from clipnotes import boxes

torchvision_ops = pytest.importorskip("torchvision.ops")


def random_boxes(*shape: int, seed: int = 0, side: int = 40) -> torch.Tensor:
    """Boxes of all sizes around a picture of that side; some reach out of it, some are empty."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=g) * side * 1.2 - side * 0.1
    return torch.cat([corner, corner + torch.rand(*shape, 2, generator=g) * side - 2], -1)


def overlap_by_hand(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Areas of intersection, union and hull of two boxes."""
    def size(box: list[float]) -> float:
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    common = size([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    hull = size([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    return common, size(a) + size(b) - common, hull


def test_overlaps_equal_a_loop():
    a, b = random_boxes(30), random_boxes(20, seed=1)
    iou, giou = boxes.iou(a[:, None], b).tolist(), boxes.giou(a[:, None], b).tolist()
    for i, row in enumerate(a.tolist()):
        for j, other in enumerate(b.tolist()):
            common, union, hull = overlap_by_hand(row, other)
            share = common / union if union else 0.0
            gap = (hull - union) / hull if hull else 0.0
            assert (iou[i][j], giou[i][j]) == pytest.approx((share, share - gap), abs=1e-5)
    assert (boxes.area(a) == 0).any(), "an empty box is among them"


def test_shapes_broadcast_and_tables_equal_torchvision():
    a, b = boxes.clip(random_boxes(30), 40) + torch.tensor([0, 0, 3, 3]), random_boxes(20, seed=1).abs()
    b = torch.cat([b[:, :2], b[:, :2] + 1 + b[:, 2:]], 1)
    assert torch.allclose(boxes.iou(a[:, None], b), torchvision_ops.box_iou(a, b), atol=1e-6)
    assert torch.allclose(boxes.giou(a[:, None], b), torchvision_ops.generalized_box_iou(a, b), atol=1e-6)
    assert boxes.iou(a.view(5, 6, 1, 4), b).shape == (5, 6, 20)


def test_equal_touching_and_empty_boxes():
    box, beside = torch.tensor([0.0, 0, 10, 10]), torch.tensor([10.0, 0, 20, 10])
    nothing = torch.tensor([3.0, 3, 3, 3])
    assert boxes.iou(box, box) == 1 and boxes.giou(box, box) == 1
    assert boxes.iou(box, beside) == 0 and boxes.giou(box, beside) == 0
    assert boxes.iou(nothing, nothing) == 0 and boxes.giou(nothing, nothing) == 0
    assert boxes.iou(box, nothing) == 0
    assert boxes.iou(torch.zeros(0, 1, 4), box[None]).shape == (0, 1)
    with pytest.raises(ValueError, match=r"…×4.*not \(2, 3\)"):
        boxes.iou(torch.zeros(2, 3), box)


def test_clip_cuts_at_the_edges():
    inside = boxes.clip(torch.tensor([[-5.0, -5, 200, 200], [130, 3, 140, 9]]), (60, 100))
    assert inside.tolist() == [[0, 0, 100, 60], [100, 3, 100, 9]]
    assert boxes.area(inside)[1] == 0
    assert torch.equal(boxes.clip(torch.tensor([[-1, 2, 9, 9]]), 8), torch.tensor([[0, 2, 8, 8]]))


# ---------------------------------------------------------------- coding


def test_decode_undoes_encode():
    anchors, wanted = random_boxes(200, seed=2).abs(), random_boxes(200, seed=3).abs()
    anchors[:, 2:] += anchors[:, :2] + 1
    wanted[:, 2:] += wanted[:, :2] + 1
    for weights in (boxes.WEIGHTS, (1.0, 1.0, 1.0, 1.0)):
        deltas = boxes.encode(wanted, anchors, weights)
        assert torch.allclose(boxes.decode(deltas, anchors, weights), wanted, atol=1e-3)


def test_encoding_by_hand():
    anchor, wanted = torch.tensor([0.0, 0, 10, 20]), torch.tensor([5.0, 0, 25, 20])  # centres 5 and 15
    assert torch.allclose(boxes.encode(wanted, anchor), torch.tensor([10.0, 0, 5 * math.log(2), 0]))


def test_wild_numbers_decode_to_finite_boxes():
    found = boxes.decode(torch.full((4,), 1e4), torch.tensor([0.0, 0, 16, 16]))
    assert found.isfinite().all() and (found[2:] - found[:2]).tolist() == pytest.approx([1000, 1000])


def test_empty_boxes_are_not_encoded():
    for pair in ([[1.0, 1, 1, 5], [0.0, 0, 4, 4]], [[0.0, 0, 4, 4], [4.0, 4, 2, 6]]):
        with pytest.raises(ValueError, match="Empty boxes"):
            boxes.encode(*torch.tensor(pair))


# ---------------------------------------------------------------- suppression


def nms_naive(found: torch.Tensor, scores: torch.Tensor, threshold: float, labels: torch.Tensor) -> list[int]:
    """The textbook's loop."""
    overlap = boxes.iou(found[:, None], found)
    left = sorted((i for i in range(len(scores)) if scores[i] > -math.inf), key=lambda i: -scores[i].item())
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [i for i in left if labels[i] != labels[best] or overlap[i, best] <= threshold]
    return sorted(kept)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_nms_equals_the_loop(threshold):
    found, scores = random_boxes(3, 40, seed=4), torch.rand(3, 40, generator=torch.Generator().manual_seed(5))
    scores[0, :10], scores[1, 3:20] = scores[0, 0], -math.inf  # ties, and empty places
    labels = torch.arange(120).view(3, 40) % 4
    alone, by_class = boxes.nms(found, scores, threshold), boxes.nms(found, scores, threshold, labels)
    for i in range(3):
        assert alone[i].nonzero()[:, 0].tolist() == nms_naive(found[i], scores[i], threshold, torch.zeros(40))
        assert by_class[i].nonzero()[:, 0].tolist() == nms_naive(found[i], scores[i], threshold, labels[i])
        assert torch.equal(boxes.nms(found[i], scores[i], threshold), alone[i])


def test_nms_settles_a_long_chain():
    """Each box overlaps only its neighbours: every second one stays, and each round settles one more."""
    left = torch.arange(50.0) * 5
    found = torch.stack([left, torch.zeros(50), left + 10, torch.ones(50)], 1)
    stays = boxes.nms(found, -left, 0.3)
    assert stays.tolist() == [i % 2 == 0 for i in range(50)]


def test_nms_equals_torchvision():
    found = boxes.clip(random_boxes(400, seed=6), 40)
    scores = torch.rand(400, generator=torch.Generator().manual_seed(7))
    try:
        theirs = torchvision_ops.nms(found, scores, 0.5)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torchvision has no kernel here: {str(error)[:40]}")
    assert torch.equal(theirs.sort().values, boxes.nms(found, scores, 0.5).nonzero()[:, 0])


def test_nms_of_nothing_and_of_nonsense():
    assert boxes.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert boxes.nms(torch.zeros(2, 0, 4), torch.zeros(2, 0), 0.5).shape == (2, 0)
    assert boxes.nms(torch.zeros(3, 4), torch.ones(3), 0.5).all(), "empty boxes overlap nothing"
    assert not boxes.nms(torch.ones(3, 4), torch.full((3,), -math.inf), 0.5).any()
    with pytest.raises(ValueError, match="NaN"):
        boxes.nms(torch.ones(1, 4), torch.tensor([math.nan]), 0.5)
    with pytest.raises(ValueError, match="one score a box"):
        boxes.nms(torch.ones(2, 4), torch.ones(3), 0.5)


# ---------------------------------------------------------------- RoIAlign


def read(picture: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """Bilinear interpolation between the centres of cells of C×H×W, at one point."""
    H, W = picture.shape[1:]
    if not (-1 <= y <= H and -1 <= x <= W):
        return torch.zeros(len(picture))
    y, x = min(max(y, 0), H - 1), min(max(x, 0), W - 1)
    top, left = int(y), int(x)
    low, right = min(top + 1, H - 1), min(left + 1, W - 1)
    above = picture[:, top, left] * (1 - x + left) + picture[:, top, right] * (x - left)
    below = picture[:, low, left] * (1 - x + left) + picture[:, low, right] * (x - left)
    return above * (1 - y + top) + below * (y - top)


def roi_align_naive(picture, box, bins, scale, sampling):
    out = torch.zeros(len(picture), bins, bins)
    x0, y0, x1, y1 = (box * scale).tolist()
    for i in range(bins):
        for j in range(bins):
            for p in range(sampling):
                for q in range(sampling):
                    y = y0 + (y1 - y0) * (i + (p + 0.5) / sampling) / bins - 0.5
                    x = x0 + (x1 - x0) * (j + (q + 0.5) / sampling) / bins - 0.5
                    out[:, i, j] += read(picture, y, x) / sampling**2
    return out


@pytest.mark.parametrize("sampling", [1, 2, 3])
def test_roi_align_equals_the_loop(sampling):
    features = torch.randn(2, 3, 10, 13, generator=torch.Generator().manual_seed(8))
    found = random_boxes(2, 8, seed=9, side=50)  # 40×52 pixels: some reach far out, some are empty
    found[0, 0], found[0, 1] = torch.tensor([0, 0, 52, 40]), torch.tensor([200, 200, 300, 300])
    ours = boxes.roi_align(features, found, 3, 0.25, sampling)
    assert ours.shape == (2, 8, 3, 3, 3) and (ours[0, 1] == 0).all()
    for i in range(2):
        for r in range(8):
            theirs = roi_align_naive(features[i], found[i, r], 3, 0.25, sampling)
            assert torch.allclose(ours[i, r], theirs, atol=1e-5)


def test_roi_align_equals_torchvision():
    features = torch.randn(2, 3, 10, 13, generator=torch.Generator().manual_seed(8))
    found = boxes.clip(random_boxes(2, 8, seed=9, side=50), (40, 52))  # far outside its two paths differ
    with torch.compiler.set_stance("force_eager"):  # where it has no kernel, it would compile one
        theirs = torchvision_ops.roi_align(features, list(found), 3, 0.25, 2, aligned=True)
    assert torch.allclose(boxes.roi_align(features, found, 3, 0.25).flatten(0, 1), theirs, atol=1e-5)


def test_roi_align_of_whole_cells_is_their_mean():
    features = torch.arange(16.0).view(1, 1, 4, 4)
    whole = boxes.roi_align(features, torch.tensor([[[0.0, 0, 4, 4]]]), 2, 1.0)
    assert whole[0, 0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_roi_align_passes_gradients_and_takes_no_boxes():
    features = torch.randn(1, 2, 6, 6, requires_grad=True)
    boxes.roi_align(features, torch.tensor([[[4.0, 4, 20, 20]]]), 3, 0.25).sum().backward()
    assert features.grad.sum().item() == pytest.approx(2 * 9, rel=1e-5)
    assert boxes.roi_align(features, torch.zeros(1, 0, 4), 3, 0.25).shape == (1, 0, 2, 3, 3)
    with pytest.raises(ValueError, match="B×R×4"):
        boxes.roi_align(features, torch.zeros(5, 4), 3, 0.25)


# ---------------------------------------------------------------- masks


def test_pasted_masks_lie_in_their_boxes():
    found = torch.tensor([[3.0, 5, 11, 9], [-4, -4, 4, 4], [6, 6, 6, 9]])
    pasted = boxes.paste_masks(torch.ones(3, 8, 8), found, (12, 16)) > 0.5
    expected = torch.zeros(3, 12, 16, dtype=torch.bool)
    expected[0, 5:9, 3:11] = expected[1, :4, :4] = True
    assert torch.equal(pasted, expected)
    assert boxes.paste_masks(torch.zeros(0, 8, 8), torch.zeros(0, 4), 12).shape == (0, 12, 12)


def test_a_pasted_mask_keeps_its_shape():
    disc = ((torch.arange(28) - 13.5).square() + (torch.arange(28)[:, None] - 13.5).square() < 180).float()
    same = boxes.paste_masks(disc[None], torch.tensor([[2.0, 1, 30, 29]]), 32) > 0.5
    assert torch.equal(same[0, 1:29, 2:30], disc > 0.5)


def test_mask_boxes_are_tight():
    masks = torch.zeros(2, 3, 9, 7, dtype=torch.bool)
    masks[0, 1, 2:5, 3] = masks[1, 2, 8, 6] = masks[1, 2, 0, 0] = True
    found = boxes.mask_boxes(masks)
    assert found[0, 1].tolist() == [3, 2, 4, 5] and found[1, 2].tolist() == [0, 0, 7, 9]
    assert (found[0, 0] == 0).all() and (boxes.area(found) > 0).sum() == 2
