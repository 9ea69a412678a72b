"""The toy world: what is integer is equal to the bit, what is drawn is where the numbers say it is."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from clipnotes import grammar, toyworld
from clipnotes.files import PACKAGE
from clipnotes.toyworld import solids, training

GENERATORS = (toyworld.singles, toyworld.crops, toyworld.counted, toyworld.line_art, toyworld.renders,
              toyworld.scenes, toyworld.perspective)


@pytest.mark.parametrize("make", GENERATORS, ids=lambda f: f.__name__)
def test_generators_are_deterministic_and_in_range(make):
    a, b, c = make(6, seed=3), make(6, seed=3), make(6, seed=4)
    assert a["images"].shape[:2] == (6, 3) and a["images"].dtype == torch.float32
    assert 0 <= a["images"].min() and a["images"].max() <= 1
    assert len(a["captions"]) == 6 and a["captions"] == b["captions"]
    assert all(torch.equal(a[k], b[k]) for k in a if torch.is_tensor(a[k]))
    assert not torch.equal(a["images"], c["images"])


def test_integers_are_the_same_on_every_machine():
    """Recorded once: placement, boxes, labels and depth are integer arithmetic."""
    scene, far = toyworld.scenes(8, seed=5), toyworld.perspective(8, seed=5)
    parts = [scene["labels"], scene["boxes"], scene["object_map"], scene["regions"], far["boxes"],
             (far["depth"] * 100).round().long()]
    digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in parts)).hexdigest()[:16]
    assert digest == "0da40a759d23c688"


def test_generator_hash_does_not_depend_on_threads_or_process():
    code = "import torch; torch.set_num_threads(2); from clipnotes import toyworld; print(toyworld.generator_hash())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert out.stdout.strip() == toyworld.generator_hash()


def changed(monkeypatch, kind, key, change):
    """The world's hash where `change` was done to what one generator gives under `key`."""
    batches = training.samples()
    altered = batches | {kind: batches[kind] | {key: change(batches[kind][key])}}
    monkeypatch.setattr(training, "samples", lambda: altered)
    return toyworld.generator_hash.__wrapped__()


@pytest.mark.parametrize("kind", ["singles", "crops", "counted", "line_art", "renders", "scenes", "perspective",
                                  "films", "clouds"])
def test_the_hash_of_the_world_sees_every_generator(kind, monkeypatch):
    pixels = {"films": "frames", "clouds": "points"}.get(kind, "images")

    def blemish(values):  # as far apart as two machines may be
        noise = torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
        return values + (noise - 0.5) * 2 / 255

    with monkeypatch.context() as patch:
        assert changed(patch, kind, pixels, blemish) == toyworld.generator_hash()
    with monkeypatch.context() as patch:
        assert changed(patch, kind, pixels, lambda values: 0.9 * values) != toyworld.generator_hash()
    with monkeypatch.context() as patch:
        told = "names" if kind == "clouds" else "captions"
        assert changed(patch, kind, told, lambda texts: [*texts[:-1], "a zorgle"]) != toyworld.generator_hash()


def test_the_hash_of_the_world_sees_labels_boxes_and_events(monkeypatch):
    for kind, key in (("singles", "labels"), ("scenes", "boxes"), ("films", "events")):
        with monkeypatch.context() as patch:
            assert changed(patch, kind, key, lambda values: values.roll(1, 0)) != toyworld.generator_hash()


def test_the_world_is_near_the_one_that_models_were_trained_in():
    stored = json.loads(training.WORLD.read_text("utf-8"))
    for name, value in training.thumbnails().items():
        assert torch.allclose(torch.tensor(value), torch.tensor(stored[name]), rtol=0, atol=training.NEAR), name


def test_sprite_sheets_are_the_recorded_ones():
    data = PACKAGE / "data"
    facts = json.loads((data / "sprites.json").read_text("utf-8"))
    assert list(facts["styles"]) == list(toyworld.STYLES)
    for style, row in facts["styles"].items():
        assert hashlib.sha256((data / f"sprites.{style}.webp").read_bytes()).hexdigest() == row["sha256"]
    tiles, drawn = toyworld.sprites()
    ink = (tiles[:, :, 3] > 127).flatten(2).sum(2)
    assert (ink[drawn] > 100).all() and (ink[~drawn] == 0).all()
    assert drawn[:4].all(), "the four main training styles have drawn every concept"
    assert drawn[toyworld.STYLES.index("emojitwo")].sum() > 250


