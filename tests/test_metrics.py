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
