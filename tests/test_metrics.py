"""Measures against values worked out by hand, and against public implementations."""

import math

import numpy as np
import pytest
import torch

from clipnotes import metrics

WAVE, STEPS = [math.sin(i) for i in range(40)], [i * i % 7 for i in range(40)]


def test_topk_accuracy_by_hand():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([0, 1, 0])
    assert [metrics.topk_accuracy(logits, labels, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_ties_count_as_the_mean_over_their_orders():
    constant = torch.zeros(6, 10)
    labels = torch.arange(6)
    for k in (1, 3, 10):
        assert metrics.topk_accuracy(constant, labels, k) == pytest.approx(k / 10)
        assert metrics.recall_at_k(constant, k) == pytest.approx(k / 10)
    assert metrics.median_rank(constant) == 5.5
    # one better, then three tied with the answer: second to fourth place, so k = 2 is reached once in three
    assert metrics.recall_at_k(torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0]]), 2) == pytest.approx(1 / 3)


def test_retrieval_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.7, 0.6, 0.1]])
    assert [metrics.recall_at_k(similarity, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert metrics.median_rank(similarity) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.recall_at_k(torch.zeros(3, 2), 1),
        lambda: metrics.recall_at_k(torch.zeros(2, 2), 3),
        lambda: metrics.topk_accuracy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)),
        lambda: metrics.topk_accuracy(torch.full((2, 3), math.nan), torch.tensor([0, 1])),
        lambda: metrics.wilson(3, 2),
        lambda: metrics.bootstrap([1.0]),
        lambda: metrics.spearman([1, 2], [1, 2, 3]),
        lambda: metrics.linear_probe(torch.zeros(3, 2), torch.zeros(2), torch.zeros(1, 2)),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match=r"[A-Z].*\."):
        call()


# The numbers to ten places in the tests below come from code of our own, written from the formulas.


def test_spearman():
    found = [metrics.spearman(*lists) for lists in ((WAVE, STEPS), (WAVE[:20], WAVE[1:21]), (STEPS, range(40)))]
    assert found == pytest.approx([-0.2818216178, 0.5007518797, 0.0489658977], abs=1e-9)
    assert metrics.spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert metrics.spearman(torch.tensor([1, 2, 3]), [3, 2, 1]) == pytest.approx(-1)
    assert metrics.spearman([1, 1, 1], [3, 2, 1]) == 0
    assert metrics.spearman([0.1 + 0.2, 0.3 + 0.1], [0.0, 0.0]) == 0


def test_wilson():
    assert metrics.wilson(8, 10) == pytest.approx((0.4901568467, 0.9433190520), abs=1e-9)
    assert metrics.wilson(0.866 * 500, 500) == pytest.approx((0.8333333333, 0.8930854459), abs=1e-9)
    assert metrics.wilson(150, 1000, z=1.0) == pytest.approx((0.1390582872, 0.1616410135), abs=1e-9)
    assert metrics.wilson(0, 20) == pytest.approx((0, 0.1611301255), abs=1e-9)
    assert metrics.wilson(torch.tensor(20.0), 20) == pytest.approx((0.8388698745, 1), abs=1e-9)
    assert np.ptp(metrics.wilson(500, 1000)) < np.ptp(metrics.wilson(50, 100))


def test_bootstrap_draws_as_the_stored_intervals_did():
    assert metrics.bootstrap(WAVE) == pytest.approx((-0.1835383078, 0.2514342814), abs=1e-9)
    assert metrics.bootstrap(WAVE, seed=5) == pytest.approx((-0.1940559745, 0.2466700003), abs=1e-9)
    assert metrics.bootstrap(torch.tensor(STEPS)) == pytest.approx((1.575, 2.4), abs=1e-9)
    assert metrics.bootstrap(STEPS, n=250) == pytest.approx((1.55, 2.35), abs=1e-9)
    assert metrics.bootstrap([0.5] * 10) == (0.5, 0.5)


def test_bootstrap_covers_the_mean_and_repeats():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 1
    low, high = metrics.bootstrap(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / 20, rel=0.15)
    assert metrics.bootstrap(values) == (low, high) != metrics.bootstrap(values, seed=1)


