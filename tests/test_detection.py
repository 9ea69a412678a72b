"""Pictures for detectors: what is marked is what is seen, the tail is long, and spans find each box's words."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch
from pycocotools import mask as coder

from clipnotes import boxes, grammar, metrics, toyworld
from clipnotes.toyworld import detection, training
from clipnotes.weights import load_weights, save_weights, toy_world

INTEGERS = ("labels", "categories", "styles", "tints", "boxes", "areas", "crowd", "object_map", "regions", "ids")


@pytest.fixture(scope="module")
def batch() -> dict:
    return detection.scenes(120, seed=5, tail=True)


def test_pictures_are_deterministic_and_in_range(batch):
    again, other = detection.scenes(120, seed=5, tail=True), detection.scenes(120, seed=6, tail=True)
    assert batch["images"].shape == (120, 3, 128, 128) and batch["images"].dtype == torch.float32
    assert 0 <= batch["images"].min() and batch["images"].max() <= 1
    assert all(torch.equal(batch[k], again[k]) for k in batch if torch.is_tensor(batch[k]))
    assert batch["captions"] == again["captions"] and batch["spans"] == again["spans"]
    assert not torch.equal(batch["labels"], other["labels"]) and not set(batch["ids"].tolist()) & set(
        other["ids"].tolist())


def test_integers_are_the_same_on_every_machine(batch):
    digest = hashlib.sha256(b"".join(batch[key].numpy().tobytes() for key in INTEGERS)).hexdigest()[:16]
    assert digest == "19e81e4f1443c721"


def test_boxes_are_around_what_is_seen(batch):
    for k in range(5):
        mask = batch["object_map"] == k
        assert torch.equal(batch["boxes"][:, k], boxes.mask_boxes(mask))
        assert torch.equal(batch["areas"][:, k], mask.sum((1, 2)))
    here = batch["categories"] >= 0
    assert torch.equal(here, batch["labels"] >= 0) and (batch["areas"][~here] == 0).all()
    assert (here.sum(1) >= 2).all() and (here.sum(1) <= 5).all() and here.all(1).any()


def test_small_objects_hide_parts_of_large_ones(batch):
    here = batch["categories"] >= 0
    assert 0.05 < (batch["visible"][here] < 0.9).float().mean() < 0.3
    whole = batch["areas"] / batch["visible"].clamp(min=1e-6)
    assert (whole[:, 0] > whole[:, 1]).float().mean() > 0.8, "the largest come first"
    side = (batch["boxes"][..., 2:] - batch["boxes"][..., :2]).amax(-1)[here].float()
    assert side.quantile(0.05) < 18 and side.quantile(0.95) > 50, "all sizes"


def test_what_is_hardly_seen_is_a_crowd():
    many = detection.scenes(200, seed=1, objects=(9, 9), scale=(12, 60))
    assert torch.equal(many["crowd"], many["visible"] < 0.2) and 0 < many["crowd"].float().mean() < 0.1


def test_pixels_lie_where_the_map_says():
    made = [detection.scenes(20, seed=6, objects=(1, 1), tints=0.0, scale=scale) for scale in ((20, 50), (8, 8))]
    changed = (made[0]["images"] - made[1]["images"]).abs().amax(1) > 0.02
    ground = made[1]["object_map"] < 0
    inside = made[0]["object_map"] == 0
    assert changed[inside & ground].float().mean() > 0.9 and changed[~inside & ground].float().mean() < 0.05


def test_the_tail_is_the_declared_one():
    """Frequency 1/rank: within four standard deviations in each of eight stretches of ranks."""
    made = detection.scenes(700, seed=1, size=32, tail=True)
    counts = torch.bincount(made["categories"][made["categories"] >= 0], minlength=120).float()
    share = 1 / torch.arange(1, 121)
    expected = counts.sum() * share / share.sum()
    for part in (range(0, 1), range(1, 3), range(3, 8), range(8, 26), range(26, 50), range(50, 80), range(80, 120)):
        found, wanted = counts[list(part)].sum(), expected[list(part)].sum()
        assert abs(found - wanted) < 4 * wanted.sqrt(), part
    flat = detection.scenes(700, seed=1, size=32)["categories"]
    counts = torch.bincount(flat[flat >= 0], minlength=120).float()
    assert (counts - counts.mean()).abs().max() < 5 * counts.mean().sqrt()


def test_groups_of_names():
    everything, split = detection.names(), {c.name: c for c in toyworld.concepts()}
    assert len(set(everything)) == 120 and [len(detection.names(g)) for g in detection.GROUPS] == [26, 54, 40]
    assert detection.names("base") + detection.names("rare") == everything
    assert {split[name].split for name in detection.names("base")} == {"base"}
    assert {split[name].split for name in detection.names("rare")} == {"novel"}
    assert all(toyworld.HELD_OUT_STYLE in split[name].styles for name in everything)
    small, large = detection.small()["names"], detection.large()["names"]
    assert len({*everything, *small, *large}) == 120 + 20 + 120, "no name stands in two sets"
    with pytest.raises(ValueError, match="no group 'novel'; there are: frequent"):
        detection.names("novel")


def test_other_sets_differ_as_declared():
    small, large = detection.scenes(80, 1, **detection.small()), detection.scenes(80, 1, **detection.large())
    count = [(made["categories"] >= 0).sum(1).float().mean() for made in (small, large)]
    side = [made["areas"][made["areas"] > 0].float().sqrt().median() for made in (small, large)]
    assert count[0] < 2.5 < 5 < count[1] and side[0] > 1.5 * side[1]
    labels = large["labels"][large["labels"] >= 0].unique().tolist()
    assert {toyworld.concepts()[i].name for i in labels} <= set(detection.large()["names"])
    held_out = detection.scenes(40, 1, styles=[toyworld.HELD_OUT_STYLE])
    assert {toyworld.STYLES[s] for s in held_out["styles"][held_out["categories"] >= 0].tolist()} == {"emojitwo"}


def test_spans_are_the_phrases_of_the_objects(batch):
    for caption, phrases, spans, categories in zip(batch["captions"], batch["phrases"], batch["spans"],
                                                   batch["categories"], strict=True):
        assert len(spans) == len(phrases) == (categories >= 0).sum()
        assert [caption[begin:end] for begin, end in spans] == phrases
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False)), "in their order, apart"
        assert not grammar.unknown_words(caption)


def test_two_objects_of_one_name_have_spans_of_their_own():
    made = detection.scenes(60, seed=2, names=["bee", "beer", "dog"], objects=(4, 5), tints=0.0)
    assert any(len(set(phrases)) < len(phrases) for phrases in made["phrases"])
    for caption, phrases, spans in zip(made["captions"], made["phrases"], made["spans"], strict=True):
        assert [caption[begin:end] for begin, end in spans] == phrases and len(set(spans)) == len(spans)


# ---------------------------------------------------------------- as data sets are


def test_rare_names_are_marked_in_few_pictures():
    categories = detection.scenes(700, seed=3, size=32, tail=True)["categories"]
    few, base = detection.annotated(categories, 3), detection.annotated(categories, 0)
    assert torch.equal(base, (categories >= 0) & (categories < detection.BASE))
    assert torch.equal(few & (categories < detection.BASE), base)
    for rank in detection.GROUPS["rare"]:
        there, marked = (categories == rank), (categories == rank) & few
        pictures = there.any(1).nonzero()[:, 0][:3].tolist()
        assert marked.any(1).nonzero()[:, 0].tolist() == pictures
        assert torch.equal(marked[pictures], there[pictures]), "all objects of the name in these"


def test_a_data_set_has_the_columns_of_lvis(batch):
    kept = detection.annotated(batch["categories"], 1)
    rows = detection.as_dataset(batch, kept)
    assert set(rows.column_names) == {"image", "image_id", "height", "width", "caption", "objects", "neg_category_ids",
                                      "not_exhaustive_category_ids"}
    unmarked = 0
    for i, row in enumerate(rows.select(range(40))):
        objects, there = row["objects"], batch["categories"][i][batch["categories"][i] >= 0].tolist()
        assert row["image"].size == (128, 128) and row["image_id"] == batch["ids"][i]
        for k, place in enumerate(kept[i].nonzero()[:, 0].tolist()):
            x, y, w, h = objects["bbox"][k]
            assert [x, y, x + w, y + h] == batch["boxes"][i, place].tolist()
            code = dict(size=[128, 128], counts=objects["segmentation"][k])
            assert torch.equal(torch.from_numpy(coder.decode(code)).bool(), batch["object_map"][i] == place)
            assert coder.area(code) == objects["area"][k] == batch["areas"][i, place]
        assert not set(row["neg_category_ids"]) & set(there), "what is there was not looked for in vain"
        unmarked += len(set(there) - set(objects["category"]))
    assert unmarked, "rare things stand there without a word"
    ids = [i for row in rows for i in row["objects"]["id"]]
    assert len(ids) == len(set(ids)) == kept.sum()


def test_true_boxes_have_average_precision_one(batch):
    real = detection.truth(batch)
    found = [dict(row, scores=torch.ones(len(row["labels"]))) for row in real]
    assert metrics.match_boxes(real, found, 120).ap() == pytest.approx(1)
    assert metrics.match_boxes(real, found, 120, masks=True).ap() == pytest.approx(1)
    base = detection.truth(batch, detection.annotated(batch["categories"], 0))
    assert sum(len(row["labels"]) for row in base) < sum(len(row["labels"]) for row in real)


# ---------------------------------------------------------------- which world is this?


def test_the_hash_does_not_depend_on_threads_or_process():
    code = "import torch; torch.set_num_threads(2); from clipnotes import toyworld; print(toyworld.detection_hash())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert out.stdout.strip() == toyworld.detection_hash()


def test_the_hash_sees_pixels_boxes_and_captions(monkeypatch):
    make = detection.scenes
    for key, change in (("images", lambda v: 0.9 * v), ("boxes", lambda v: v.roll(1, 0)),
                        ("captions", lambda v: [*v[:-1], "a zorgle"])):
        def other(*args, key=key, change=change, **options):
            made = make(*args, **options)
            return made | {key: change(made[key])}

        monkeypatch.setattr(detection, "scenes", other)
        assert training.detection_hash.__wrapped__() != toyworld.detection_hash(), key


def test_a_detector_of_another_world_is_refused(tmp_path, monkeypatch):
    """Its hash is its own: a model that never saw these pictures stays good where they change."""
    tensors = {"weight": torch.zeros(2)}
    save_weights(tensors, tmp_path / "box.safetensors", "test", {}, toy_world(detection=True))
    save_weights(tensors, tmp_path / "plain.safetensors", "test", {}, toy_world())
    load_weights(tmp_path / "box.safetensors", "test")
    monkeypatch.setattr(toyworld, "detection_hash", lambda: "another")
    with pytest.raises(RuntimeError, match="detection_hash"):
        load_weights(tmp_path / "box.safetensors", "test")
    load_weights(tmp_path / "plain.safetensors", "test")


def test_bad_input_is_refused_early():
    with pytest.raises(ValueError, match="no 'zorgle'"):
        detection.scenes(2, names=["zorgle"])
    with pytest.raises(ValueError, match="unknown style 'apple'; there are: noto"):
        detection.scenes(2, styles=["apple"])
    with pytest.raises(ValueError, match="between 1 and 9"):
        detection.scenes(2, objects=(3, 10))
    undrawn = next(c.name for c in toyworld.concepts() if toyworld.HELD_OUT_STYLE not in c.styles)
    with pytest.raises(ValueError, match=f"has drawn '{undrawn}'"):
        detection.scenes(2, names=[undrawn], styles=[toyworld.HELD_OUT_STYLE])