def test_a_damaged_sheet_is_named(tmp_path, monkeypatch):
    from clipnotes.toyworld import drawings

    for path in (PACKAGE / "data").glob("sprites.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes()[: None if "fluent3d" not in path.name else 1000])
    monkeypatch.setattr(drawings, "_DATA", tmp_path)
    with pytest.raises(RuntimeError, match="sprites.fluent3d.webp is damaged"):
        drawings.sprites.__wrapped__()


def test_boxes_hold_the_object_tightly():
    """The visible ink of an object alone in its picture spans its box, within a pixel."""
    batch = toyworld.scenes(40, seed=2, objects=(1, 1))
    for where, box in zip(batch["object_map"], batch["boxes"][:, 0], strict=True):
        rows, columns = (where == 0).any(1).nonzero(), (where == 0).any(0).nonzero()
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (seen - box).abs().max() <= 2, (seen, box)


def test_singles_boxes_follow_turned_objects():
    """On a plain ground the ink of a turned, mirrored object lies in its box and reaches its sides."""
    batch = toyworld.singles(60, seed=9, ground="plain", styles=["noto"])
    ink = (batch["images"] - 0.97).abs().amax(1) > 0.15
    off = []
    for shape, box in zip(ink, batch["boxes"], strict=True):
        rows, columns = shape.any(1).nonzero(), shape.any(0).nonzero()
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (seen[:2] >= box[:2] - 2).all() and (seen[2:] <= box[2:] + 2).all()
        off.append((seen - box).abs().max())
    assert torch.stack(off).float().quantile(0.75) <= 2  # the rest has white rims, unseen on white


def test_masks_lie_on_the_picture():
    """Where the map says "object", the picture differs from the empty scene; elsewhere it does not."""
    batch = toyworld.scenes(20, seed=6, objects=(1, 1), tints=0.0)
    empty = toyworld.scenes(20, seed=6, objects=(1, 1), tints=0.0, scale=(6, 6))  # the same grounds
    changed = (batch["images"] - empty["images"]).abs().amax(1) > 0.02
    inside = changed[batch["object_map"] == 0].float().mean()
    outside = changed[batch["object_map"] < 0].float().mean()
    assert inside > 0.9 and outside < 0.1


def test_later_objects_hide_earlier_ones():
    batch = toyworld.scenes(60, seed=1, objects=(5, 5))
    assert (batch["visible"] <= 1).all() and batch["visible"].min() < 0.95
    assert (batch["visible"][:, -1] == 1).all()


def test_places_tints_and_counts_are_told_truly():
    batch = toyworld.singles(300, seed=8, tints=0.5, training=True)
    for caption, place, tint in zip(batch["captions"], batch["places"].tolist(), batch["tints"].tolist(), strict=True):
        told = [i for i, p in enumerate(grammar.PLACES) if caption.endswith(p) or f"{p} in" in caption]
        assert not told or place in told, caption
        if tint < 0:
            assert not any(f" {c} " in caption.split(" background")[0].rsplit(" on a ", 1)[0] and c != "orange"
                           for c in grammar.TINTS), caption
    many = toyworld.counted(100, seed=8)
    for caption, count in zip(many["captions"], many["counts"].tolist(), strict=True):
        assert grammar.COUNTS[count - 1] in caption.split()


def test_perspective_depth_is_metres_on_a_plane():
    batch = toyworld.perspective(50, seed=3)
    depth = batch["depth"]
    assert (depth[:, 0] == 0).float().mean() > 0.8, "the sky has no depth"
    bottom = depth[:, -1]
    assert (bottom > 0.5).all() and (bottom < 16).all()
    ground = depth.median(2).values  # a row of ground is nearer the lower it lies
    assert all((g[g > 0].diff() <= 0).float().mean() > 0.9 for g in ground)
    words = [grammar.distance(m) for m in batch["metres"][:, -1].tolist()]
    assert len(set(words)) >= 4


def test_near_things_are_larger():
    batch = toyworld.perspective(300, seed=4, objects=(1, 1))
    height = (batch["boxes"][:, 0, 3] - batch["boxes"][:, 0, 1]).float()
    z = batch["metres"][:, 0]
    assert height[z < 3].mean() > 2 * height[z > 6].mean()


def test_splits_and_styles():
    base, novel = toyworld.names("base"), toyworld.names("novel")
    assert len(base) > 150 and len(novel) > 60 and not set(base) & set(novel)
    assert toyworld.HELD_OUT_STYLE not in toyworld.TRAIN_STYLES and "openmoji" not in toyworld.TRAIN_STYLES
    batch = toyworld.singles(50, seed=1, styles=["emojitwo"], names=novel)
    assert {toyworld.STYLES[s] for s in batch["styles"].tolist()} == {"emojitwo"}
    assert {toyworld.concepts()[i].split for i in batch["labels"].tolist()} == {"novel"}


def test_solids_are_closed_shapes_with_outward_normals():
    assert tuple(solids.PARTS) == grammar.SOLIDS and len(grammar.SOLIDS) >= 15
    for name in ("cube", "sphere", "cylinder", "cone", "pyramid", "torus"):
        points, normals = solids.sample(name, 2000)
        assert torch.allclose(normals.norm(dim=1), torch.ones(2000), atol=1e-4)
        away = (points * normals).sum(1)  # outward, seen from the centre (the inner side of a torus excepted)
        assert (away > 0).float().mean() > (0.6 if name == "torus" else 0.99), name
    with pytest.raises(ValueError, match="unknown solid 'teapot'; there are: cube"):
        solids.sample("teapot")


def test_stream_resumes_where_it_stopped():
    whole, later = iter(toyworld.Stream(16, seed=1)), iter(toyworld.Stream(16, seed=1, start=2))
    batches = [next(whole) for _ in range(3)]
    assert torch.equal(batches[2]["images"], next(later)["images"])
    other = next(iter(toyworld.Stream(16, seed=1, rank=1, world=2)))
    assert not torch.equal(other["images"], batches[0]["images"])


def test_label_map_names_what_is_seen():
    batch = toyworld.scenes(20, seed=3)
    found, names = toyworld.label_map(batch), toyworld.label_names()
    assert found.shape == (20, 96, 96) and names[:304] == toyworld.names() and names[304:] == list(grammar.REGIONS)
    ground = batch["object_map"] < 0
    assert torch.equal(found[ground] - 304, batch["regions"][ground])
    for i in range(20):
        assert set(found[i][~ground[i]].tolist()) <= set(batch["labels"][i].tolist())
    with pytest.raises(ValueError, match="no masks"):
        toyworld.label_map(toyworld.scenes(2, masks=False))


def test_episodes_are_folds_of_their_own_names():
    rounds = toyworld.episodes("novel", 3, 10, seed=5, choose=20, styles=[toyworld.HELD_OUT_STYLE])
    again = toyworld.episodes("novel", 3, 10, seed=5, choose=20, styles=[toyworld.HELD_OUT_STYLE])
    drawn = set(toyworld.names("novel", toyworld.HELD_OUT_STYLE))
    for a, b in zip(rounds, again, strict=True):
        assert len(set(a["candidates"])) == 20 and set(a["candidates"]) <= drawn
        held = a["labels"][a["labels"] >= 0]
        assert set(held.tolist()) <= set(toyworld.name_indices(a["candidates"]).tolist())
        assert a["candidates"] == b["candidates"] and torch.equal(a["images"], b["images"])
    assert rounds[0]["candidates"] != rounds[1]["candidates"]
    with pytest.raises(ValueError, match="choose fewer"):
        toyworld.episodes("novel", choose=95)


def test_as_dataset_has_the_columns_of_real_sets():
    single = toyworld.as_dataset(toyworld.singles(4, seed=1))
    assert set(single.column_names) == {"image", "caption", "label"} and single[0]["image"].size == (64, 64)
    scene = toyworld.as_dataset(toyworld.scenes(4, seed=1))
    box = scene[0]["objects"]["bbox"][0]
    assert len(box) == 4 and box[2] > 0 and box[3] > 0


def test_postcard_never_changes():
    card = toyworld.postcard()
    assert [toyworld.concepts()[i].name for i in card["labels"][0].tolist()] == ["rocket", "tree", "dog", "apple"]
    assert card["boxes"].tolist() == [[[55, 5, 88, 39], [1, 19, 39, 61], [23, 45, 64, 87], [67, 64, 89, 88]]]
    assert card["regions"].unique().tolist() == [0, 1]  # sky and grass


def test_bad_input_is_refused_early():
    with pytest.raises(ValueError, match="no 'zorgle'"):
        toyworld.singles(2, names=["zorgle"])
    with pytest.raises(ValueError, match="unknown style 'apple'; there are: noto"):
        toyworld.singles(2, styles=["apple"])
    with pytest.raises(ValueError, match="unknown style 'apple'; there are: noto"):
        toyworld.scenes(2, styles=["apple"])
    with pytest.raises(ValueError, match='"varied" or "plain", not \'grass\''):
        toyworld.singles(2, ground="grass")
    with pytest.raises(ValueError, match="at most 160 pixels large, not 224"):
        toyworld.scenes(2, size=224)
