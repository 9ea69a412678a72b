"""Chapter 12's own code, from the notebook: equal to the releases, clouds and meshes as said, bad clouds refused."""

import resource
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clipnotes import check, grammar, hub, records
from clipnotes.clip import CLIP, CLIPConfig
from clipnotes.toyworld import solids
from notebooks import ROOT, code_cells, read

NOTEBOOK = ROOT / "chapters" / "12_pointclip.ipynb"


@pytest.fixture(scope="module")
def some():
    return solids.clouds(44, 5)


# ---------------------------------------------------------------- equal to the release


def test_parity_with_the_releases(chapter):
    for name, candidate in {
        "pointclip.views": chapter.views, "pointclip.project": chapter.project, "pointclip.fuse": chapter.fuse,
        "pointclip.adapter": chapter.InterViewAdapter, "pointclip.smooth_loss": chapter.smooth_loss,
        "pointclip.v2_grid": chapter.voxels, "pointclip.v2_project": chapter.project_v2,
    }.items():
        assert check.parity(name, candidate) <= 1e-5, name


def test_parity_refuses_typical_mistakes(chapter):
    def moved_to_the_border(points, rotation, translation, size):
        q = points[:, None] @ rotation - translation[:, None]
        place = torch.ceil((q[..., :2] / q[..., 2:] + 1) * size / 2 - 0.5).clamp(0, size - 1)
        cell = (place[..., 0] * size + place[..., 1]).long()
        count = torch.zeros(*cell.shape[:2], size * size).scatter_add(2, cell, torch.ones_like(q[..., 2]))
        inverse = torch.zeros_like(count).scatter_add(2, cell, 1 / q[..., 2])
        return torch.where(count > 0, count / inverse.clamp(min=1e-9), 0.0).unflatten(2, (size, size))

    def swapped(points, rotation, translation, size):
        return chapter.project(points, rotation, translation, size).mT

    def unit_text_first(view_emb, text_emb, factor, weights=None, together=False):
        return chapter.fuse(view_emb, text_emb, factor, weights, together) * view_emb.shape[1] ** 0.5

    class NoSecondReLU(chapter.InterViewAdapter):
        def forward(self, x):
            x = x.reshape(-1, self.views, x.shape[-1])
            correction = self.view_f[:3](self.global_f(x * self.fusion_ratio[:, None]))
            return self.ratio * correction + (1 - self.ratio) * x.flatten(1)

    for name, wrong in (
        ("project", moved_to_the_border), ("project", swapped), ("fuse", unit_text_first), ("adapter", NoSecondReLU),
        ("smooth_loss", lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2)),
        ("views", lambda count: (chapter.views(count)[0].mT, chapter.views(count)[1])),
        ("v2_project", lambda *given: 1 - chapter.project_v2(*given)),
        ("v2_grid", lambda p, r, size, depth, ratio, bias: chapter.voxels(p, r, size, depth, 1.0, bias)),
    ):
        with pytest.raises(AssertionError, match="differs from the release"):
            check.parity(f"pointclip.{name}", wrong)


def test_the_loss_is_pytorchs_with_another_number(chapter):
    z, y = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)), torch.arange(9)
    assert torch.isclose(chapter.smooth_loss(z, y), F.cross_entropy(z, y, label_smoothing=0.2 * 40 / 39), atol=1e-6)


# ---------------------------------------------------------------- projection


def test_all_points_at_once_are_the_loop(chapter, some):
    for count, size in ((6, 24), (10, 17)):
        rotation, translation = chapter.views(count)
        fast = chapter.project(some["points"][:2, :200], rotation, translation, size)
        for b in range(2):
            for v in range(0, count, 3):
                slow = chapter.project_naive(some["points"][b, :200], rotation[v], translation[v], size)
                assert torch.allclose(fast[b, v], slow, atol=1e-5)


def test_two_points_in_a_pixel_and_one_beside_the_canvas(chapter):
    points = torch.tensor([[[0.05, 0.05, -0.8], [0.1, 0.1, 0.0], [0.9, 0.0, -0.9]]])
    depth = chapter.project(points, *chapter.views(6), 4)[0, 0]
    assert (depth > 0).sum() == 1 and torch.isclose(depth.max(), torch.tensor(2 / (1 / 0.8 + 1 / 1.6)))


