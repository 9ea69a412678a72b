"""Chapter 12's recordings: PointCLIP on clouds of the toy world's solids, and on real meshes.

A seed decides the test clouds (50 a class), the shots and
what is trained. Studies:
zero      zero-shot, one view to ten: V1's maps as released, on a finer canvas, in CLIP's normalisation; V2's pictures
words     the wording of the prompt, beside random words
weights   view weights searched on validation clouds and, as the release does, on the test clouds, over 20 splits
forms     render, silhouette, edges, depth maps of the same solids; nearest neighbour in pixels beside
shots     adapter and linear probe from 1 to 16 clouds a class
ensemble  PointNet, adapter, and both together, the share chosen on validation clouds
why       what V2 changes, one thing at a time
density   the number of points
meshes    real meshes, from the folder meshes/ of CLIPNOTES_TEST_DATA; left out where that is not set
See recordings/runner.py for the command line.
"""

import os
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import grammar, metrics
from clipnotes.clip import load_clip
from clipnotes.toyworld import solids
from recordings.runner import Recorder

recorder = Recorder("12_pointclip")
chapter = recorder.chapter
TEST, TRAIN, VALIDATION, CLASSES = 30_000, 31_000, 32_000, 22
SIX, SHOTS = [0, 1, 2, 3, 8, 9], (1, 2, 4, 8, 16)
RUNS = {"zero": ("v1", "v1_fine", "v1_standard", "v2"), "words": ("v1", "v2"), "weights": ("v1", "v2"),
        "forms": ("all",), "shots": ("v1", "v2"), "ensemble": ("v1_16", "v1_64", "v2_16"), "why": ("v2",),
        "density": ("both",), "meshes": ("both",)}


@cache
def tiny():
    return load_clip("tiny").requires_grad_(False)


@cache
def clouds(split: int, count: int, seed: int) -> dict:
    return solids.clouds(count * CLASSES, split + seed)


def encode(pictures: Tensor, standardise: bool) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return chapter.encode_views(tiny(), pictures, standardise)


def pictures(points: Tensor, variant: str) -> tuple[Tensor, bool]:
    """The ten pictures of each cloud, and whether CLIP's normalisation belongs to them."""
    if variant == "v2":
        return chapter.project_v2(points, chapter.views_v2()), True
    if variant == "few":
        return chapter.FEW_SHOT(points), False
    maps = chapter.Recipe(10, 64 if variant == "v1_fine" else 37)(points)
    return (maps / 2.6, True) if variant == "v1_standard" else (maps, False)


@cache
def encoded(split: int, count: int, seed: int, variant: str) -> tuple[Tensor, Tensor]:
    """View vectors B×10×D and labels B."""
    batch = clouds(split, count, seed)
    return encode(*pictures(batch["points"], variant)), batch["labels"]


def texts(template: str = "a grey render of {}") -> Tensor:
    return chapter.class_texts(tiny(), list(solids.PARTS), template)


def factor() -> float:
    return tiny().logit_scale.exp().item()


def right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).int()


def share(hits: Tensor) -> float:
    return round(hits.float().mean().item(), 4)


def string(hits: Tensor) -> str:
    return "".join(map(str, hits.tolist()))


# ---------------------------------------------------------------- studies


def zero(variant: str, seed: int) -> dict:
    view_emb, labels = encoded(TEST, 50, seed, variant)
    sides, six = ([4, 5, 6, 7], [4, 5, 6, 7, 8, 9]) if variant == "v2" else ([0, 1, 2, 3], SIX)
    found = {name: right(chapter.fuse(view_emb[:, rows], texts(), factor()), labels) for name, rows in
             (("one", sides[:1]), ("sides", sides), ("six", six), ("ten", list(range(10))))}
    each = [share(right(chapter.fuse(view_emb[:, [v]], texts(), factor()), labels)) for v in range(10)]
    return {k: share(v) for k, v in found.items()} | dict(each=each, hits={k: string(v) for k, v in found.items()})


def words(variant: str, seed: int) -> dict:
    view_emb, labels = encoded(TEST, 50, seed, variant)
    rows = SIX if variant == "v1" else list(range(10))
    g = torch.Generator().manual_seed(seed)
    pool = sorted(w for w in grammar.words() if w.isalpha() and w not in " ".join(solids.PARTS))
    nonsense = [" ".join(pool[i] for i in torch.randint(len(pool), (3,), generator=g)) + " {}" for _ in range(20)]

    def measure(template: str) -> float:
        return share(right(chapter.fuse(view_emb[:, rows], texts(template), factor()), labels))

    return dict(accuracy={t: measure(t) for t in chapter.PROMPTS}, random=[measure(t) for t in nonsense])