def test_majority():
    assert metrics.majority([2, 2, 1, 0]) == 0.5


def test_pixel_neighbour_finds_the_same_picture_and_leaves_empty_classes_last():
    train = torch.rand(300, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(300) % 7
    labels[labels == 3] = 4
    scores = metrics.pixel_neighbour(train, labels, train[:260])
    assert scores.shape == (260, 7)
    assert torch.equal(scores.argmax(1), labels[:260])
    assert (scores[:, 3] == -1e9).all()
    assert torch.equal(
        metrics.pixel_neighbour(train, labels, train[:5].repeat_interleave(2, 2)).argmax(1), labels[:5]
    )


def test_linear_probe_separates_blobs_and_repeats():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 8, generator=generator) * 3
    names = torch.tensor([5, 11, 2, 40])
    pick = torch.randint(0, 4, (400,), generator=generator)
    features = centres[pick] + torch.randn(400, 8, generator=generator)
    found = metrics.linear_probe(features[:200], names[pick[:200]], features[200:])
    assert (found == names[pick[200:]]).float().mean() > 0.9
    assert torch.equal(found, metrics.linear_probe(features[:200], names[pick[:200]], features[200:]))


@pytest.mark.parametrize(("classes", "noise"), [(2, 3.0), (6, 1.2)])
def test_linear_probe_agrees_with_scikit_learn(classes, noise):
    """Two classes: it has one vector of weights where a softmax has two, each of half its length."""
    from sklearn.linear_model import LogisticRegression

    g = torch.Generator().manual_seed(1)
    labels = torch.arange(400) % classes
    features = torch.randn(classes, 12, generator=g)[labels] + noise * torch.randn(400, 12, generator=g)
    train, test = features[:250], features[250:]
    x = ((v - train.mean(0)) / train.std(0, correction=0) for v in (train, test))
    x, x_test = (v.double().numpy() for v in x)
    theirs = LogisticRegression(C=(2 if classes == 2 else 1) / (250 * 0.01), tol=1e-9, max_iter=5000)
    found = metrics.linear_probe(train, labels[:250], test, decay=0.01)
    assert found.tolist() == theirs.fit(x, labels[:250].numpy()).predict(x_test).tolist()
    assert 0.5 < (found == labels[250:]).float().mean() < 0.95, "a boundary that is not easy"


def test_confusion_and_iou_of_sixty_answers():
    true, predicted = [i * i % 7 - 1 for i in range(60)], [i * 3 % 5 for i in range(60)]
    table = metrics.confusion(predicted, true, 6)
    assert table.tolist() == [[4, 3, 2, 4, 4, 0], [3, 3, 4, 3, 4, 0], [0] * 6, [3, 4, 4, 3, 3, 0], [0] * 6, [0] * 6]
    expected = [0.1739130435, 0.125, math.nan, 0.125, math.nan, math.nan]
    assert metrics.iou(table).tolist() == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert metrics.confusion([1], [-1], 2).sum() == 0


def test_iou_equals_torchmetrics_and_ignores_what_is_negative():
    from torchmetrics.classification import MulticlassJaccardIndex

    g = torch.Generator().manual_seed(0)
    true, predicted = torch.randint(-1, 5, (2, 3, 12, 16), generator=g)
    predicted = predicted.clamp(min=0)
    table = metrics.confusion(predicted, true, 6)
    assert table.sum() == (true >= 0).sum() and table[2, 3] == ((true == 2) & (predicted == 3)).sum()
    theirs = MulticlassJaccardIndex(5, average="none", ignore_index=-1)(predicted, true)
    found = metrics.iou(table)
    assert found[:5].tolist() == pytest.approx(theirs.tolist())
    assert torch.isnan(found[5])  # class 5 has no true pixel: it is left out of a mean, not counted as 0


def test_iou_by_hand():
    true, predicted = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]])
    assert metrics.iou(metrics.confusion(predicted, true, 2)).tolist() == pytest.approx([1 / 2, 2 / 3])


