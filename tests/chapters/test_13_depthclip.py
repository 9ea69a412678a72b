"""Chapter 13's own code, from the notebook: equal to the release, depth judged as said, bad input refused."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clipnotes import check, grammar, metrics, records
from clipnotes.clip import load_clip
from notebooks import ROOT, code_cells, read, tags

NOTEBOOK = ROOT / "chapters" / "13_depthclip.ipynb"
WORDS = list(grammar.DISTANCES)


@pytest.fixture(scope="module")
def rn():
    """The small ResNet with attention pooling, frozen."""
    return load_clip("tiny-rn").requires_grad_(False)


@pytest.fixture(scope="module")
def some(chapter):
    return chapter.metric_scenes(24, 134_000_000)


# ---------------------------------------------------------------- equal to the release


def test_parity_with_the_release(chapter):
    assert check.parity("depthclip.head", chapter.depth_head_released) <= 1e-4
    assert check.parity("depthclip.errors", chapter.nyu_errors) <= 1e-5


def test_parity_refuses_typical_mistakes(chapter):
    def unit_again(layer4, text_emb, bins, temperature):
        return chapter.depth_head_released(F.normalize(layer4, dim=1)[:, ::2].repeat_interleave(2, 1), text_emb, bins,
                                           temperature)

    def first_half(layer4, text_emb, bins, temperature):
        v = F.normalize(layer4, dim=1)[:, : text_emb.shape[1]].movedim(1, -1)
        return (100 * v @ text_emb.T / temperature).softmax(-1) @ bins

    def factor(layer4, text_emb, bins, temperature):
        return chapter.depth_head_released(layer4, text_emb, bins, 0.01 / temperature)

    for wrong in (unit_again, first_half, factor):
        with pytest.raises(AssertionError, match="differs from the release"):
            check.parity("depthclip.head", wrong)
    for moved in (lambda p, t: chapter.nyu_errors(p.roll(1, 2), t),
                  lambda p, t: chapter.nyu_errors(p, t) | {"abs_rel": chapter.nyu_errors(p, t)["abs_diff"]}):
        with pytest.raises(AssertionError, match="differs from the release"):
            check.parity("depthclip.errors", moved)


def test_nyu_errors_are_means_of_pictures(chapter):
    g = torch.Generator().manual_seed(0)
    predicted, true = 1 + 4 * torch.rand(2, 416, 544, generator=g), 12 * torch.rand(2, 480, 640, generator=g)
    both = chapter.nyu_errors(predicted, true)
    single = [chapter.nyu_errors(predicted[i : i + 1], true[i : i + 1]) for i in (0, 1)]
    for key, value in both.items():
        assert value == pytest.approx((single[0][key] + single[1][key]) / 2, rel=1e-5), key
    outside = true.clone()
    outside[:, :45] = 5.0
    outside[:, 471:] = 5.0
    outside[:, :, :46] = 5.0
    outside[:, :, 601:] = 5.0
    assert chapter.nyu_errors(predicted, outside) == pytest.approx(both)  # the border does not count
    with pytest.raises(ValueError, match="416×544"):
        chapter.nyu_errors(predicted[:, :-1], true)


# ---------------------------------------------------------------- the head


def test_channels_are_kept_by_nearest_interpolation(chapter):
    maps = torch.arange(2 * 8 * 4.0).view(2, 8, 2, 2)
    assert torch.equal(chapter.keep_channels(maps, 4), maps[:, ::2])
    assert torch.equal(chapter.keep_channels(maps, 2), maps[:, ::4])
    assert torch.equal(chapter.keep_channels(maps, 8), maps)
    for width in (0, 9):
        with pytest.raises(ValueError, match="8 channels cannot"):
            chapter.keep_channels(maps, width)


def test_naive_and_fast_agree(chapter, rn, some):
    text_emb, bins = chapter.word_vectors(rn, WORDS), [1.0, 2, 3, 5, 8, 13]
    vectors = chapter.patch_vectors(rn, some["images"][:2])
    fast = chapter.word_probs(vectors, text_emb, 20.0) @ torch.tensor(bins)
    for i, y, x in ((0, 0, 0), (1, 3, 2), (0, 2, 1)):
        slow = chapter.depth_naive(vectors[i, y, x], text_emb, bins, 0.05)[2]
        assert slow == pytest.approx(fast[i, y, x].item(), abs=1e-3)


def test_the_class_is_the_released_head_on_layer4(chapter, rn, some):
    model = chapter.DepthCLIP(rn, WORDS, [1, 2, 3, 4, 5, 6], scale=1000, source="layer4")
    layer4 = rn.features(some["images"][:3], ["layer4"])["layer4"]
    assert layer4.shape[1] == 4 * rn.config.embed_dim
    released = chapter.depth_head_released(layer4, model.text_emb, model.bins)
    assert torch.allclose(model.per_patch(some["images"][:3])[0], released, atol=1e-3)


def test_depth_lies_between_the_bins_and_temperature_does_what_it_says(chapter, rn, some):
    bins = [1.0, 1.5, 2.5, 4, 6, 9]
    soft, hard = (chapter.DepthCLIP(rn, WORDS, bins, scale).per_patch(some["images"])[0] for scale in (1e-4, 1e6))
    assert torch.allclose(soft, torch.full_like(soft, sum(bins) / 6), atol=1e-3)  # no opinion: the mean of the bins
    assert (hard[..., None] - torch.tensor(bins)).abs().amin(-1).max() < 1e-2  # one word a patch
    middle = chapter.DepthCLIP(rn, WORDS, bins)(some["images"])
    assert middle.shape == (24, 128, 128) and 1 <= middle.min() and middle.max() <= 9


def test_flip(chapter, rn, some):
    model = chapter.DepthCLIP(rn, WORDS, [1, 2, 3, 4, 5, 6])
    one, other = model(some["images"][:4], flip=True), model(some["images"][:4].flip(-1), flip=True)
    assert torch.allclose(one, other.flip(-1), atol=1e-4)
    assert (one - model(some["images"][:4])).abs().max() > 1e-3


def test_pictures_of_other_sizes(chapter, rn, clip, some):
    images = F.interpolate(some["images"][:2], (96, 160), mode="bilinear")
    assert chapter.DepthCLIP(rn, WORDS, [1, 2, 3, 4, 5, 6])(images).shape == (2, 96, 160)
    model = chapter.DepthCLIP(clip, WORDS, [1, 2, 3, 4, 5, 6], source="tokens")
    assert model.per_patch(images)[1].shape == (2, 12, 20, 6) and model(images).shape == (2, 96, 160)


def test_bad_bins_are_refused(chapter, rn):
    for bins, reason in (([1.0, 2, 3], "each prompt needs one bin"), ([[1.0] * 6], "each prompt needs one bin"),
                         ([1, 2, 3, 4, 5, float("nan")], "not a finite"), ([1, 2, 2, 3, 4, 5], "increasing"),
                         ([0, 1, 2, 3, 4, 5], "above 0"), ([6, 5, 4, 3, 2, 1], "increasing")):
        with pytest.raises(ValueError, match=reason):
            chapter.DepthCLIP(rn, WORDS, bins)
    chapter.DepthCLIP(rn, WORDS, [6, 5, 4, 3, 2, 1], ordered=False)
    with pytest.raises(ValueError, match="each prompt needs one bin"):
        chapter.check_bins(["far"], [1.0])
    with pytest.raises(ValueError, match="each prompt needs one bin"):
        chapter.depth_head_released(torch.rand(1, 8, 2, 2), torch.rand(3, 4), torch.rand(2))


def test_bad_pictures_are_refused(chapter, rn, clip):
    model = chapter.DepthCLIP(rn, WORDS, [1, 2, 3, 4, 5, 6])
    for wrong, reason in ((torch.rand(1, 3, 24, 24), "multiples of 32"), (torch.rand(3, 64, 64), "B.3.H.W"),
                          (torch.full((1, 3, 64, 64), torch.nan), r"\[0, 1\]"),
                          (torch.rand(1, 3, 64, 64) * 255, r"in \[0, 1\]"),
                          (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "float")):
        with pytest.raises(ValueError, match=reason):
            model(wrong)
    with pytest.raises(ValueError, match="no layer4"):
        chapter.patch_vectors(clip, torch.rand(1, 3, 64, 64), "layer4")
    with pytest.raises(ValueError, match="source is"):
        chapter.patch_vectors(rn, torch.rand(1, 3, 64, 64), "space ")


# ---------------------------------------------------------------- how depth is judged


def test_errors_by_hand(chapter):
    true = torch.tensor([[[0.0, 2.0], [4.0, 8.0]], [[1.0, 1.0], [1.0, 0.0]]])
    found = chapter.depth_errors(torch.full_like(true, 4.0), true)
    assert found["abs_rel"].tolist() == [0.5, 3.0]
    assert found["rmse"].tolist() == pytest.approx([(20 / 3) ** 0.5, 3.0])
    assert found["delta1"].tolist() == pytest.approx([1 / 3, 0.0])
    assert found["log10"].tolist() == pytest.approx([2 * math.log10(2) / 3, math.log10(4)])
    exact = chapter.depth_errors(true.clamp(min=1), true)
    assert exact["abs_rel"].max() == 0 and exact["delta1"].min() == 1
    assert chapter.depth_errors(true + 1, true, true == 2)["abs_rel"][0] == 0.5
    assert chapter.depth_errors(true + 1, true, true == 2)["abs_rel"][1].isnan()


def test_bad_depth_is_refused(chapter):
    true = torch.ones(1, 4, 4)
    for wrong in (true * torch.nan, true * 0, -true, true * torch.inf):
        with pytest.raises(ValueError, match="finite number of metres"):
            chapter.depth_errors(wrong, true)
    with pytest.raises(ValueError, match="differ in shape"):
        chapter.depth_errors(torch.ones(1, 2, 2), true)


def test_ranks(chapter, some):
    depth = some["depth"].clamp(min=0.5)
    assert torch.allclose(chapter.scene_ranks(depth.log() + 3, some["depth"]), torch.ones(24), atol=1e-5)
    assert chapter.thing_ranks(depth, some) == pytest.approx(1)
    assert chapter.thing_ranks(1 / depth, some) == pytest.approx(-1)
    assert chapter.scene_ranks(torch.ones_like(depth), some["depth"]).abs().max() == 0


def test_scenes_leave_the_sky_out(chapter, some):
    assert (some["depth"][:, :20] == 0).float().mean() > 0.5 and some["depth"].max() <= 20
    assert not (some["things"] & (some["depth"] == 0)).any()
    for depth, things, metres in zip(some["depth"], some["things"], some["metres"], strict=True):
        assert set(depth[things].unique().tolist()) <= set(metres.tolist())
        ground = torch.where(things, torch.nan, depth)
        rows = ground.nanmedian(1).values
        away = (ground - rows[:, None]).abs().nan_to_num(0)
        assert (away == 0).float().mean() > 0.98  # ground has one depth a row
    assert 0.05 < some["things"].float().mean() < 0.5


def test_patch_depth_is_the_median_of_known_pixels(chapter):
    depth = torch.zeros(1, 4, 4)
    depth[0, 2:, :2] = torch.tensor([[1.0, 2.0], [0.0, 9.0]])
    depth[0, 2:, 2:] = 5.0
    found = chapter.patch_depth(depth, (2, 2))[0]
    assert found[0].isnan().all() and found[1].tolist() == [2.0, 5.0]
    assert chapter.patch_depth(torch.ones(2, 50, 70), (4, 6)).shape == (2, 4, 6)  # patches that are no whole pixels


# ---------------------------------------------------------------- what is fitted


def test_the_best_constant_is_the_best(chapter):
    g = torch.Generator().manual_seed(1)
    values = 1 + 12 * torch.rand(101, generator=g).square()

    def error(c):
        return ((c - values).abs() / values).mean()

    best = chapter.least_relative(values)
    assert all(error(best) <= error(c) + 1e-6 for c in torch.linspace(0.5, 13, 400))
    assert best < values.median()


def test_rows(chapter):
    depth = torch.tensor([[[0.0, 0.0], [4.0, 2.0], [1.0, 1.0]], [[0.0, 0.0], [6.0, 0.0], [0.0, 1.0]]])
    assert chapter.row_depths(depth).tolist() == [4.0, 4.0, 1.0]  # the sky's row takes its neighbour's
    assert chapter.row_depths(depth, "best").tolist() == [2.0, 2.0, 1.0]


def test_learned_bins_find_hidden_ones(chapter):
    g = torch.Generator().manual_seed(2)
    p, hidden = (4 * torch.randn(300, 5, generator=g)).softmax(1), torch.tensor([1.0, 3, 2, 8, 5])
    assert torch.allclose(chapter.learn_bins(p, p @ hidden, pull=1e-9), hidden, atol=1e-3)
    same = torch.full((50, 4), 0.25)  # words that say nothing: every bin is the same number
    found = chapter.learn_bins(same, 1 + 5 * torch.rand(50, generator=g))
    assert found.std() < 1e-3 and torch.isfinite(found).all()


def test_set_bins_halve_equal_parts(chapter):
    depth = torch.arange(1.0, 601.0)
    bins = chapter.fit_bins("set", torch.zeros(600, 8), depth, torch.zeros(6, 8), 100)
    assert [int(((depth > bins[i]) & (depth <= bins[i + 1])).sum()) for i in range(5)] == [100] * 5
    assert abs(int((depth <= bins[0]).sum()) - 50) <= 1


def test_linear_depth(chapter):
    g = torch.Generator().manual_seed(3)
    x, w = torch.randn(400, 6, generator=g), torch.randn(6, generator=g)
    weight = chapter.linear_depth(x, (0.3 * x @ w + 1).exp(), decay=1e-8)
    assert torch.allclose(weight, torch.cat([0.3 * w, torch.ones(1)]), atol=1e-3)


def test_classes_learn(chapter):
    g = torch.Generator().manual_seed(4)
    x = torch.randn(600, 4, generator=g)
    depth = x[:, 0].exp()
    weight, centres = chapter.fit_classes(x, depth, 5)
    assert weight.shape == (5, 5) and (centres.diff() > 0).all()
    answer = ((F.pad(x, (0, 1), value=1.0) @ weight).softmax(1) @ centres.log()).exp()
    assert metrics.spearman(answer, depth) > 0.9


def test_windows(chapter, clip, some):
    vectors = chapter.window_vectors(clip, some["images"][:2], 64, step=32)
    assert vectors.shape == (2, 4, 4, 128) and torch.allclose(vectors.norm(dim=-1), torch.ones(2, 4, 4), atol=1e-4)
    inner = some["images"][:1, :, 16:80, 48:112]  # the surroundings of the place in row 1, column 2
    assert torch.allclose(vectors[0, 1, 2], clip.encode_image(inner)[0], atol=1e-3)


# ---------------------------------------------------------------- words, real pictures, records


def test_words_are_known_where_they_should_be(chapter):
    assert grammar.unknown_words(" ".join([*WORDS, *chapter.TEMPLATES]).replace("{}", "")) == []
    assert {"unseen", "remote"} <= set(grammar.NEVER_TRAINED)


def test_motorcycle(chapter):
    image, depth = chapter.motorcycle()
    assert image.shape == (1, 3, 256, 384) and depth.shape == (1, 256, 384)
    assert 2 < depth[depth > 0].min() and depth.max() < 5.2 and 0.8 < (depth > 0).float().mean() < 1
    rows = chapter.row_depths(depth)
    assert rows[:60].mean() > rows[-60:].mean() + 1  # the floor comes nearer towards the lower edge


def test_the_full_cell_runs_on_a_stand_in(chapter, monkeypatch):
    """The cells themselves, in full mode: the room through both sources, 13×17 patches of a random RN50."""
    cells = [c for c in code_cells(read(NOTEBOOK)) if c.id in ("full-motorcycle", "full-card")]
    torch.manual_seed(0)
    stand_in, asked, cards = load_clip("RN50", pretrained=None), [], []

    def load(name, device):
        asked.append((name, device))
        return stand_in

    monkeypatch.setattr(check, "card", lambda id, **facts: cards.append(id))
    session = SimpleNamespace(mode="full", device="cpu", seed=0)
    space = dict(chapter.space) | dict(session=session, load_clip=load)
    for cell in cells:
        exec(compile(cell.source, cell.id, "exec"), space)
        assert "full" in tags(cell)
    assert asked == [("RN50", "cpu")] and cards == ["13.room"]
    assert set(space["answers"]) == {"layer4", "space"}
    assert all(0.1 < error < 0.9 for error, _ in space["answers"].values())


def test_the_record(chapter, rn):
    record = records.load("13_depthclip")
    runs = {(r["variant"], r["seed"]): r["values"] for r in record.rows}
    assert len(runs) == len(record.rows)
    for variant in ("joint space at 128", "joint space at 256", "layer4 at 128", "ViT values at 96",
                    "windows of 96 in 128"):
        assert {seed for v, seed in runs if v == variant} == {0, 1, 2}, variant
    row = runs["joint space at 128", 0]
    train, test = chapter.metric_scenes(300, 131_000_000), chapter.metric_scenes(200, 133_000_000)
    model = chapter.fitted(rn, WORDS, train, row["learned"]["scale"])
    error = chapter.depth_errors(model(test["images"]), test["depth"])["abs_rel"].mean().item()
    assert error == pytest.approx(row["learned"]["abs_rel"], abs=0.01)


def test_the_figure_is_that_of_the_words(chapter, rn):
    record = records.load("13_depthclip")
    model = chapter.fitted(rn, WORDS, chapter.metric_scenes(300, 131_000_000), 30)
    depth = model.per_patch(chapter.figure_pictures()[0])[0]
    assert torch.allclose(depth, torch.tensor(record["figure"]), atol=0.05), "record its figure again"
