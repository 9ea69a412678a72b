"""Measures: how good is it, how sure are we, and what would a simpler method reach?

Shares are floats from 0 to 1. Scores may be tensors or anything `torch.as_tensor` takes.
"""

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor


def _beaten_and_tied(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """For each row: how many scores lie above its own, and how many equal it (itself included)."""
    if not torch.isfinite(scores).all():
        raise ValueError("Some scores are not finite numbers. Look for a NaN before measuring.")
    above = (scores > own[:, None]).sum(1)
    tied = (scores == own[:, None]).sum(1)
    return above, tied


def _hit_share(scores: Tensor, target: Tensor, k: int) -> float:
    """The mean chance that the target is among the k best when ties are broken at random.

    Without this a model that gives every class the same score would look perfect, or hopeless,
    depending on the sorting routine.
    """
    if not 1 <= k <= scores.shape[1]:
        raise ValueError(f"k is {k}. With {scores.shape[1]} candidates choose 1 to {scores.shape[1]}.")
    above, tied = _beaten_and_tied(scores, scores.gather(1, target[:, None])[:, 0])
    return ((k - above).clamp(min=0).minimum(tied) / tied).mean().item()


def _square(similarity: Tensor) -> Tensor:
    similarity = torch.as_tensor(similarity)
    if similarity.ndim != 2 or similarity.shape[0] > similarity.shape[1] or len(similarity) == 0:
        raise ValueError(
            f"The similarity has shape {tuple(similarity.shape)}. Row i is a query and column i its answer: "
            "give at least as many columns as rows."
        )
    return similarity


def topk_accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """Share of rows whose label is among the k best. logits: B×K, labels: B integers; ties: recall_at_k."""
    logits, labels = torch.as_tensor(logits), torch.as_tensor(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"Expected logits B×K and labels B, got {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    return _hit_share(logits, labels, k)


def recall_at_k(similarity: Tensor, k: int) -> float:
    """Share of queries (rows) that find their own answer (the diagonal) among the k best columns.

    similarity: B×N with N >= B. Tied scores count as the mean over all orders of the tie.
    """
    similarity = _square(similarity)
    return _hit_share(similarity, torch.arange(len(similarity), device=similarity.device), k)


def median_rank(similarity: Tensor) -> float:
    """The median place of the right answer, from 1; ties take the middle. similarity: as in recall_at_k."""
    similarity = _square(similarity)
    above, tied = _beaten_and_tied(similarity, similarity.diagonal())
    return (above + (tied + 1) / 2).double().quantile(0.5).item()


def _list(values: Tensor | Sequence[float]) -> np.ndarray:
    """Numbers in a list or a tensor of any device, in double precision."""
    return np.asarray(torch.as_tensor(values).detach().cpu(), dtype=np.float64)


def spearman(a: Tensor | Sequence[float], b: Tensor | Sequence[float]) -> float:
    """Rank correlation of two lists, from -1 to 1. A constant list has no order: 0."""
    a, b = _list(a), _list(b)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise ValueError("Give two lists of the same length, at least 2.")
    return float(stats.spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else 0.0


def wilson(hits: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share: `hits` of `n`, a whole number but for rounding. z=1.96 gives 95 %.

    Wilson, JASA 22 (1927).
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n} is no share. Give n of at least 1 and hits from 0 to n.")
    low, high = stats.binomtest(round(float(hits)), n).proportion_ci(2 * stats.norm.cdf(z) - 1, "wilson")
    return float(low), float(high)


def bootstrap(values: Tensor | Sequence[float], n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean by resampling n times.

    To compare two methods on the same pictures, give the paired differences: an interval that holds 0 is a
    tie.
    """
    values = _list(values)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"Give a list of at least 2 values, not one of shape {values.shape}.")
    found = stats.bootstrap((values,), np.mean, n_resamples=n, batch=100, method="percentile",
                            random_state=np.random.default_rng(seed))
    low, high = found.confidence_interval
    return float(low), float(high)


def majority(labels: Tensor | Sequence[int]) -> float:
    """What always answering the most frequent label reaches: the share of that label."""
    labels = torch.as_tensor(labels)
    return labels.unique(return_counts=True)[1].max().item() / labels.numel()


def confusion(predicted: Tensor, true: Tensor, classes: int) -> Tensor:
    """How often each true class (row) was called each class (column): classes×classes integers.

    predicted, true: integers of one shape, from 0 to classes - 1. Where `true` is negative the pixel is ignored.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # takes two seconds to import

    predicted, true = torch.as_tensor(predicted), torch.as_tensor(true)
    if predicted.shape != true.shape:
        raise ValueError(f"Predicted {tuple(predicted.shape)} and true {tuple(true.shape)} differ in shape.")
    counted = true >= 0
    predicted, true = predicted[counted].long(), true[counted].long()
    if len(true) and (max(predicted.max(), true.max()) >= classes or predicted.min() < 0):
        raise ValueError(f"A class lies outside 0 to {classes - 1}.")
    return multiclass_confusion_matrix(predicted, true, classes, validate_args=False)


def iou(table: Tensor) -> Tensor:
    """Intersection over union of each class, from a confusion table; NaN for a class without a true pixel.

    The mean over classes, `iou(table)[wanted].nanmean()`, is the mIoU of PASCAL and ADE20K.
    """
    hits = table.diagonal().double()
    union = table.sum(0) + table.sum(1) - hits
    return torch.where(table.sum(1) > 0, hits / union.clamp(min=1), torch.nan)


def patch_ceiling(true: Tensor, patch: int) -> Tensor:
    """The best map that is constant on each patch: every pixel gets its patch's most frequent label.

    true: B×H×W integers, H and W multiples of the patch. What no model that answers once a patch can exceed.
    """
    B, H, W = true.shape
    if H % patch or W % patch:
        raise ValueError(f"{H}×{W} pixels are not whole patches of {patch}.")
    tiles = true.view(B, H // patch, patch, W // patch, patch).transpose(2, 3).flatten(3)
    return tiles.mode(-1).values.repeat_interleave(patch, 1).repeat_interleave(patch, 2)


def _thumbnails(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images.float(), 16).flatten(1)


def pixel_neighbour(train_images: Tensor, train_labels: Tensor, images: Tensor) -> Tensor:
    """The floor for naming pictures: the nearest training picture by L2 distance of 16×16 thumbnails.

    train_images: N×C×H×W, train_labels: N integers from 0, images: B×C×h×w, all in [0, 1].
    Returns scores B×K, K the largest label + 1: minus the distance to the nearest picture of each class,
    and -1e9 for a class without pictures. `scores.argmax(1)` names; `topk_accuracy(scores, labels, 5)`
    measures.
    """
    labels = torch.as_tensor(train_labels)
    train, queries = _thumbnails(train_images), _thumbnails(images)
    scores = queries.new_full((len(queries), int(labels.max()) + 1), -1e9)
    for start in range(0, len(queries), 256):  # in pieces: the full table of distances may not fit
        near = -torch.cdist(queries[start : start + 256], train)
        scores[start : start + 256].scatter_reduce_(1, labels.expand(len(near), -1), near, "amax")
    return scores


def linear_probe(features: Tensor, labels: Tensor, test_features: Tensor, decay: float = 1e-3) -> Tensor:
    """Train a linear classifier on frozen features and return its labels for test_features.

    features: N×D, labels: N integers, test_features: B×D → B labels. Logistic regression by L-BFGS, as in
    the CLIP paper, started from zero: no random numbers. Features are standardised; `decay` weighs the
    squared weights against the mean loss. scikit-learn's LogisticRegression(C=1/(N·decay)) finds the same
    boundary, but it runs further: about one label in 300 differs, and recorded figures are of this one.
    """
    if len(features) != len(labels) or features.shape[1] != test_features.shape[1]:
        raise ValueError("Give one label per feature row, and test features of the same width.")
    names, target = torch.as_tensor(labels).unique(return_inverse=True)
    mean, std = features.double().mean(0), features.double().std(0, correction=0).clamp(min=1e-6)
    x, x_test = (features.double() - mean) / std, (test_features.double() - mean) / std
    weight = x.new_zeros(x.shape[1], len(names), requires_grad=True)
    bias = x.new_zeros(len(names), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, target) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return names[(x_test @ weight + bias).argmax(1)].detach()


# ---------------------------------------------------------------- boxes and masks of objects

IOUS = torch.from_numpy(np.linspace(0.5, 0.95, 10))  # COCO's thresholds
RECALLS = torch.from_numpy(np.linspace(0, 1, 101))  # and the recalls at which it reads the precision


@dataclass(frozen=True)
class Matches:
    """Which boxes found what, at each of IOUS: made by `match_boxes`.

    rows: for each name the picture of each box, D integers, whether it hit, and whether it counts at all,
    both 10×D; the best score first. wanted: K×B, how many objects of each name each picture has.
    """

    rows: list[tuple[Tensor, Tensor, Tensor]]
    wanted: Tensor

    def precision(self, weights: Tensor) -> Tensor:
        """Average precision n×10×K if picture b were there weights[n, b] times; NaN: a name without objects."""
        wanted, columns = weights @ self.wanted.T.double(), []
        for (picture, hit, counts), number in zip(self.rows, wanted.T, strict=True):
            times = weights[:, None, picture]
            true = (times * (hit & counts)).cumsum(-1)
            false = (times * (~hit & counts)).cumsum(-1)
            precision = true / (true + false).clamp(min=1)
            best = precision.flip(-1).cummax(-1).values.flip(-1)  # at this recall or a higher one
            best = F.pad(best, (0, 1))  # a recall that is never reached has precision 0
            recall = true / number.clamp(min=1)[:, None, None]
            place = torch.searchsorted(recall, RECALLS.repeat(*recall.shape[:2], 1))
            found = best.gather(-1, place).mean(-1)
            columns.append(torch.where(number[:, None] > 0, found, math.nan))
        return torch.stack(columns, -1)

    def per_name(self, iou: float | None = None) -> Tensor:
        """Average precision of each name, K; the mean over IOUS, or at one of them."""
        found = self.precision(torch.ones(1, self.wanted.shape[1], dtype=torch.float64))[0]
        return found.mean(0) if iou is None else found[_threshold(iou)]

    def ap(self, labels: Sequence[int] | None = None, iou: float | None = None) -> float:
        """The mean over names that have objects: all, or those of `labels` (LVIS: rare, common, frequent)."""
        found = self.per_name(iou)
        return (found if labels is None else found[torch.as_tensor(labels)]).nanmean().item()

    def recall(self, iou: float | None = None) -> float:
        """Share of all objects that some box has found; the mean over IOUS, or at one of them."""
        hits = torch.stack([(hit & counts).sum(1) for _, hit, counts in self.rows]).sum(0)
        share = hits / max(int(self.wanted.sum()), 1)
        return (share.mean() if iou is None else share[_threshold(iou)]).item()

    def resampled(self, labels: Sequence[int] | None = None, n: int = 200, seed: int = 0) -> Tensor:
        """`ap` of n samples of the pictures, drawn with replacement: n numbers, for a bootstrap interval.

        One seed draws the same pictures for every method, so differences and ratios of two are paired.
        """
        total = self.wanted.shape[1]
        drawn = torch.randint(total, (n, total), generator=torch.Generator().manual_seed(seed))
        once = torch.ones(n, total, dtype=torch.float64)
        weights = torch.zeros_like(once).scatter_add_(1, drawn, once)
        chosen = list(range(len(self.rows))) if labels is None else list(labels)
        part = Matches([self.rows[k] for k in chosen], self.wanted[chosen])
        return torch.cat([part.precision(some).mean(1).nanmean(-1) for some in weights.split(20)])


def _threshold(iou: float) -> int:
    place = int((IOUS - iou).abs().argmin())
    if abs(IOUS[place].item() - iou) > 1e-6:
        raise ValueError(f"{iou} is none of COCO's thresholds: 0.5, 0.55, … 0.95.")
    return place


def match_boxes(truth: Sequence[Mapping], found: Sequence[Mapping], names: int, *, masks: bool = False,
                limit: int = 300, by_name: bool = True) -> Matches:
    """Match what a detector found with what is there, as COCO and LVIS do, by pycocotools.

    Both are lists with one dict a picture. truth: boxes G×4 (x0, y0, x1, y1), labels G from 0 to names - 1; it
    may have `crowd` G (1: a box there neither hits nor misses), and `masks` G×H×W. found: boxes D×4, scores D,
    labels D, and perhaps `masks` D×H×W. limit: the best so many boxes of a picture count, as in LVIS.
    masks: compare masks. by_name=False forgets the names: the recall of proposals.

    LVIS is federated: a picture says only of some names whether they are there. Where its dict has `negative`,
    the labels that somebody looked for in vain, boxes of names that are neither there nor in it are left out;
    `not_exhaustive` are labels of which not all are marked: a box of theirs that hits nothing does not count.
    Raises ValueError for lists that do not fit.
    """
    if len(truth) != len(found):
        raise ValueError(f"Give one dict a picture: {len(truth)} of truth, {len(found)} of what was found.")
    there, ours, unsure = [], [], set()
    for picture, (real, own) in enumerate(zip(truth, found, strict=True)):
        looked_for = _looked_for(real, names) if by_name else None
        there += _annotations(real, picture, None, masks, by_name, names)
        ours += _annotations(own, picture, _best(own, limit, looked_for), masks, by_name, names)
        unsure |= {(picture, int(label)) for label in real.get("not_exhaustive", ()) if by_name}
    return _matched(there, ours, unsure, len(truth), names if by_name else 1, masks)


def _looked_for(real: Mapping, names: int) -> Tensor | None:
    """K bool: the names of which a picture says whether they are there; None where it does of all."""
    if real.get("negative") is None:
        return None
    known = torch.zeros(names, dtype=torch.bool)
    known[torch.as_tensor([*_ints(real["labels"]), *_ints(real["negative"])], dtype=torch.long)] = True
    return known


def _ints(values: Tensor | Sequence[int]) -> list[int]:
    return torch.as_tensor(values).long().flatten().tolist()


def _best(own: Mapping, limit: int, looked_for: Tensor | None) -> list[int]:
    """The places of the best boxes of a picture, and of these the ones that count."""
    scores, labels = torch.as_tensor(own["scores"]), torch.as_tensor(own["labels"])
    if scores.shape != labels.shape or len(scores) != len(own["boxes"]):
        raise ValueError(f"Give one score and one label a box: {len(own['boxes'])} boxes, "
                         f"{len(scores)} scores, {len(labels)} labels.")
    best = scores.argsort(descending=True, stable=True)[:limit]
    return (best if looked_for is None else best[looked_for[labels[best].long()]]).tolist()


def _annotations(picture: Mapping, number: int, places: list[int] | None, masks: bool, by_name: bool,
                 names: int) -> list[dict]:
    """A picture's boxes or masks as COCO writes them."""
    corners, labels = torch.as_tensor(picture["boxes"]).reshape(-1, 4).tolist(), _ints(picture["labels"])
    if labels and not (0 <= min(labels) and max(labels) < names):
        raise ValueError(f"A label lies outside 0 to {names - 1}.")
    scores = _list(picture["scores"]) if "scores" in picture else None
    crowd, rows = _ints(picture.get("crowd", [0] * len(labels))), []
    for place in range(len(labels)) if places is None else places:
        x0, y0, x1, y1 = corners[place]
        row = dict(image_id=number, category_id=labels[place] if by_name else 0, iscrowd=crowd[place],
                   bbox=[x0, y0, x1 - x0, y1 - y0], area=max(x1 - x0, 0) * max(y1 - y0, 0))
        if masks:
            row |= _run_length(picture["masks"][place])
        rows.append(row if scores is None else row | dict(score=float(scores[place])))
    return rows


def _run_length(mask: Tensor) -> dict:
    from pycocotools import mask as coder

    code = coder.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    return dict(segmentation=code, area=float(coder.area(code)))


def _matched(there: list[dict], ours: list[dict], unsure: set[tuple[int, int]], pictures: int, names: int,
             masks: bool) -> Matches:
    """Run pycocotools' matching, and collect what it says of each box."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sets = []
    with redirect_stdout(io.StringIO()):  # it reports each step
        for rows in (there, ours):
            table = COCO()
            table.dataset = dict(images=[dict(id=i, height=0, width=0) for i in range(pictures)],
                                 categories=[dict(id=k) for k in range(names)],
                                 annotations=[row | dict(id=i) for i, row in enumerate(rows, 1)])
            table.createIndex()
            sets.append(table)
        judge = COCOeval(*sets, iouType="segm" if masks else "bbox")
        judge.params.iouThrs, judge.params.maxDets = IOUS.numpy(), [max(len(ours), 1)]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, math.inf]], ["all"]
        judge.evaluate()
    wanted = torch.zeros(names, pictures, dtype=torch.long)
    parts: list[list[tuple]] = [[] for _ in range(names)]
    for pair in judge.evalImgs:
        if pair is None:
            continue
        k, picture = pair["category_id"], pair["image_id"]
        wanted[k, picture] = int((np.asarray(pair["gtIgnore"]) == 0).sum())
        hit, ignored = pair["dtMatches"] > 0, pair["dtIgnore"].astype(bool)
        if (picture, k) in unsure:
            ignored |= ~hit
        parts[k].append((pair["dtScores"], [picture] * len(pair["dtScores"]), hit, ~ignored))
    return Matches([_sorted(part) for part in parts], wanted)


def _sorted(parts: list[tuple]) -> tuple[Tensor, Tensor, Tensor]:
    """One name's boxes of all pictures, the best first."""
    scores = torch.tensor([score for part in parts for score in part[0]], dtype=torch.float64)
    order = scores.argsort(descending=True, stable=True)
    picture = torch.tensor([number for part in parts for number in part[1]], dtype=torch.long)[order]
    none = np.zeros((len(IOUS), 0), bool)
    hit, counts = (torch.from_numpy(np.concatenate([none, *(part[i] for part in parts)], 1)) for i in (2, 3))
    return picture, hit[:, order], counts[:, order]
