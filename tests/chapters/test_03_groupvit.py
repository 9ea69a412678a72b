"""Chapter 3's own code, from the notebook: equal to the release and to transformers, one-hot, learning, strict."""

import inspect
from random import Random

import pytest
import torch
import torch.nn.functional as F

from bench import load
from clipnotes import check, grammar, records, toyworld  # before transformers: `import clipnotes` repairs torchvision
from notebooks import ROOT

NOTEBOOK = ROOT / "chapters" / "03_groupvit.ipynb"
NO_GROUPS = dict(depths=(1, 1, 0), group_tokens=(0, 0, 0), output_groups=(0, 0))


@pytest.fixture(scope="module")
def recording():
    """The program that recorded this chapter's runs, as a module."""
    return load(ROOT / "recordings" / "03_groupvit" / "record.py")


@pytest.fixture(scope="module")
def scenes():
    return toyworld.scenes(6, 1, names=toyworld.names("base"))


@pytest.fixture
def model(chapter, clip):
    torch.manual_seed(0)
    return chapter.GroupViTCLIP(chapter.tiny_encoder(clip)).eval()


# ---------------------------------------------------------------- equal to the release


def test_parity_with_the_release(chapter):
    def gumbel(logits, noise, tau):
        return chapter.hard_one_hot(((logits + noise) / tau).softmax(-2))

    for name, candidate in {
        "groupvit.grouping_block": chapter.GroupingBlock, "groupvit.gumbel": gumbel,
        "groupvit.encoder": lambda **sizes: chapter.GroupViT(chapter.GroupViTConfig(**sizes)),
        "groupvit.contrastive": chapter.clip_loss, "groupvit.multilabel_loss": chapter.multi_label_loss,
        "groupvit.segment": chapter.segment_released,
    }.items():
        assert check.parity(name, candidate) <= 1e-5, name


def test_parity_refuses_typical_mistakes(chapter):
    class OtherAxis(chapter.GroupingBlock):
        def forward(self, segments, group_tokens):
            new, soft = super().forward(segments, group_tokens)
            return new, soft.softmax(-1)

    class NoOffset(chapter.GroupingBlock):
        def __init__(self, *sizes, **named):
            super().__init__(*sizes, **named)
            self.assign.eps = 1e-6

    def no_gradient(logits, noise, tau):
        soft = ((logits + noise) / tau).softmax(-2)
        return F.one_hot(soft.argmax(-2), soft.shape[-2]).transpose(-1, -2).float()

    def summed(image_emb, texts, scale):
        return 2 * chapter.multi_label_loss(image_emb, texts, scale)

    def all_names(*given):
        return chapter.segment_released(*given, top_k=8)

    for name, wrong in (("grouping_block", OtherAxis), ("grouping_block", NoOffset), ("gumbel", no_gradient),
                        ("multilabel_loss", summed), ("segment", all_names)):
        with pytest.raises(AssertionError, match="differs from the release"):
            check.parity(f"groupvit.{name}", wrong)