def test_the_order_of_the_points_does_not_matter(chapter, some):
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(1))
    given, other = some["points"][:3], some["points"][:3, order]
    assert torch.allclose(chapter.Recipe()(given), chapter.Recipe()(other), atol=1e-5)
    assert torch.equal(chapter.project_v2(given, chapter.views_v2()), chapter.project_v2(other, chapter.views_v2()))


def test_nothing_behind_the_eye_is_drawn(chapter):
    behind = torch.tensor([[[0.1, 0.1, -3.0]]])
    assert not chapter.project(behind, *(t[:1] for t in chapter.views(6)), 16).any()


@pytest.mark.parametrize(
    ("points", "words"),
    [(torch.zeros(0, 5, 3), "at least one cloud"), (torch.zeros(1, 0, 3), "one point"), (torch.zeros(5, 3), "B×P×3"),
     (torch.zeros(1, 5, 2), "B×P×3"), (torch.full((1, 5, 3), torch.nan), "NaN"),
     (torch.full((1, 5, 3), torch.inf), "infinite"), (torch.zeros(1, 5, 3, dtype=torch.long), "whole numbers"),
     ([[0.0, 0.0, 0.0]], "not list")],
)
def test_bad_clouds_are_refused(chapter, points, words):
    for draw in (chapter.Recipe(), lambda p: chapter.project(p, *chapter.views(6), 8),
                 lambda p: chapter.project_v2(p, chapter.views_v2())):
        with pytest.raises(ValueError, match=words):
            draw(points)


def test_one_point(chapter, clip):
    alone = torch.zeros(1, 1, 3)
    maps, white = chapter.Recipe(10, 64)(alone), chapter.project_v2(alone, chapter.views_v2())
    assert (maps > 0).sum() == 10 and torch.isfinite(white).all()
    assert torch.isfinite(chapter.encode_views(clip, maps)).all()
    assert torch.isfinite(chapter.encode_views(clip, white, True)).all()


def test_a_million_points_in_bounded_memory(chapter):
    many = torch.rand(1, 1_000_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    maps, white = chapter.Recipe()(many), chapter.project_v2(many, chapter.views_v2())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1024 if sys.platform == "linux" else 2**20)
    assert maps.shape == (1, 6, 64, 64) and white.shape == (1, 10, 64, 64)
    assert torch.isfinite(maps).all() and torch.isfinite(white).all() and grown < 600


def test_pictures_that_no_tower_takes_are_refused(chapter, clip):
    with pytest.raises(ValueError, match="multiples of 8"):
        chapter.encode_views(clip, torch.zeros(1, 6, 30, 30))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        chapter.encode_views(clip, torch.full((1, 6, 32, 32), 2.0), standardise=True)
    assert chapter.encode_views(clip, torch.full((1, 6, 32, 32), 2.0)).shape == (1, 6, 128)


def test_the_recipes_of_the_release(chapter):
    assert chapter.RELEASED == chapter.Recipe(6, 128, 224, 1.6)
    assert chapter.RELEASED_FEW_SHOT == chapter.Recipe(10, 224, 224, 1.4)
    assert chapter.views(10)[1][0, 2] == pytest.approx(-1.4) and chapter.views(6)[1][0, 2] == pytest.approx(-1.6)
    with pytest.raises(ValueError, match="6 or 10 views, not 7"):
        chapter.views(7)


# ---------------------------------------------------------------- fusion, weights, adapter, rival


def test_fusing_is_the_mean_cosine_times_the_root_of_the_views(chapter):
    g = torch.Generator().manual_seed(0)
    view_emb, text_emb = torch.randn(3, 5, 8, generator=g), torch.randn(4, 8, generator=g)
    logits = chapter.fuse(view_emb, text_emb, 7.0)
    assert torch.allclose(logits, chapter.fuse_naive(view_emb, text_emb, 7.0), atol=1e-5)
    cosines = F.cosine_similarity(view_emb[:, :, None], text_emb, dim=3)
    assert torch.allclose(logits, 7 * 5**0.5 * cosines.mean(1), atol=1e-5)
    longer = view_emb * torch.tensor([3.0, 1, 1, 1, 1])[:, None]
    assert torch.allclose(chapter.fuse(longer, text_emb, 7.0), logits, atol=1e-5)
    assert not torch.allclose(chapter.fuse(longer, text_emb, 7.0, together=True),
                              chapter.fuse(view_emb, text_emb, 7.0, together=True), atol=1e-3)