def test_confusion_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.confusion(torch.zeros(2, 2), torch.zeros(2, 3), 2)
    with pytest.raises(ValueError, match="outside 0 to 2"):
        metrics.confusion(torch.tensor([3]), torch.tensor([1]), 3)


def test_patch_ceiling_is_the_best_map_of_patches():
    true = torch.zeros(1, 4, 8, dtype=torch.long)
    true[0, :3, 4:] = 7  # 12 of the 16 pixels of the second patch
    best = metrics.patch_ceiling(true, 4)
    assert best.shape == true.shape and (best[0, :, :4] == 0).all() and (best[0, :, 4:] == 7).all()
    with pytest.raises(ValueError, match="whole patches"):
        metrics.patch_ceiling(true, 3)


# ---------------------------------------------------------------- boxes and masks of objects


def photographs(n=12, names=4, seed=0, crowds=True, ties=True):
    """Random objects, and boxes near them, far from them, under their name and under others."""
    g = torch.Generator().manual_seed(seed)
    truth, found = [], []
    for _ in range(n):
        count = int(torch.randint(0, 5, (1,), generator=g))
        corner = torch.rand(count, 2, generator=g) * 60
        real = torch.cat([corner, corner + 6 + torch.rand(count, 2, generator=g) * 30], 1)
        labels = torch.randint(0, names, (count,), generator=g)
        near = real.repeat(3, 1) + (torch.randn(3 * count, 4, generator=g) * 2.5).clamp(-2.9, 2.9)  # never empty
        far = torch.rand(6, 2, generator=g) * 80
        own = torch.cat([near, torch.cat([far, far + 12], 1)])
        said = torch.cat([labels.repeat(3), torch.randint(0, names, (6,), generator=g)])
        said = torch.where(torch.rand(len(said), generator=g) < 0.2, torch.randint(0, names, said.shape, generator=g),
                           said)
        scores = torch.rand(len(said), generator=g)
        scores = (scores * 10).round() / 10 if ties else scores
        truth.append(dict(boxes=real, labels=labels))
        if crowds:
            truth[-1]["crowd"] = torch.rand(count, generator=g) < 0.2
        found.append(dict(boxes=own, labels=said, scores=scores))
    return truth, found


