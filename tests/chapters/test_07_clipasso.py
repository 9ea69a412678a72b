"""Chapter 7's own code, from the notebook: equal to the release, views alike, strokes that learn, clear refusals."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bench import load
from clipnotes import check, prompts, records, strokes, toyworld
from clipnotes.clip import CLIP, CLIPConfig, load_clip
from clipnotes.weights import load_weights
from notebooks import ROOT, code_cells, read

NOTEBOOK = ROOT / "chapters" / "07_clipasso.ipynb"


@pytest.fixture(scope="module")
def teacher():
    """A ModifiedResNet with random weights: small, and of the released shape otherwise."""
    torch.manual_seed(0)
    clip = CLIP(CLIPConfig(16, 64, (1, 1, 1, 1), 8, None, 8, 50, 16, 1)).eval().requires_grad_(False)
    for module in clip.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)  # the last norms start at zero: blocks would do nothing
    return clip


@pytest.fixture(scope="module")
def vit():
    return load_clip("tiny").requires_grad_(False)


@pytest.fixture(scope="module")
def record():
    """The program recordings/07_clipasso/record.py."""
    return load(ROOT / "recordings" / "07_clipasso" / "record.py")


@pytest.fixture
def small(chapter):
    return chapter.Recipe(canvas=64, view=64, steps=12, weights={"layer2": 1.0, "fc": 1.0})


# ---------------------------------------------------------------- equal to the release


def test_parity_with_the_release(chapter):
    for name, candidate in {"clipasso.losses": chapter.feature_losses, "clipasso.saliency": chapter.saliency_map,
                            "clipasso.xdog": chapter.xdog, "clipasso.sampling": chapter.sampling}.items():
        assert check.parity(name, candidate) <= 1e-4, name
    check.parity("clipasso.rasteriser", chapter.render_fine)


def test_parity_refuses_typical_mistakes(chapter):
    def summed(sketch, target, weights, norm):
        parts = chapter.feature_losses(sketch, target, weights, norm)
        return {k: v * sketch[k].numel() if k != "fc" else v for k, v in parts.items()}

    def always_squared(sketch, target, weights, norm):
        return chapter.feature_losses(sketch, target, weights, "L2")

    def no_gradient(sketch, target, weights, norm):
        parts = chapter.feature_losses(sketch, target, weights, norm)
        return {k: v.detach() + 0 * sketch[k].sum() for k, v in parts.items()}

    wrong = [("losses", summed), ("losses", always_squared), ("losses", no_gradient),
             ("saliency", lambda a, size: chapter.saliency_map(a[-1:], size)),
             ("saliency", lambda a, size: chapter.saliency_map(a, size, "mean")),
             ("xdog", lambda image: 1 - chapter.xdog(image)), ("xdog", lambda image: chapter.xdog(image.mT)),
             ("sampling", lambda s, e: chapter.sampling(s, e, 1.0)), ("sampling", lambda s, e: chapter.sampling(s))]
    for name, candidate in wrong:
        with pytest.raises(AssertionError, match="differs from the release"):
            check.parity(f"clipasso.{name}", candidate)


def test_parity_says_not_attempted(capsys):
    for name in ("losses", "saliency", "xdog", "sampling"):
        assert check.parity(f"clipasso.{name}", None) is None
    assert capsys.readouterr().out.count("not attempted") == 4


# ---------------------------------------------------------------- curves, saliency, sampling


def test_de_casteljau_is_the_formula(chapter):
    torch.manual_seed(0)
    curve = torch.randn(4, 2)
    for t in (0.0, 0.3, 1.0):
        assert torch.allclose(chapter.de_casteljau(curve, t), strokes.bezier(curve, torch.tensor(t)), atol=1e-6)


def test_attention_is_that_of_the_model(chapter, vit):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = chapter.attention_maps(vit, images)
    assert maps.shape == (2, 5, 2, 65, 65) and torch.allclose(maps.sum(-1), torch.ones(2, 5, 2, 65), atol=1e-5)
    x, block = vit.visual.embed(vit.standardise(images)), vit.visual.transformer.resblocks[0]
    normed = block.ln_1(x)
    value = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)[2]
    mixed = maps[:, 0] @ value.unflatten(-1, (2, -1)).transpose(1, 2)
    assert torch.allclose(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)), block.attn(normed), atol=1e-4)


def test_pool_view_is_the_pool(chapter, teacher):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    view = chapter.pool_view(teacher, images)
    pool, features = teacher.visual.attnpool, teacher.visual.layers(teacher.standardise(images))["layer4"]
    value = pool.v_proj(pool.tokens(features)).unflatten(-1, (pool.heads, -1)).transpose(1, 2)
    mixed = (view[:, 0, :, :1] @ value).transpose(1, 2).flatten(2)
    assert torch.allclose(pool.c_proj(mixed)[:, 0], pool(features), atol=1e-4)


def test_rollout_keeps_what_it_shares_out(chapter):
    attention = torch.randn(3, 2, 10, 10, generator=torch.Generator().manual_seed(0)).softmax(-1)
    joint = chapter.rollout(attention)
    assert joint.shape == (1, 1, 10, 10) and torch.allclose(joint.sum(-1), torch.ones(1, 1, 10), atol=1e-5)
    assert torch.equal(chapter.rollout(torch.eye(10).expand(3, 2, 10, 10)), torch.eye(10)[None, None])


def test_starting_points_lie_on_edges_and_are_different(chapter, vit):
    picture = chapter.portraits(["dog"], 64)[0]
    edges = chapter.xdog(picture[0])
    found = chapter.starts(vit, picture, 16, 3)[0]
    first = found[:, 0].long()
    assert (edges[first[:, 1], first[:, 0]] == 0).all() and len(first.unique(dim=0)) == 16
    assert torch.equal(found, chapter.starts(vit, picture, 16, 3)[0]) and found.min() >= 0 and found.max() <= 64
    assert not torch.equal(found, chapter.starts(vit, picture, 16, 4)[0])
    assert (found.diff(dim=1).abs() <= 0.075 * 64 + 1e-4).all()
    with pytest.raises(ValueError, match="There are 2 places for 3 strokes"):
        chapter.start_strokes(torch.tensor([[0.5, 0.0, 0.5]]), 3, 0)


def test_strokes_begin_by_a_known_word_only(chapter, vit):
    picture = chapter.portraits(["dog"], 64)[0]
    anywhere = chapter.starts(vit, picture, 16, 3, "random")
    assert anywhere.shape == (1, 16, 4, 2) and not torch.equal(anywhere, chapter.starts(vit, picture, 16, 3))
    with pytest.raises(ValueError, match="not by 'class'"):
        chapter.starts(vit, picture, 16, 3, "class")


def test_otsu_is_the_best_cut_of_the_histogram(chapter):
    """The threshold of XDoG parts the tones with the largest variance between both classes, as counted here."""
    tone = torch.rand(40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.double) ** 3
    cuts = tone.min() + (tone.max() - tone.min()) * (torch.arange(256).double() + 0.5) / 256
    below = [tone[tone <= cut] for cut in cuts[:-1]]
    between = [len(b) * (tone.numel() - len(b)) * (b.mean() - (tone.sum() - b.sum()) / (tone.numel() - len(b))) ** 2
               for b in below]
    best = cuts[torch.stack(between).argmax()]
    assert abs(chapter.threshold_otsu(tone.numpy()) - best) < 2 / 256


def test_a_fine_picture_need_not_be_square(chapter):
    points = chapter.starts_anywhere(2, 5, 40)
    square = chapter.render_fine(points, 1.5, 40)
    wide = chapter.render_fine(points, 1.5, (30, 40))
    assert wide.shape == (2, 3, 30, 40) and torch.allclose(wide, square[:, :, :30], atol=1e-5)


# ---------------------------------------------------------------- views, losses


def test_views_are_alike_and_paper_outside(chapter):
    g = torch.Generator().manual_seed(0)
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]).expand(5, 4, 2)
    moved = corners * (1 - 0.5 * torch.rand(5, 4, 2, generator=g))
    mapped = F.pad(moved, (0, 1), value=1.0) @ chapter.homography(moved, corners).mT
    assert torch.allclose(mapped[..., :2] / mapped[..., 2:], corners, atol=1e-4)
    grids, images = chapter.warp_grids(3, 32, g), torch.rand(2, 3, 64, 64, generator=g)
    both = chapter.seen(images, grids, 32)
    assert both.shape == (8, 3, 32, 32) and torch.allclose(chapter.seen(images[1:], grids, 32), both[4:], atol=1e-6)
    assert torch.allclose(both[0], F.avg_pool2d(images[:1], 2)[0], atol=1e-6)
    assert torch.allclose(chapter.seen(torch.ones(1, 3, 32, 32), grids, 32), torch.ones(4, 3, 32, 32), atol=1e-5)


def test_losses_by_sketch(chapter, teacher):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    other = images.flip(3)
    read = [chapter.read_image(teacher, x) for x in (images, other)]
    assert torch.allclose(read[0]["fc"], teacher.encode_image(images, normalize=False), atol=1e-5)
    weights = {"layer2": 2.0, "fc": 0.5}
    parts = chapter.feature_losses(*read, weights)
    assert torch.allclose(parts["layer2"], 2 * (read[0]["layer2"] - read[1]["layer2"]).square().mean((1, 2, 3)))
    pooled = chapter.feature_losses(*read, weights, views=2)
    assert all(torch.allclose(pooled[k][0], parts[k].mean()) for k in weights)


# ---------------------------------------------------------------- the loop


def test_the_loss_falls_and_clip_stays(chapter, teacher, small):
    before = [p.clone() for p in teacher.parameters()]
    images, start = chapter.portraits(["dog", "cat"], 64)[0], chapter.starts_anywhere(2, 6, 64)
    steps = []
    moved, opacity, losses = chapter.optimise(teacher, images, start, small, 1, watch=lambda k, s: steps.append(k))
    assert steps == list(range(12)) and losses.shape == (12, 2) and torch.equal(opacity, torch.ones(2, 6))
    assert losses[-3:].mean() < losses[:3].mean() and moved.shape == start.shape
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    short = replace(small, steps=3)  # a picture gets the same sketch alone and in company
    alone, company = (chapter.optimise(teacher, images[:n], start[:n], short, 1)[0][0] for n in (1, 2))
    assert torch.allclose(alone, company, atol=0.02)
    with pytest.raises(ValueError, match="2 pictures and starts for 1"):
        chapter.optimise(teacher, images, start[:1], small)


def test_finished_strokes_stay_and_prices_fade(chapter, teacher, small):
    image, start = chapter.portraits(["dog"], 64)[0], chapter.starts_anywhere(1, 4, 64)
    below = chapter.starts_anywhere(1, 2, 64, 9)
    seen = []
    chapter.optimise(teacher, image, start, small, drawn=below, watch=lambda k, s: seen.append(s))
    with_both = chapter.render(torch.cat([below, start], 1), small.width, 64, "gaussian", small.sigma[0])
    assert torch.allclose(seen[0], with_both, atol=1e-5)
    _, free, _ = chapter.optimise(teacher, image, start, replace(small, steps=40, price=1e-6))
    _, dear, _ = chapter.optimise(teacher, image, start, replace(small, steps=40, price=10.0))
    assert dear.max() < 0.2 and dear.max() < free.max()


def test_one_by_one_keeps_the_first_rounds(chapter, record, teacher, vit, small, monkeypatch):
    monkeypatch.setattr(record, "models", lambda name: (teacher, vit))
    image = chapter.portraits(["dog"], 64)[0]
    strokes_, ink, losses = record.one_by_one(image, 6, 3, small, 0)
    first, _, _ = record.one_by_one(image, 2, 1, replace(small, steps=4), 0)
    assert strokes_.shape == (1, 6, 4, 2) and ink.shape == (1, 6) and losses.shape == (12, 1)
    assert torch.allclose(strokes_[:, :2], first, atol=1e-3)


def test_the_released_recipe(chapter):
    paper = chapter.released()
    assert (paper.canvas, paper.steps, paper.lr, paper.width, paper.views) == (224, 2000, 1.0, 1.5, 4)
    assert paper.weights == {"layer2": 1.0, "layer3": 1.0, "fc": 0.1}


def test_the_full_cell_begins_where_the_release_does(chapter, clip):
    """Where the class token looks and edges are, not anywhere; short steps; the seed decides."""
    image = chapter.portraits(["dog"], 96)[0]
    start = chapter.released_start(clip, image, 16, 0)
    assert start.shape == (1, 16, 4, 2) and torch.equal(start, chapter.released_start(clip, image, 16, 0))
    column, row = (start[0, :, 0] - 0.5).long().unbind(-1)
    assert (chapter.xdog(image[0])[row, column] == 0).all(), "every stroke begins on an edge"
    assert start[0].diff(dim=1).abs().max() <= 0.025 * 96 + 1e-4
    assert "released_start" in "".join(c.source for c in code_cells(read(NOTEBOOK)) if c.id == "full-run")


def test_live_picture_is_silent_outside_jupyter(chapter):
    assert chapter.live_picture() is None


# ---------------------------------------------------------------- pictures, masks, the judge


def test_names_are_fixed(chapter):
    names = chapter.sheet_names()
    assert len(set(names)) == 20 and names[:3] == ["hot dog", "anchor", "tangerine"]
    assert set(names[:14]) <= set(toyworld.names("base")) and set(names[14:]) <= set(toyworld.names("novel"))


def test_masks_and_cutting_out(chapter, record, vit):
    images, masks = chapter.settings(["dog", "car"], 96)
    assert images.shape == (2, 3, 96, 96) and masks.shape == (2, 96, 96) and masks.flatten(1).any(1).all()
    cut = record.cut_out(images, masks)
    assert (cut.permute(0, 2, 3, 1)[~masks] == 1).all() and torch.equal(cut.mT[masks.mT[:, None].expand_as(cut)],
                                                                      images.mT[masks.mT[:, None].expand_as(cut)])
    assert torch.equal(record.cut_out(images, torch.zeros_like(masks)), images)
    assert record.mask_by_patches(vit, images, ["dog", "car"]).shape == masks.shape
    portrait, shape = chapter.portraits(["dog"], 96)
    assert (portrait.permute(0, 2, 3, 1)[~shape] > 0.4).all() and 0.1 < shape.float().mean() < 0.8


def test_measures_on_known_answers(chapter, vit):
    pictures = chapter.portraits(["dog", "car"], 96)[0]
    text_emb = prompts.class_embeddings(vit, toyworld.names(), chapter.grammar.TEMPLATES[:4])
    assert (chapter.name_ranks(vit, pictures, ["dog", "car"], text_emb) < 20).all()
    assert (chapter.name_ranks(vit, pictures, ["car", "dog"], text_emb) > 0).all()
    paper = torch.ones(1, 3, 32, 32)
    paper[:, :, 10:14, 10:14] = 0.0
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 10:14, 10:14] = True
    assert math.isclose(chapter.ink_on(paper, mask).item(), 1.0, abs_tol=1e-6)
    assert chapter.ink_on(paper, mask.roll(12, 2)).item() == 0.0


# ---------------------------------------------------------------- what ships


def test_record_and_sketches_agree(chapter):
    runs = records.load("07_clipasso")
    stored, recipe, card = load_weights("07_clipasso/sketches", "sketches")
    assert chapter.Recipe(**recipe).canvas == recipe["canvas"] and card["names"] == chapter.sheet_names()
    assert card["program"] == "recordings/07_clipasso/record.py"
    for row in runs.rows:
        name, options, loss = row["variant"], row["recipe"], row["values"]["loss"]
        assert stored[name].shape == (options["names"], options["strokes"], 4, 2) and len(loss) == options["names"]
        assert torch.isfinite(stored[name]).all() and row["minutes"] > 0
        assert (f"{name}.opacity" in stored) == (options["recipe"]["price"] > 0)
    names = {row["variant"] for row in runs.rows}
    assert {name.removesuffix(".opacity") for name in stored} == names