def test_the_search_finds_the_best_weights(chapter):
    g, labels = torch.Generator().manual_seed(0), torch.arange(60) % 4
    scores = torch.randn(60, 3, 4, generator=g)
    scores[:, 1] += 2 * F.one_hot(labels, 4)
    found = chapter.search_weights(scores, labels, 3)
    best = max(((torch.tensor([a, b, c])[:, None] / 3 * scores).sum(1).argmax(1) == labels).sum().item()
               for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2, 3))
    assert ((found[:, None] * scores).sum(1).argmax(1) == labels).sum().item() == best and found[1] == 1


def test_the_adapter_learns_what_two_views_say_together(chapter):
    g = torch.Generator().manual_seed(3)
    (x, y), (test, true) = chapter.agreeing_views(400, g), chapter.agreeing_views(400, g)
    texts = F.normalize(torch.randn(2, 16, generator=g), dim=1)
    adapter = chapter.fit_adapter(x, y, texts, 20.0, 3, epochs=80)
    assert chapter.accuracy(chapter.few_shot_logits(adapter, test, texts, 20.0), true) > 0.8
    assert not any(p.requires_grad for p in adapter.parameters()) and not adapter.training
    again = chapter.fit_adapter(x, y, texts, 20.0, 3, epochs=2)
    assert torch.equal(again.fusion_ratio, chapter.fit_adapter(x, y, texts, 20.0, 3, epochs=2).fusion_ratio)
    with pytest.raises(ValueError, match="need as many labels"):
        chapter.fit_adapter(x, y[:5], texts, 20.0, 0)


def test_one_cloud_left_over_in_a_batch(chapter):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(33, 6, 8, generator=g), torch.arange(33) % 2
    adapter = chapter.fit_adapter(x, y, torch.eye(8)[:2], 10.0, 0, epochs=2)
    assert torch.isfinite(adapter(x)).all()


def test_pointnet_learns_and_ignores_order(chapter):
    names = ["cube", "airplane", "torus"]
    train, test = (solids.clouds(60, seed, 128, names=names) for seed in (1, 2))
    net = chapter.fit_points(train["points"], train["labels"], 3, 0, epochs=25)
    assert chapter.accuracy(net(test["points"]), test["labels"]) > 0.6
    assert torch.allclose(net(test["points"]), net(test["points"].flip(1)), atol=1e-5)


def test_mixing(chapter):
    one, other = torch.eye(4)[[0, 1, 2, 3]], torch.eye(4)[[0, 0, 0, 0]]
    assert torch.equal(chapter.mixed(one, other, 1.0), one)
    share = chapter.best_share(one, other, torch.arange(4))
    assert chapter.accuracy(chapter.mixed(one, other, share), torch.arange(4)) == 1 and 0.5 < share < 1


# ---------------------------------------------------------------- clouds


def test_clouds():
    batch = solids.clouds(50, 3, 200)
    assert batch["points"].shape == batch["normals"].shape == (50, 200, 3)
    assert batch["names"] == list(solids.PARTS) and torch.equal(batch["labels"], torch.arange(50) % 22)
    assert torch.allclose(batch["points"].norm(dim=2).amax(1), torch.ones(50), atol=1e-5)
    assert torch.allclose(batch["points"].mean(1), torch.zeros(50, 3), atol=1e-5)
    assert torch.allclose(batch["normals"].norm(dim=2), torch.ones(50, 200), atol=1e-4)
    assert torch.equal(batch["points"], solids.clouds(50, 3, 200)["points"])
    assert torch.equal(batch["points"][:22], solids.clouds(22, 3, 200)["points"])  # a longer list begins the same
    assert not torch.equal(batch["points"], solids.clouds(50, 4, 200)["points"])


