"""Chapter 4's own code, from the notebook: equal to the release, brute force and bad input, what is kept on disk."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clipnotes import boxes, check, metrics, records
from clipnotes.clip import load_clip
from clipnotes.prompts import class_embeddings
from clipnotes.toyworld import detection
from clipnotes.weights import load_weights
from notebooks import ROOT

NOTEBOOK = ROOT / "chapters" / "04_vild.ipynb"


@pytest.fixture(scope="module")
def batch(chapter):
    """Six pictures as the losses take them, with four crops each."""
    scenes = detection.scenes(6, 124_000_000, tail=True)
    crops = scenes["boxes"][:, :4].float()
    return dict(images=scenes["images"], boxes=scenes["boxes"].float(), categories=scenes["categories"],
                object_map=scenes["object_map"], real=detection.annotated(scenes["categories"], 0),
                crops=crops, crop_emb=F.normalize(torch.randn(*crops.shape[:2], 128), dim=-1))


@pytest.fixture(scope="module")
def text_emb():
    return F.normalize(torch.randn(80, 128, generator=torch.Generator().manual_seed(0)), dim=1)


def shipped(chapter, name):
    model = chapter.Detector()
    model.load_state_dict(load_weights(f"04_vild/{name}", "detector")[0])
    return model.eval()


# ---------------------------------------------------------------- equal to the release


def test_parity_refuses_typical_mistakes(chapter):
    class Unnormalised(chapter.ViLDHead):
        def forward(self, regions, text_emb):
            hidden, emb = self.tower(regions)
            return chapter.SCALE * emb @ torch.cat([self.background[None], text_emb]).T, self.box(hidden), emb

    wrong = {"vild.text_head": Unnormalised,
             "vild.distillation": lambda s, t, box: (s - t).abs().sum(-1).mean(),
             "vild.class_loss": lambda logits, labels, mask: F.cross_entropy(
                 logits.masked_fill(mask == 0, -torch.inf), labels),
             "vild.ensemble": lambda text, image, base: chapter.ensemble_scores(text, image, 1 - base)}
    for component, candidate in wrong.items():
        with pytest.raises(AssertionError, match="differs from the release"):
            check.parity(component, candidate)


# ---------------------------------------------------------------- the parts


def test_the_slow_parts_are_the_librarys(chapter):
    g = torch.Generator().manual_seed(1)
    corner = 40 * torch.rand(50, 2, generator=g)
    many = torch.cat([corner, corner + 1 + 20 * torch.rand(50, 2, generator=g)], 1)
    scores = torch.rand(50, generator=g)
    for threshold in (0.2, 0.5, 0.8):
        kept = sorted(chapter.nms_naive(many, scores, threshold))
        assert boxes.nms(many, scores, threshold).nonzero()[:, 0].tolist() == kept
    picture = torch.randn(2, 9, 7, generator=g)
    slow = chapter.roi_align_naive(picture, many[0] / 10, 3)
    assert torch.allclose(boxes.roi_align(picture[None], many[None, :1] / 10, 3, 1.0)[0, 0], slow, atol=1e-5)


def test_each_thing_has_an_anchor_that_learns_it(chapter, batch):
    index, kind = chapter.proposal_targets(chapter.anchors(128), batch["boxes"], batch["real"])
    for i, real in enumerate(batch["real"]):
        assert set(real.nonzero()[:, 0].tolist()) <= set(index[i, kind[i] == 1].tolist())


def test_an_unlabelled_thing_is_background_to_the_class_loss_alone(chapter, batch):
    everything = batch["boxes"].clone()
    regions, _, labels = chapter.training_regions(everything, torch.zeros(everything.shape[:2]), batch)
    rare = (batch["categories"] >= 80)
    assert rare.any()
    for i, k in rare.nonzero().tolist():
        same = (regions[i] == everything[i, k]).all(1) & (labels[i] >= 0)
        assert set(labels[i, same].tolist()) <= {0}


def test_every_loss_reaches_what_it_should(chapter, batch, text_emb):
    torch.manual_seed(0)
    model = chapter.Detector(separate=True)
    own = {"image": "head.image_tower", "boxes": "head.box", "masks": "masker", "proposals": "proposer",
           "class": "head.background"}
    for name, loss in chapter.detector_losses(model, batch, text_emb).items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        grads = {path: weight.grad for path, weight in model.named_parameters()}
        learning = [path for path, grad in grads.items() if grad is not None and grad.any()]
        reached = {"trunk", own[name]} | ({"head.image_tower"} if name == "image" else set())
        for part in ("trunk", "head.image_tower", *own.values()):
            if part in reached or part == "head.image_tower":
                assert any(path.startswith(part) for path in learning) == (part in reached), (name, part)


def test_no_boxes_no_names_and_many_names(chapter, batch, text_emb):
    model = chapter.Detector().eval()
    empty = batch | dict(real=torch.zeros_like(batch["real"]), crops=torch.zeros_like(batch["crops"]))
    losses = chapter.detector_losses(model, empty, text_emb)
    assert all(torch.isfinite(losses[name]) for name in ("class", "boxes", "proposals", "image"))
    assert losses["image"] == 0
    features = model.look(batch["images"])[0]
    many = model.name(features, batch["boxes"], torch.randn(1203, 128))[0]
    none = model.name(features, batch["boxes"], torch.zeros(0, 128))[0]
    assert many.shape[-1] == 1204 and none.shape[-1] == 1
    one, nobody = (chapter.detect(model, batch["images"], torch.randn(count, 128)) for count in (1, 0))
    assert all(set(row["labels"].tolist()) <= {0} for row in one) and len(one) == 6
    assert all(len(row["boxes"]) == 0 for row in nobody)
    outside = torch.tensor([[[-50.0, -50, -10, -10], [120, 120, 400, 400]]])
    assert model.name(features[:1], outside, text_emb)[0].isfinite().all()


def test_masks_are_read_in_their_boxes(chapter):
    maps = torch.full((1, 32, 32), -1)
    maps[0, 8:16, 4:20] = 1
    box = torch.tensor([[[4.0, 8, 20, 16], [4, 8, 20, 24]]])
    target = chapter.mask_targets(maps, box, torch.tensor([[1, 1]]))
    assert target[0, 0].min() > 0.4 and target[0, 0].mean() > 0.95
    assert 0.4 < target[0, 1].mean() < 0.6


# ---------------------------------------------------------------- the teacher, on disk


def test_crops_are_squares_around_their_things(chapter):
    box = torch.tensor([[[10.0, 20, 30, 60]]])
    assert chapter.enlarged(box).tolist() == [[[0.0, 20, 40, 60]]]
    assert chapter.enlarged(box, 1.5).tolist() == [[[-10.0, 10, 50, 70]]]
    images = torch.zeros(1, 3, 128, 128)
    images[..., 20:60, :40] = 1
    assert chapter.cut(images, chapter.enlarged(box)).mean() > 0.98
    assert chapter.cut(images, torch.tensor([[[-30.0, 20, 10, 60]]])).mean() > 0.98  # the edge goes on


def test_the_teacher_is_kept_whole_or_made_again(chapter, tmp_path, capsys):
    made = []

    def make(first, last):
        made.append(first)
        if len(made) == 2:
            raise KeyboardInterrupt
        return dict(emb=torch.arange(first, last).float())

    with pytest.raises(KeyboardInterrupt):
        chapter.teacher_vectors(tmp_path, 5, make, dict(seed=0), part=2)
    whole = chapter.teacher_vectors(tmp_path, 5, make, dict(seed=0), part=2)["emb"]
    assert whole.tolist() == [0, 1, 2, 3, 4] and made == [0, 2, 2, 4]
    file = tmp_path / "000002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert chapter.teacher_vectors(tmp_path, 5, make, dict(seed=0), part=2)["emb"].tolist() == whole.tolist()
    assert made[4:] == [2] and "damaged: it is made again" in capsys.readouterr().out
    chapter.teacher_vectors(tmp_path, 5, make, dict(seed=1), part=2)
    assert made[5:] == [0, 2, 4] and "another recipe" in capsys.readouterr().out


# ---------------------------------------------------------------- what ships


def test_the_shipped_detector_finds_names_that_nobody_labelled(chapter):
    names = class_embeddings(load_clip("tiny"), detection.names(), ["a photo of {}"])
    scenes = detection.scenes(60, 125_000_000)
    found = chapter.detect(shipped(chapter, "vild"), scenes["images"], names)
    matches = metrics.match_boxes(detection.truth(scenes), found, 120)
    assert matches.ap(detection.GROUPS["rare"]) > 0.05
    shuffled = chapter.detect(shipped(chapter, "vild"), scenes["images"], names.roll(7, 0))
    assert metrics.match_boxes(detection.truth(scenes), shuffled, 120).ap(detection.GROUPS["rare"]) < 0.03
    for row in found:
        assert (row["boxes"][:, 2:] >= row["boxes"][:, :2]).all() and row["boxes"].max() <= 128


def test_a_student_whose_teacher_speaks_of_other_crops_learns_no_names(chapter, monkeypatch):
    """The live distillation, and its broken twin: the teacher's answers shuffled over the crops."""
    first, clip = shipped(chapter, "first"), load_clip("tiny").requires_grad_(False)
    given = dict(first=first, session=SimpleNamespace(seed=0))  # what the notebook has when it comes there
    for name, value in given.items():
        monkeypatch.setitem(chapter.distil.__globals__, name, value)

    def seen(scenes, box):
        with torch.no_grad():
            return boxes.roi_align(first.trunk(scenes["images"]), box, 7, 1 / chapter.STRIDE)

    scenes, test = detection.scenes(100, 127_000_000, tail=True), detection.scenes(60, 128_000_000)
    with torch.no_grad():
        crops, _ = chapter.propose(*first.look(scenes["images"])[1:], chapter.anchors(128), keep=8)
    vectors = chapter.clip_vectors(clip, scenes["images"], crops).flatten(0, 1)
    rare = (test["categories"] >= 80) & ~test["crowd"]
    there = seen(test, torch.where(rare[..., None], test["boxes"].float(), torch.tensor([0.0, 0, 8, 8])))[rare]
    names = class_embeddings(clip, detection.names(), ["a photo of {}"])[80:]
    right = []
    for answers in (vectors, vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))]):
        emb = chapter.distil(seen(scenes, crops).flatten(0, 1), answers)(there)[1]
        right.append(((emb @ names.T).argmax(1) == test["categories"][rare] - 80).float().mean().item())
    assert right[0] > 0.15 and right[1] < 0.1


def test_what_was_recorded_on_real_data_comes_again():
    """Where the data are at hand."""
    if not os.environ.get("CLIPNOTES_TEST_DATA"):
        pytest.skip("CLIPNOTES_TEST_DATA names no folder with photos/ and clip_text/")
    code = ("import runpy, json; m = runpy.run_path('recordings/04_vild/record.py'); "
            "print(json.dumps([m['photographs']()['recall'], m['lvis']()['mean']]))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    recall, mean = json.loads(done.stdout)
    runs = records.load("04_vild")
    assert recall["proposals"] == pytest.approx(runs["photographs"]["recall"]["proposals"], abs=0.02)
    assert mean == pytest.approx(runs["lvis"]["mean"], abs=1e-3)