def plain_pycocotools(truth, found, names, kind="bbox", use_names=1, limit=100):
    """What pycocotools' own summary is made from, without any of our code: precision 10×101×K, recall 10×K."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    real, own = [], []
    for i, picture in enumerate(truth):
        for j, box in enumerate(picture["boxes"].tolist()):
            row = dict(id=len(real) + 1, image_id=i, category_id=int(picture["labels"][j]) + 1,
                       iscrowd=int(picture["crowd"][j]) if "crowd" in picture else 0)
            row |= dict(bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        area=(box[2] - box[0]) * (box[3] - box[1]))
            real.append(row | (coded(picture["masks"][j]) if kind == "segm" else {}))
    for i, picture in enumerate(found):
        for j, box in enumerate(picture["boxes"].tolist()):
            row = dict(image_id=i, category_id=int(picture["labels"][j]) + 1, score=picture["scores"][j].item())
            row |= dict(bbox=[box[0], box[1], box[2] - box[0], box[3] - box[1]]) if kind == "bbox" else {}
            own.append(row | (coded(picture["masks"][j]) if kind == "segm" else {}))
    table = COCO()
    table.dataset = dict(images=[dict(id=i, height=100, width=100) for i in range(len(truth))], info={},
                         annotations=real, categories=[dict(id=k + 1) for k in range(names)])
    table.createIndex()
    judge = COCOeval(table, table.loadRes(own), kind)
    judge.params.useCats, judge.params.maxDets = use_names, [limit]
    judge.evaluate()
    judge.accumulate()
    precision, recall = judge.eval["precision"][:, :, :, 0, 0], judge.eval["recall"][:, :, 0, 0]
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def coded(mask):
    from pycocotools import mask as coder

    return dict(segmentation=coder.encode(np.asfortranarray(mask.numpy().astype(np.uint8))))


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_pycocotools(seed):
    truth, found = photographs(seed=seed)
    matches = metrics.match_boxes(truth, found, 6)  # two names never occur
    expected = plain_pycocotools(truth, found, 6)[0].mean(1)
    assert np.allclose(matches.per_name(), expected.mean(0), equal_nan=True) and np.isnan(expected[:, 5]).all()
    assert np.allclose(matches.per_name(0.75), expected[5], equal_nan=True)
    assert matches.ap() == pytest.approx(np.nanmean(expected)) and matches.ap(iou=0.5) > matches.ap(iou=0.9)
    assert matches.ap([1, 3]) == pytest.approx(np.nanmean(expected[:, [1, 3]]))


def test_recall_of_proposals_is_that_of_pycocotools():
    truth, found = photographs(seed=3, ties=False)  # of a tie, without names, it takes the first name's
    for limit in (2, 5, 100):
        matches = metrics.match_boxes(truth, found, 4, by_name=False, limit=limit)
        expected = plain_pycocotools(truth, found, 4, use_names=0, limit=limit)[1]
        assert matches.recall() == pytest.approx(expected.mean()), limit
        assert matches.recall(0.5) == pytest.approx(expected[0, 0])


def test_masks_are_compared_as_pycocotools_does():
    truth, found = photographs(seed=4)
    at = torch.arange(100)
    for picture in (*truth, *found):
        x0, y0, x1, y1 = picture["boxes"].round().view(-1, 4, 1).unbind(1)
        rows, columns = (at >= y0) & (at < y1), (at >= x0) & (at < x1)
        picture["masks"] = rows[:, :, None] & columns[:, None] & ((at + at[:, None]) % 7 > 0)
    ours = metrics.match_boxes(truth, found, 4, masks=True).per_name()
    assert np.allclose(ours, plain_pycocotools(truth, found, 4, "segm")[0].mean((0, 1)), equal_nan=True)
    assert not np.allclose(ours, metrics.match_boxes(truth, found, 4).per_name())


def average_precision_naive(truth, found, label, threshold):
    """The definition in plain loops, without crowds: walk down the scores, then read the best precision from each
    recall on."""
    boxes = [(-own["scores"][j].item(), i, j) for i, own in enumerate(found)
             for j in range(len(own["labels"])) if own["labels"][j] == label]
    wanted = sum(int((real["labels"] == label).sum()) for real in truth)
    taken, hits, points = set(), 0, []
    for seen, (_, i, j) in enumerate(sorted(boxes), 1):
        best, place = threshold, None
        for k, real in enumerate(truth[i]["boxes"].tolist()):
            if truth[i]["labels"][k] != label or (i, k) in taken:
                continue
            x0, y0, x1, y1 = found[i]["boxes"][j].tolist()
            across, down = min(x1, real[2]) - max(x0, real[0]), min(y1, real[3]) - max(y0, real[1])
            common = max(across, 0) * max(down, 0)
            overlap = common / ((x1 - x0) * (y1 - y0) + (real[2] - real[0]) * (real[3] - real[1]) - common)
            if overlap >= best:
                best, place = overlap, k
        if place is not None:
            taken.add((i, place))
            hits += 1
        points.append((hits / wanted, hits / seen))
    return sum(max((p for r, p in points if r >= t / 100), default=0.0) for t in range(101)) / 101


def test_average_precision_by_plain_loops():
    truth, found = photographs(8, names=3, seed=5, crowds=False)
    matches = metrics.match_boxes(truth, found, 3)
    for label in range(3):
        for threshold in (0.5, 0.75):
            by_hand = average_precision_naive(truth, found, label, threshold)
            assert matches.per_name(threshold)[label].item() == pytest.approx(by_hand, abs=1e-9)


def test_what_nobody_looked_for_is_left_out():
    """LVIS' rules, on one picture with one dog (0): a cat (1) was looked for in vain, nobody looked for a cow (2)."""
    box = torch.tensor([[0.0, 0, 10, 10]])
    other = box + 30
    real = dict(boxes=box, labels=[0], negative=[1])
    found = dict(boxes=torch.cat([other, other, other, box]), labels=[0, 1, 2, 0], scores=[0.9, 0.9, 0.9, 0.5])
    matches = metrics.match_boxes([real], [found], 3)
    assert [len(picture) for picture, _, _ in matches.rows] == [2, 1, 0], "the cow is neither right nor wrong"
    assert matches.ap([0]) == pytest.approx(0.5)
    some = metrics.match_boxes([real | dict(not_exhaustive=[0])], [found], 3)
    assert some.ap([0]) == pytest.approx(1), "where not all dogs are marked, one more may be right"
    strict = metrics.match_boxes([{k: v for k, v in real.items() if k != "negative"}], [found], 3)
    assert [len(picture) for picture, _, _ in strict.rows] == [2, 1, 1]