def test_a_seed_decides_the_solid_whatever_the_other_options():
    scan = solids.clouds(22, 9, 4000, noise=0.0, missing=0.0)["points"]
    dense = solids.clouds(22, 9, 12000, noise=0.0, missing=0.0)["points"]
    assert (scan.amax(1) - dense.amax(1)).abs().max() < 0.12
    still = solids.clouds(22, 9, 4000, stretch=0.0, yaw=0.0, tilt=0.0, noise=0.0, missing=0.0)["points"]
    assert (still.amax(1) - dense.amax(1)).abs().max() > 0.2


def test_missing_parts_are_missing():
    def emptiest(missing):
        points = solids.clouds(22, 1, 800, names=["sphere"], stretch=0.0, noise=0.0, missing=missing)["points"]
        ahead = F.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1)
        return (F.normalize(points, dim=2) @ ahead.T > 0.9).sum(1).amin(1).float().mean()

    assert emptiest(0.6) < 0.5 * emptiest(0.0)


@pytest.mark.parametrize("wrong", [dict(n=0), dict(n=1, points=0), dict(n=1, names=[]), dict(n=1, missing=1.0),
                                   dict(n=1, stretch=-0.1), dict(n=1, noise=-1.0), dict(n=1, names=["zorgle"])])
def test_clouds_that_cannot_be_made(wrong):
    with pytest.raises(ValueError):
        solids.clouds(**wrong)


def test_clouds_as_a_data_set(some):
    data = solids.as_dataset(some).with_format("torch")
    assert data.features["label"].names == some["names"] and len(data) == 44
    assert torch.equal(data["points"][:], some["points"]) and torch.equal(data["label"][:], some["labels"])


def test_forms_show_the_same_solids(chapter):
    drawn, labels = chapter.forms(22, 8)
    assert len(drawn) == 6 and torch.equal(labels, torch.arange(22)) and set(chapter.AS_RELEASED) < set(drawn)
    shape = drawn["silhouette"] < 0.5
    for name in ("depth map, dense", "V2, scan"):
        picture = drawn[name]
        assert picture.shape == (22, 64, 64) and torch.isfinite(picture).all()
        ink = picture > 0 if name.startswith("depth") else picture < 0.9
        assert ink.flatten(1).any(1).all() and shape.flatten(1).any(1).all()
    lines = chapter.edges(torch.cat([torch.zeros(1, 16, 8), torch.ones(1, 16, 8)], 2))
    assert (lines[0, :, 7:9] == 0).all() and (lines[0, :, :6] == 1).all()


def test_words_of_the_prompts(chapter):
    unread = {t: grammar.unknown_words(t.format("")) for t in chapter.PROMPTS}
    assert unread["point cloud depth map of a {}."] == ["point", "depth", "map"]
    assert unread["a grey render of {}"] == [] and unread["a cloud of {}"] == []
    assert chapter.course_word("couch") == "sofa" and chapter.course_word("dumpster") == ""


# ---------------------------------------------------------------- meshes


CUBE = "\n".join(f"v {x} {y} {z}" for x in (0, 1) for y in (0, 1) for z in (0, 1)) + """
f 1 2 4 3
f 5 7 8 6
f 1 5 6 2
f 3 4 8 7
f 1 3 7 5
f 2 6 8 4
"""


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("trimesh")
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.obj").write_text(CUBE if name != "c" else CUBE.replace("v 1", "v 9"))
    rows = ["file,class,same_geometry_as", "a.obj,couch,b.obj", "b.obj,couch,a.obj;d.obj", "c.obj,table,", "d.obj,rug,"]
    (tmp_path / "meshes.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_meshes_become_clouds(chapter, folder):
    data = hub.meshes(folder, 300).with_format("torch")
    assert data["file"][:] == ["a.obj", "c.obj", "d.obj"]  # b repeats a
    assert data.features["label"].names == ["couch", "rug", "table"]
    points = data["points"][:]
    assert points.shape == (3, 300, 3) and torch.allclose(points.norm(dim=2).amax(1), torch.ones(3), atol=1e-5)
    long = points[1].amax(0) - points[1].amin(0)
    assert long[0] > 5 * long[1]
    assert torch.equal(points, hub.meshes(folder, 300).with_format("torch")["points"][:])
    clouds, labels, words = chapter.real_clouds(folder)
    assert words == ["sofa", "table"] and labels.tolist() == [0, 1] and clouds.shape == (2, 1024, 3)


def test_bad_folders_of_meshes_are_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no meshes.csv"):
        hub.meshes(tmp_path / "nowhere")
    (folder / "c.obj").write_text("v 0 0 0\nv 1 0 0\n")
    with pytest.raises(ValueError, match="no surface"):
        hub.meshes(folder, 10)
    (folder / "c.obj").unlink()
    with pytest.raises(FileNotFoundError, match="c.obj"):
        hub.meshes(folder, 10)
    (folder / "meshes.csv").write_text("name\na\n")
    with pytest.raises(ValueError, match="columns file and class"):
        hub.meshes(folder, 10)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ModuleNotFoundError, match="pip install trimesh"):
        hub.meshes(folder, 10)