def weights(variant: str, seed: int) -> dict:
    """20 splits of the test clouds: half to judge on, and validation clouds from the other half, 110 or all."""
    view_emb, labels = encoded(TEST, 50, seed, variant)
    rows = SIX if variant == "v1" else [4, 5, 6, 7, 8, 9]
    scores = F.normalize(view_emb[:, rows], dim=-1) @ texts().T
    g, found, best = torch.Generator().manual_seed(seed), [], []
    for _ in range(20):
        order = torch.randperm(len(labels), generator=g)
        test, rest = order[: len(order) // 2], order[len(order) // 2 :]
        row = dict(equal=share(right(scores[test].mean(1), labels[test])))
        for size in (110, 550):
            for name, judge in ((f"validation_{size}", rest[:size]), (f"test_{size}", test[:size])):
                w = chapter.search_weights(scores[judge], labels[judge])
                on = test[:size] if name.startswith("test") else test
                row[name] = share(right((w[:, None] * scores[on]).sum(1), labels[on]))
                best += [w.tolist()] if name == "validation_550" else []
        found.append(row)
    return dict(splits=found, mean_weights=[round(v, 3) for v in torch.tensor(best).mean(0).tolist()])


def forms(variant: str, seed: int) -> dict:
    drawn, labels = chapter.forms(440, TEST + 100 + seed)
    train_drawn, train_labels = chapter.forms(352, TRAIN + 100 + seed)
    found = {}
    for name, maps in drawn.items():
        hits = right(encode(maps[:, None], name not in chapter.AS_RELEASED)[:, 0] @ texts().T, labels)
        near = metrics.pixel_neighbour(train_drawn[name][:, None], train_labels, maps[:, None])
        found[name] = dict(accuracy=share(hits), neighbour=share(right(near, labels)), hits=string(hits))
    return dict(forms=found)


def shots(variant: str, seed: int) -> dict:
    kind = "few" if variant == "v1" else "v2"
    train_emb, train_labels = encoded(TRAIN, 16, seed, kind)
    view_emb, labels = encoded(TEST, 20, seed, kind)
    found = dict(shots=list(SHOTS), zero=share(right(chapter.fuse(view_emb, texts(), factor()), labels)),
                 adapter=[], probe=[])
    for count in SHOTS:
        n = count * CLASSES  # the clouds go round the classes, so the first n hold `count` of each
        adapter = chapter.fit_adapter(train_emb[:n], train_labels[:n], texts(), factor(), seed)
        found["adapter"].append(share(right(chapter.few_shot_logits(adapter, view_emb, texts(), factor()), labels)))
        unit = [F.normalize(v, dim=-1).flatten(1) for v in (train_emb[:n], view_emb)]
        found["probe"].append(share((metrics.linear_probe(unit[0], train_labels[:n], unit[1]) == labels).int()))
    return found


def ensemble(variant: str, seed: int) -> dict:
    """`variant`: the adapter's pictures, and how many clouds a class PointNet has; the adapter has 16."""
    kind, many = ("few" if variant.startswith("v1") else "v2"), int(variant.split("_")[1])
    train_emb, train_labels = encoded(TRAIN, 16, seed, kind)
    adapter = chapter.fit_adapter(train_emb, train_labels, texts(), factor(), seed)
    train = clouds(TRAIN, many, seed)
    net = chapter.fit_points(train["points"], train["labels"], CLASSES, seed)
    probs = {}
    for split, count in ((VALIDATION, 10), (TEST, 50)):
        view_emb, labels = encoded(split, count, seed, kind)
        probs[split] = (chapter.few_shot_logits(adapter, view_emb, texts(), factor()).softmax(1),
                          net(clouds(split, count, seed)["points"]).softmax(1), labels)
    mix = chapter.best_share(*probs[VALIDATION])
    one, other, labels = probs[TEST]
    found = dict(adapter=right(one, labels), pointnet=right(other, labels),
                 both=right(chapter.mixed(one, other, mix), labels))
    return dict(share=mix, hits={k: string(v) for k, v in found.items()}) | {k: share(v) for k, v in found.items()}


def nearness(points: Tensor, closed: bool) -> Tensor:
    """V2's ten pictures of each cloud, 0 empty to 1 near; not closed: no window, no blur, one pixel a point."""
    parts = []
    for p in points.split(110):
        grids = [chapter.voxels(p, r, 66 if closed else 64) for r in chapter.views_v2()]
        if closed:
            parts.append(torch.stack([chapter.densify(grid) for grid in grids], 1))
        else:
            parts.append(torch.stack([grid.amax(1) / grid.amax((1, 2, 3))[:, None, None] for grid in grids], 1))
    return torch.cat(parts)


def inked(x: Tensor) -> dict[str, Tensor]:
    """The same pictures on a white or a black ground, what is near dark or bright."""
    return {"white, near dark": 1 - x, "white, near bright": torch.where(x > 0, x, 1.0),
            "black, near bright": x, "black, near dark": torch.where(x > 0, 1 - 0.8 * x, 0.0),
            "silhouette": (x == 0).float()}


def why(variant: str, seed: int) -> dict:
    """What V2 changes, one thing at a time."""
    batch, found = clouds(TEST, 20, seed), {}
    for closed in (True, False):
        for name, picture in inked(nearness(batch["points"], closed)).items():
            hits = right(chapter.fuse(encode(picture, True), texts(), factor()), batch["labels"])
            found[f"{'closed' if closed else 'dots'}, {name}"] = share(hits)
    return dict(accuracy=found)


def of_density(batch: dict) -> dict[str, Tensor]:
    """Logits of clouds, whatever their number of points, by V1's six views and by V2's ten."""
    return {kind: chapter.fuse(encode(*pictures(batch["points"], kind))[:, rows], texts(), factor())
            for kind, rows in (("v1", SIX), ("v2", list(range(10))))}


def density(variant: str, seed: int) -> dict:
    numbers, found = (64, 256, 1024, 4096), dict(v1=[], v2=[])
    for n in numbers:
        batch = solids.clouds(10 * CLASSES, TEST + seed, n)
        for kind, logits in of_density(batch).items():
            found[kind].append(share(right(logits, batch["labels"])))
    return dict(points=list(numbers)) | found


def meshes(variant: str, seed: int) -> dict:
    points, labels, words_of = chapter.real_clouds(Path(os.environ["CLIPNOTES_TEST_DATA"]) / "meshes", seed)
    text_emb, found = chapter.class_texts(tiny(), words_of), {}
    for kind, rows in (("v1", SIX), ("v2", list(range(10)))):
        logits = chapter.fuse(encode(*pictures(points, kind))[:, rows], text_emb, factor())
        found[kind], found[f"{kind}_five"] = share(right(logits, labels)), metrics.topk_accuracy(logits, labels, 5)
        found[f"{kind}_answers"] = logits.argmax(1).tolist()
    return found | dict(n=len(labels), names=words_of, labels=labels.tolist(), majority=metrics.majority(labels))


# ---------------------------------------------------------------- records


@recorder.extra
def figure() -> list[dict]:
    """The maps of the first figure and the answers to them."""
    shown = []
    for name in ("rocket", "chair"):
        batch = solids.clouds(1, 0, names=[name])
        maps = chapter.Recipe()(batch["points"])
        best, answer = chapter.fuse(chapter.encode_views(tiny(), maps), texts(), factor()).softmax(1)[0].max(0)
        pixels = (maps[0] / 2.6 * 255).round().clamp(0, 255).byte()
        shown.append(dict(name=name, answer=list(solids.PARTS)[answer], probability=round(best.item(), 3),
                          maps=bytes(pixels.flatten().tolist()).hex()))
    return shown


DATA = dict(test=TEST, train=TRAIN, validation=VALIDATION, classes=CLASSES)  # the seeds of the clouds begin there
for study in (zero, words, weights, forms, shots, ensemble, why, density, meshes):
    name = study.__name__
    recorder.study(variants=RUNS[name], seeds=5 if name == "shots" else 3, recipe=DATA)(study)


@recorder.probe
def probe() -> dict:
    """One cloud a class, as V1 and as V2: fusion, prompts and weights; forms; four epochs of adapter and of PointNet.

    Two clouds for what V2 changes and for few points. The meshes are a reader's own, and no probe can have them.
    """
    found = {}
    for variant in ("v1", "v2"):
        view_emb, labels = encoded(TEST, 1, 0, variant)
        logits = chapter.fuse(view_emb, texts(), factor())
        scores = F.normalize(view_emb[:, 4:], dim=-1) @ texts().T
        found |= {f"zero.{variant}_right": right(logits, labels).float().mean(), f"zero.{variant}_logits": logits.std(),
                  f"weights.{variant}": chapter.search_weights(scores, labels).std()}
        found |= {f"words.{variant}": torch.stack([chapter.fuse(view_emb, texts(t), factor()).std()
                                                   for t in chapter.PROMPTS]).mean()}
    two, few = clouds(TEST, 1, 0)["points"][:2], solids.clouds(2, TEST, 64)
    for closed in (True, False):
        seen = [encode(picture, True) for picture in inked(nearness(two, closed)).values()]
        found[f"why.{'closed' if closed else 'dots'}"] = chapter.fuse(torch.cat(seen), texts(), factor()).std()
    found |= {f"density.{kind}": logits.std() for kind, logits in of_density(few).items()}
    drawn, _ = chapter.forms(16, TEST + 100)
    found |= {f"forms.{name}": pictures.mean() for name, pictures in drawn.items()}
    view_emb, labels = encoded(TRAIN, 1, 0, "few")
    adapter = chapter.fit_adapter(view_emb, labels, texts(), factor(), 0, epochs=4)
    points = clouds(TRAIN, 1, 0)["points"]
    net = chapter.fit_points(points, labels, CLASSES, 0, epochs=4)
    return found | {"shots.logits": chapter.few_shot_logits(adapter, view_emb, texts(), factor()).std(),
                    "ensemble.logits": net(points).std()}


if __name__ == "__main__":
    sys.exit(recorder.main())