def test_the_limit_is_a_picture_s():
    box = torch.tensor([[0.0, 0, 10, 10]])
    found = dict(boxes=torch.cat([box + 40, box]), labels=[1, 0], scores=[0.9, 0.5])
    ap = [metrics.match_boxes([dict(boxes=box, labels=[0])], [found], 2, limit=limit).ap([0]) for limit in (1, 2)]
    assert ap == pytest.approx([0, 1])


def test_resampled_pictures_count_as_often_as_they_are_drawn():
    """A picture of weight two is as if it were there twice; one of weight nought as if it were not there."""
    truth, found = photographs(6, seed=6, ties=False)
    weights = torch.tensor([[2.0, 0, 1, 3, 1, 1]], dtype=torch.float64)
    twice = [i for i, w in enumerate(weights[0].long().tolist()) for _ in range(w)]
    ours = metrics.match_boxes(truth, found, 4).precision(weights)[0]
    again = metrics.match_boxes([truth[i] for i in twice], [found[i] for i in twice], 4)
    one = torch.ones(1, len(twice), dtype=torch.float64)
    # a picture that is there twice gives two boxes of one score: the curve has a step more, not another one
    assert torch.allclose(ours, again.precision(one)[0], atol=0.02, equal_nan=True)
    plain = metrics.match_boxes(truth, found, 4)
    once = torch.tensor([[1.0, 0, 1, 1, 0, 1]], dtype=torch.float64)
    kept = metrics.match_boxes([truth[i] for i in (0, 2, 3, 5)], [found[i] for i in (0, 2, 3, 5)], 4)
    assert torch.allclose(plain.precision(once)[0].mean(0), kept.per_name(), equal_nan=True)


def test_bootstrap_of_average_precision_is_paired():
    truth, found = photographs(30, seed=7)
    matches = metrics.match_boxes(truth, found, 4)
    a, b = matches.resampled(n=50, seed=1), matches.resampled(n=50, seed=1)
    assert torch.equal(a, b) and a.std() > 0.005 and not torch.equal(a, matches.resampled(n=50, seed=2))
    assert abs(a.mean().item() - matches.ap()) < 0.05
    assert matches.resampled([1], n=5).shape == (5,)


def test_nothing_found_and_nothing_there():
    none = dict(boxes=torch.zeros(0, 4), labels=[], scores=[])
    box = dict(boxes=torch.tensor([[0.0, 0, 10, 10]]), labels=[1])
    assert metrics.match_boxes([box], [none], 2).ap() == 0
    assert math.isnan(metrics.match_boxes([none], [none], 2).ap())
    assert metrics.match_boxes([none], [box | dict(scores=[1.0])], 2).recall() == 0
    many = metrics.match_boxes([box], [box | dict(scores=[1.0])], 1203)
    assert many.ap() == pytest.approx(1) and torch.isnan(many.per_name()).sum() == 1202


@pytest.mark.parametrize("truth, found, message", [
    ([], [{}], "one dict a picture"),
    ([dict(boxes=[[0, 0, 1, 1]], labels=[2])], [dict(boxes=[], labels=[], scores=[])], "outside 0 to 1"),
    ([dict(boxes=[], labels=[])], [dict(boxes=[[0, 0, 1, 1]], labels=[0], scores=[])], "one score and one label"),
])
def test_lists_that_do_not_fit_are_refused(truth, found, message):
    with pytest.raises(ValueError, match=message):
        metrics.match_boxes(truth, found, 2)
    with pytest.raises(ValueError, match="none of COCO's thresholds"):
        metrics.match_boxes([], [], 2).ap(iou=0.33)