# ---------------------------------------------------------------- full mode, the record


def test_the_full_cells_run_on_a_stand_in(chapter, monkeypatch):
    """The cells themselves, in full mode, with random weights of OpenAI's form at 224 pixels."""
    sources = {c.id: c.source for c in code_cells(read(NOTEBOOK))}
    torch.manual_seed(0)
    stand_in = CLIP(CLIPConfig(16, 224, 1, 32, 32, 77, 49408, 32, 1, text_heads=2)).eval()
    loaded, tables, cards = [], [], []

    def load(name, device):
        loaded.append((name, device))
        return stand_in

    few = solids.clouds(4, 0, 200)
    monkeypatch.setattr(check, "card", lambda id, **facts: cards.append((id, facts)))
    monkeypatch.delenv("CLIPNOTES_TEST_DATA", raising=False)
    space = dict(chapter.space) | dict(session=SimpleNamespace(mode="full", device="cpu", seed=0), load_clip=load,
                                       points=few["points"], labels=few["labels"], names=few["names"],
                                       draw=SimpleNamespace(table=lambda rows, head, form: tables.append(rows)))
    for id in ("full-sets", "full-run", "full-card"):
        exec(compile(sources[id], id, "exec"), space)
    assert loaded == [("RN50", "cpu"), ("ViT-B-16", "cpu")] and cards[0][0] == "12.released_recipe"
    assert [row[:2] for row in tables[0]] == [("RN50", "toy solids"), ("ViT-B-16", "toy solids")]
    assert all(0 <= row[2] <= 1 for row in tables[0])


def test_the_record():
    record = records.load("12_pointclip")
    runs = {(r["study"], r["variant"], r["seed"]) for r in record.rows}
    assert len(runs) == len(record.rows) and all(r["minutes"] >= 0 for r in record.rows)
    for study, variant, seeds in (("zero", "v1", 3), ("zero", "v2", 3), ("words", "v2", 3), ("weights", "v1", 3),
                                  ("forms", "all", 3), ("shots", "v1", 5), ("shots", "v2", 5), ("ensemble", "v1_16", 3),
                                  ("why", "v2", 3), ("density", "both", 3), ("meshes", "both", 3)):
        assert {(study, variant, seed) for seed in range(seeds)} <= runs, (study, variant)


def test_the_figure_is_that_of_the_pipeline(chapter, clip):
    record = records.load("12_pointclip")
    texts = chapter.class_texts(clip, list(solids.PARTS))
    for shown in record["figure"]:
        maps = chapter.Recipe()(solids.clouds(1, 0, names=[shown["name"]])["points"])
        stored = torch.frombuffer(bytearray.fromhex(shown["maps"]), dtype=torch.uint8).view(6, 64, 64)
        assert (maps[0] / 2.6 * 255 - stored).abs().max() < 1.5, "run python recordings/12_pointclip/record.py figure"
        probs = chapter.fuse(chapter.encode_views(clip, maps), texts, clip.logit_scale.exp()).softmax(1)[0]
        assert list(solids.PARTS)[probs.argmax()] == shown["answer"]
        assert abs(probs.max() - shown["probability"]) < 0.02