@pytest.mark.parametrize("size", [64, 96])
def test_encoder_equals_transformers(chapter, size):
    """Random weights carried over by the key map; a larger picture gets the same interpolated positions."""
    from transformers import GroupViTVisionConfig, GroupViTVisionModel

    torch.manual_seed(0)
    shape = dict(hidden_size=48, intermediate_size=192, depths=[2, 1, 1], num_attention_heads=4, image_size=64,
                 patch_size=8, num_group_tokens=[10, 4, 0], num_output_groups=[10, 4, 0], initializer_range=0.2)
    theirs = GroupViTVisionModel(GroupViTVisionConfig(**shape)).eval()
    ours = chapter.GroupViT(chapter.GroupViTConfig(64, 8, 48, (2, 1, 1), 4, (10, 4, 0), (10, 4))).eval()
    ours.load_state_dict(chapter.from_transformers(theirs.state_dict()))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        tokens, maps = ours(images)
        expected = theirs.vision_model.embeddings(images, interpolate_pos_encoding=size != 64)
        assert torch.allclose(ours.embed(images), expected, atol=1e-5)
        if size == 64:
            answer = theirs(images).last_hidden_state
            assert (tokens - answer).abs().max() <= 1e-5 * max(1, answer.abs().max())
    assert [m.shape for m in maps] == [(2, 10, (size // 8) ** 2), (2, 4, 10)]


def test_official_names_and_sizes(chapter):
    with torch.device("meta"):
        large = chapter.GroupViT(chapter.official())
    state = large.state_dict()
    assert state["layers.1.group_projector.1.fc1.weight"].shape == (192, 64)
    assert state["layers.0.downsample.mlp_inter.fc2.weight"].shape == (64, 192)
    assert state["pos_embed"].shape == (1, 196, 384) and not any(k.startswith("layers.2.downsample") for k in state)
    assert sum(p.numel() for p in large.parameters()) == 28_837_136


# ---------------------------------------------------------------- the assignment


@pytest.mark.parametrize("training", [False, True])
def test_columns_are_one_hot_and_logits_learn(chapter, training):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 12, requires_grad=True)
    noisy = logits + chapter.gumbel_noise(logits) if training else logits
    choice = chapter.hard_one_hot(noisy.softmax(-2))
    assert torch.equal(choice.detach().sum(1), torch.ones(2, 12))
    assert set(choice.detach().flatten().tolist()) == {0.0, 1.0}
    (choice * torch.randn(2, 5, 12)).sum().backward()
    assert (logits.grad.abs().sum((1, 2)) > 0).all()


def test_assignment_equals_its_definition(chapter):
    torch.manual_seed(1)
    block = chapter.Assign(6).eval()
    groups, x = torch.randn(1, 3, 6), torch.randn(1, 11, 6)
    update, soft = block(groups, x)
    scores, values = block.q_proj(groups)[0] @ block.k_proj(x)[0].T, block.v_proj(x)[0]
    for m in range(3):
        mine = scores.argmax(0) == m
        mean = values[mine].sum(0) / (mine.sum() + 1)  # the release's plus one
        assert torch.allclose(update[0, m], block.proj(mean), atol=1e-6)
    assert torch.allclose(soft.sum(1), torch.ones(1, 11))


def test_noise_in_training_only(chapter):
    torch.manual_seed(0)
    block, x, tokens = chapter.GroupingBlock(16, 2, 6, 3), torch.randn(1, 50, 16), torch.randn(1, 6, 16)
    assert torch.equal(block.eval()(x, tokens)[0], block(x, tokens)[0])
    assert not torch.equal(block.train()(x, tokens)[0], block(x, tokens)[0])
    assert torch.isfinite(chapter.gumbel_noise(torch.empty(200_000))).all()


@pytest.mark.parametrize("shape", [
    dict(), dict(hard=True), dict(depths=(2, 0), group_tokens=(6, 0), output_groups=(6,)), NO_GROUPS,
])
def test_every_weight_gets_a_gradient(chapter, clip, scenes, shape):
    torch.manual_seed(0)
    model = chapter.GroupViTCLIP(chapter.tiny_encoder(clip, **shape)).train()
    for name, p in model.named_parameters():  # a sharp start has zeros: they would hide what lies before them
        if "pre_assign_attn" in name and p.ndim == 2 and not p.abs().sum():
            torch.nn.init.normal_(p, std=0.1)
    sum(chapter.caption_losses(model, scenes["images"], torch.randn(6, 4, 128))).backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert all(n.endswith("k_proj.bias") or ".linear_hidden.0.bias" in n for n in silent), silent
    assert all(p.grad is None for p in clip.parameters())


# ---------------------------------------------------------------- losses, nouns


def test_multi_label_loss(chapter):
    g = torch.Generator().manual_seed(0)
    image_emb, text_emb = (F.normalize(torch.randn(*s, 8, generator=g), dim=-1) for s in ((5,), (5, 3)))
    assert torch.isclose(chapter.multi_label_loss(image_emb, text_emb[:, :1], 9.0),
                         chapter.clip_loss(image_emb, text_emb[:, 0], 9.0))
    assert torch.isclose(chapter.multi_label_loss(image_emb, text_emb, 9.0),
                         chapter.multi_label_loss(image_emb, text_emb.flip(1), 9.0))
    slow = chapter.multi_label_loss_naive(image_emb, text_emb, 9.0)
    assert torch.isclose(chapter.multi_label_loss(image_emb, text_emb, 9.0), slow, atol=1e-5)
    alone = chapter.group_label_loss(image_emb[:, None], text_emb, 9.0)
    assert torch.isclose(alone, chapter.multi_label_loss(image_emb, text_emb, 9.0))


def test_the_best_group_counts(chapter):
    texts = torch.eye(4)[:2, None]  # one prompt a picture
    groups = torch.stack([torch.stack([torch.eye(4)[i], torch.eye(4)[3]]) for i in (0, 1)])
    assert torch.equal(chapter.best_groups(groups, texts), torch.eye(2))


def test_nouns(chapter):
    assert chapter.nouns("a photo of a hot dog on the grass") in (["hot dog", "grass"], ["dog", "grass"])
    assert chapter.nouns("look , ice cream and ice cream") == ["ice cream"]
    captions = toyworld.scenes(60, 3, masks=False)["captions"]
    known = {w for c in grammar.concepts() for w in (c.name, c.category, *c.keywords)} | set(grammar.REGIONS)
    assert all(set(chapter.nouns(c)) <= known and chapter.nouns(c) for c in captions)
    for caption in captions:
        said = chapter.noun_prompts(caption, Random(0))
        found = len(chapter.nouns(caption))
        assert len(said) == 3 and said.count(caption) >= 3 - found and grammar.unknown_words(" ".join(said)) == []


def test_the_loop_takes_pictures_and_captions_only(chapter, clip, model, scenes):
    with pytest.raises(ValueError, match="images and captions alone, not from boxes"):
        chapter.fit(model, clip, scenes, 1, 0)
    before = [p.clone() for p in clip.parameters()]
    chapter.fit(model, clip, {k: scenes[k] for k in ("images", "captions")}, 1, 0, batch=6)
    assert all(torch.equal(a, b) for a, b in zip(before, clip.parameters(), strict=True)) and not model.training


def test_the_program_renders_no_masks(recording):
    source = inspect.getsource(recording.pictures_and_captions)
    assert "masks=False" in source and not any(word in source for word in ('["boxes"]', "object_map", "label_map"))


# ---------------------------------------------------------------- zero-shot


def test_maps_add_up_and_chain(chapter):
    first, second = torch.randn(2, 5, 12).softmax(1), torch.randn(2, 3, 5).softmax(1)
    maps = chapter.group_maps([first, second], (3, 4), (24, 32))
    assert maps.shape == (2, 3, 24, 32) and torch.allclose(maps.sum(1), torch.ones(2, 24, 32), atol=1e-5)
    assert torch.allclose(chapter.group_maps([first], (3, 4), (3, 4)).flatten(2), first, atol=1e-6)


def test_segment_names_are_equivariant(chapter, clip, model, scenes):
    names = ["dog", "cat", "apple", "car"]
    text_emb = chapter.name_embeddings(model, clip, names)
    label, cosine = chapter.segment(model, scenes["images"], text_emb)
    other, again = chapter.segment(model, scenes["images"], text_emb.flip(0))
    assert label.shape == cosine.shape == (6, 96, 96)
    assert torch.equal(label, 3 - other) and torch.equal(cosine, again)
    allowed = torch.tensor([[False, True, False, True]]).expand(6, 4)
    assert set(chapter.segment(model, scenes["images"], text_emb, allowed=allowed)[0].unique().tolist()) <= {1, 3}
    assert (chapter.segment(model, scenes["images"], text_emb, threshold=1.1)[0] == -1).all()


def test_many_pictures_are_segmented_as_one_by_one(chapter, clip, model):
    """More than fit into one batch, each with its own candidates."""
    batch = toyworld.scenes(53, 5, names=["dog", "cat", "apple", "car"])
    names = ["dog", "cat", "car"]
    text_emb = chapter.name_embeddings(model, clip, names)
    allowed = chapter.present(batch, toyworld.name_indices(names))
    label, cosine = chapter.segment(model, batch["images"], text_emb, allowed=allowed)
    for i in (0, 49, 50, 52):
        alone, again = chapter.segment(model, batch["images"][i : i + 1], text_emb, allowed=allowed[i : i + 1])
        assert torch.allclose(cosine[i], again[0], atol=1e-5) and (label[i] == alone[0]).float().mean() > 0.99
        assert not allowed[i].any() or allowed[i][label[i].unique()].all()


def test_without_group_tokens_it_is_a_plain_vit(chapter, clip, recording, scenes):
    """The rival is read patch by patch, or its patches are clustered."""
    torch.manual_seed(0)
    plain = chapter.GroupViTCLIP(chapter.tiny_encoder(clip, **NO_GROUPS)).eval()
    tokens, maps = plain.tokens(scenes["images"])
    assert tokens.shape == (6, 144, 128) and maps == [] and recording.is_plain(plain)
    owner, emb = recording.clusters(plain, scenes["images"], 4)
    assert owner.max() < 4 and emb.shape == (6, 4, 128)
    text_emb = chapter.name_embeddings(plain, clip, ["dog", "cat"])
    label, cosine = recording.predict_patches(plain, scenes["images"], text_emb)
    assert label.shape == (6, 96, 96) and cosine.max() <= 1
    allowed = torch.tensor([[False, True]]).expand(6, 2)
    for predict in (recording.predict_patches, recording.predict_clusters):
        assert (predict(plain, scenes["images"], text_emb, allowed=allowed)[0] == 1).all()


def test_bad_input_is_refused(chapter, clip, model, scenes):
    with pytest.raises(ValueError, match="no names: give at least one"):
        chapter.name_embeddings(model, clip, [])
    with pytest.raises(ValueError, match="'dog' is given twice"):
        chapter.name_embeddings(model, clip, ["dog", "cat", "dog"])
    with pytest.raises(ValueError, match="no names"):
        chapter.segment(model, scenes["images"], torch.empty(0, 128))
    with pytest.raises(ValueError, match="multiples of 8, not 4x4"):
        chapter.segments(model, torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match="multiples of 8"):
        chapter.GroupViT(chapter.GroupViTConfig())(torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match="not a whole number of patches"):
        chapter.GroupViTConfig(image_size=4, patch_size=8)
    with pytest.raises(ValueError, match="one output fewer"):
        chapter.GroupViTConfig(depths=(1, 1))


# ---------------------------------------------------------------- measures


def test_measures_on_known_answers(chapter, recording, scenes):
    truth = chapter.object_truth(scenes)
    ids = toyworld.name_indices(toyworld.names("base"))
    place = {int(i): k for k, i in enumerate(ids)}
    label = truth.clone().apply_(lambda i: place.get(i, 0))
    cosine = (truth < 304).float()
    assert chapter.object_miou(label, cosine, truth, ids, 0.5) == 1.0
    assert chapter.object_miou(label, cosine, truth, ids, 2.0) == 0.0
    best = recording.fit_threshold(lambda t: chapter.object_miou(label, cosine, truth, ids, t))
    assert chapter.object_miou(label, cosine, truth, ids, best) == 1.0
    assert torch.equal(chapter.oracle_names(scenes["object_map"] + 1, truth, 305), truth)
    assert chapter.oracle_miou(scenes["object_map"] + 1, truth) == 1.0
    assert chapter.oracle_miou(torch.zeros_like(truth), truth) < 0.5
    patches = chapter.patch_truth(scenes)
    _, owner = patches.unique(return_inverse=True)
    assert chapter.purity(owner, patches) == 1.0 and chapter.best_iou(owner, scenes) == 1.0
    assert chapter.purity(torch.zeros(1, 4, dtype=torch.long), torch.tensor([[1, 1, 1, 2]])) == 0.75


def test_sweep_and_separation(chapter, scenes):
    """A cosine that knows objects from ground separates them always; one that knows nothing, half of the time."""
    truth = chapter.object_truth(scenes)
    label, ids = truth.where(truth < 304, truth.min()), torch.arange(304)
    knows, g = (truth < 304).float(), torch.Generator().manual_seed(0)
    curve = chapter.sweep(label, knows, truth, ids)
    assert len(curve) == len(chapter.GRID) and max(curve) == 1.0 and curve[0] < 1.0
    assert chapter.separation(knows, truth, g) == 1.0
    assert abs(chapter.separation(torch.rand(truth.shape, generator=g), truth, g) - 0.5) < 0.02


def test_kmeans_finds_clusters(chapter):
    g = torch.Generator().manual_seed(0)
    true = torch.arange(30) % 3
    points = 10 * torch.eye(3)[true] + 0.1 * torch.randn(2, 30, 3, generator=g)
    assert chapter.purity(chapter.kmeans(points, 3), true.expand(2, 30)) >= 2 / 3


def test_blob_and_growth(chapter):
    flat = torch.full((1, 3, 32, 32), 0.5)
    flat[:, 0, 10:18, 12:20] = 1.0
    blob = chapter.salient_blob(flat)
    assert blob[0, 12:16, 14:18].all() and not blob[0, :6].any()
    owner = chapter.grow(flat[0], [(0, 0), (12, 14)], 0.2)
    assert (owner[10:18, 12:20] == 1).all() and (owner == 0).sum() == 32 * 32 - 64


# ---------------------------------------------------------------- what ships


def test_shipped_models_load_and_the_record_names_its_seeds(chapter, clip):
    runs = records.load("03_groupvit")
    assert runs.seeds("large", "groups") == [0, 1, 2] and runs.seeds("small", "ours") == [0, 1, 2]
    assert all(row["minutes"] > 0 for row in runs.rows)
    for name in ("groupvit", "two_stages"):
        model, card = chapter.load_groupvit(name, clip)
        assert card["seed"] == 0 and set(card["names"]) <= set(toyworld.names("base"))
        with torch.no_grad():
            assert torch.isfinite(model.tokens(toyworld.postcard()["images"])[0]).all()


def test_figure_is_that_of_the_shipped_model(chapter, clip):
    drawn = records.load("03_groupvit")["figure"]["postcard"]
    model, _ = chapter.load_groupvit("groupvit", clip)
    with torch.no_grad():
        maps = chapter.group_maps(model.tokens(toyworld.postcard()["images"])[1], (12, 12), (12, 12))[0]
    assert (maps - torch.tensor(drawn["maps"])).abs().max() < 2e-3, "run recordings/03_groupvit/record.py figure"


def test_a_run_depends_on_its_seed_alone(recording):
    """Also on the first call, which loads CLIP: its layers draw random numbers, too."""
    few = dict(scenes=8, images=4, batch=4, prompts=1, precision="float32")
    recording.tiny_clip.cache_clear()
    first, _ = recording.train(recording.small_recipe("ours") | few, 1)
    again, _ = recording.train(recording.small_recipe("ours") | few, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
