"""Chapter 2's own code, from the notebook: equal to the release and to DPT, equivariant, frozen, strict."""

import pytest
import torch
import torch.nn.functional as F

from clipnotes import check, grammar, hub, lseg, metrics, records, toyworld  # before transformers: repairs torchvision
from clipnotes.lseg import LSegConfig, load_lseg, official_config, save_lseg
from notebooks import ROOT

NOTEBOOK = ROOT / "chapters" / "02_lseg.ipynb"
TINY = ROOT / "clipnotes" / "data" / "tiny.safetensors"
SHIPPED = ROOT / "recordings" / "02_lseg" / "lseg.safetensors"
REGIONS = list(grammar.REGIONS)


def small(chapter, clip, **changes):
    torch.manual_seed(0)
    return chapter.start_from_clip(chapter.LSeg(LSegConfig(features=16, channels=(16,) * 4, **changes), clip))


# ---------------------------------------------------------------- equal to the release


@pytest.mark.parametrize("name, built", [
    ("lseg.head", "PixelTextHead"), ("lseg.decoder_block", "FeatureFusionBlock"),
    ("lseg.spatial_block_bottleneck", "BottleneckBlock"), ("lseg.spatial_block_depthwise", "DepthwiseBlock"),
])
def test_parity_with_the_release(chapter, name, built):
    assert check.parity(name, getattr(chapter, built)) <= 1e-5


def test_product_in_half_precision_is_the_release_s(chapter):
    tensors, _ = check.golden("lseg.head")
    head = chapter.PixelTextHead(16, 24)
    head.load_state_dict({k.removeprefix("weights/scratch."): v for k, v in tensors.items() if "head1" in k})
    with torch.no_grad():
        vectors = head.head1(tensors["in/path_1"])
        released = chapter.twice_as_large(chapter.product_released(vectors, tensors["in/text_features"]))
        ours = chapter.twice_as_large(chapter.pixel_text_product(vectors, tensors["in/text_features"]))
    assert (released - tensors["out/logits_half_product"]).abs().max() <= 1e-2
    assert 1e-5 < (released - ours).abs().max() <= 1e-2  # that is how far half precision goes


def test_reassemble_equals_dpt(chapter):
    assert chapter.reassemble_gap() < 1e-5


def test_fusion_equals_dpt(chapter):
    from transformers import DPTConfig
    from transformers.models.dpt.modeling_dpt import DPTFeatureFusionLayer

    torch.manual_seed(0)
    config = DPTConfig(fusion_hidden_size=8, use_batch_norm_in_fusion_residual=True,
                       use_bias_in_fusion_residual=False)
    theirs, ours = DPTFeatureFusionLayer(config).eval(), chapter.FeatureFusionBlock(8).eval()
    for unit in (ours.resConfUnit1, ours.resConfUnit2):  # statistics that differ from nothing
        for norm in (unit.bn1, unit.bn2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(norm.weight, 0.5, 2)
    for unit, layer in ((ours.resConfUnit1, theirs.residual_layer1), (ours.resConfUnit2, theirs.residual_layer2)):
        for mine, other in (("conv1", "convolution1"), ("conv2", "convolution2"), ("bn1", "batch_norm1"),
                            ("bn2", "batch_norm2")):
            getattr(layer, other).load_state_dict(getattr(unit, mine).state_dict())
    theirs.projection.load_state_dict(ours.out_conv.state_dict())
    path, skip = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        assert torch.allclose(ours(path, skip), theirs(path, skip), atol=1e-5)
        assert torch.allclose(ours(path), theirs(path), atol=1e-5)


def test_official_shapes_and_names():
    with torch.device("meta"):
        encoder, decoder = lseg.DenseEncoder(official_config()), lseg.Decoder(official_config())
        maps = encoder(torch.empty(1, 3, 480, 480))
        assert decoder.fuse(maps).shape == (1, 256, 240, 240)
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 120, 120), (512, 60, 60), (1024, 30, 30), (1024, 15, 15)]
    names = set(encoder.state_dict())
    assert {"act_postprocess1.0.project.0.weight", "act_postprocess1.3.weight", "act_postprocess1.4.weight",
            "act_postprocess4.4.bias"} <= names and "act_postprocess3.4.weight" not in names
    assert {"layer4_rn.weight", "refinenet4.resConfUnit1.conv1.weight", "refinenet1.out_conv.bias",
            "head1.weight"} <= set(decoder.state_dict())


# ---------------------------------------------------------------- the loss, the labels


def test_loss_by_hand_and_without_gradient_where_nobody_labelled(chapter):
    torch.manual_seed(1)
    logits = torch.randn(2, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-1, 5, (2, 4, 4))
    assert torch.isclose(chapter.masked_loss(logits, labels), chapter.masked_loss_naive(logits, labels))
    chapter.masked_loss(logits, labels).backward()
    assert (logits.grad.abs().sum(1)[labels < 0] == 0).all() and (logits.grad.abs().sum(1)[labels >= 0] > 0).all()


def test_product_by_hand(chapter):
    torch.manual_seed(2)
    pixels, text_emb = torch.randn(7, 3, 4), torch.randn(5, 7)
    at_once = chapter.pixel_text_product(pixels[None], text_emb)[0]
    assert torch.allclose(at_once, chapter.product_naive(pixels, text_emb), atol=1e-5)
    assert torch.allclose(at_once, chapter.pixel_text_product(3 * pixels[None], 0.1 * text_emb)[0], atol=1e-5)


def test_novel_things_are_ignored_never_background(chapter):
    batch = toyworld.scenes(8, 3)
    words = toyworld.names("base") + REGIONS
    labels = chapter.training_labels(batch, words)
    novel = {i for i, c in enumerate(toyworld.concepts()) if c.split == "novel"}
    seen = toyworld.label_map(batch)
    is_novel = torch.isin(seen, torch.tensor(sorted(novel)))
    assert is_novel.any() and (labels[is_novel] == -1).all() and (labels[~is_novel] >= 0).all()
    assert all(words[i] == toyworld.label_names()[j]
               for i, j in zip(labels[~is_novel][::500].tolist(), seen[~is_novel][::500].tolist(), strict=True))


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("block, depth", [("none", 0), ("bottleneck", 1), ("bottleneck", 4), ("depthwise", 2)])
def test_labels_reordered_logits_reordered(chapter, clip, block, depth):
    model = small(chapter, clip, block=block, depth=depth).eval()
    words, images = ["dog", "cat", "sky", "apple", "animal"], toyworld.scenes(1, 4)["images"]
    order = [3, 0, 4, 1, 2]
    with torch.no_grad():
        straight, turned = model(images, words), model(images, [words[i] for i in order])
    assert torch.allclose(turned, straight[:, order], atol=1e-5) and straight.shape == (1, 5, 96, 96)


def test_text_tower_gets_no_gradient_and_keeps_every_bit(chapter, clip):
    model = small(chapter, clip).train()
    assert not model.clip_pretrained.training
    before = {k: v.clone() for k, v in model.clip_pretrained.state_dict().items()}
    batch = toyworld.scenes(2, 5)
    words = ["dog", *REGIONS]
    labels = chapter.training_labels(batch, words)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    chapter.masked_loss(model(batch["images"], words), labels).backward()
    optimizer.step()
    assert all(p.grad is None for p in model.clip_pretrained.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.clip_pretrained.state_dict().items())


def test_every_trained_weight_gets_a_gradient(chapter, clip):
    model = small(chapter, clip, block="bottleneck", depth=2).train()
    for name, parameter in model.named_parameters():
        if "bn2.weight" in name:  # zero at the start: it would hide what lies before it
            torch.nn.init.ones_(parameter)
    batch = toyworld.scenes(2, 6)
    words = ["dog", *REGIONS]
    chapter.masked_loss(model(batch["images"], words), chapter.training_labels(batch, words)).backward()
    silent = {k for k, p in model.named_parameters()
              if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)}
    unused = {k for k in silent if "refinenet4.resConfUnit1" in k}  # in the release, too: the first fusion has no skip
    assert silent == unused


@pytest.mark.parametrize("labels, says", [
    ([], "no labels"), (["dog", "dog"], "given twice"), ("dog", "a list of words"), (["dog", 3], "a list of words"),
])
def test_bad_labels_are_refused(chapter, clip, labels, says):
    model = small(chapter, clip)
    with pytest.raises(ValueError, match=says):
        model(torch.rand(1, 3, 96, 96), labels)


@pytest.mark.parametrize("shape, says", [
    ((1, 3, 4, 4), "multiples of 32.*take 32"), ((1, 3, 96, 100), "multiples of 32"), ((3, 96, 96), r"images\[None\]"),
])
def test_bad_images_are_refused(chapter, clip, shape, says):
    with pytest.raises(ValueError, match=says):
        small(chapter, clip)(torch.rand(shape), ["dog"])


@pytest.mark.parametrize("wrong, says", [
    (dict(block="other"), "block is one of"), (dict(depth=2), "depth"), (dict(block="bottleneck"), "depth"),
    (dict(hooks=(1, 2, 3)), "four hooks"), (dict(layers=4), "numbers of blocks"),
])
def test_bad_configurations_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        LSegConfig(**wrong)


def test_other_sizes_work(chapter, clip):
    with torch.no_grad():
        assert small(chapter, clip).eval()(torch.rand(2, 3, 64, 128), ["dog", "sky"]).shape == (2, 2, 64, 128)


# ---------------------------------------------------------------- files


def test_saved_and_loaded_is_the_same(chapter, clip, tmp_path):
    model = lseg.start_from_clip(lseg.LSeg(LSegConfig(features=16, channels=(16,) * 4), clip)).half().float().eval()
    save_lseg(model, tmp_path / "m.safetensors", {"seed": 0})
    again = load_lseg(tmp_path / "m.safetensors")
    images = toyworld.scenes(1, 7)["images"]
    with torch.no_grad():
        assert torch.allclose(model(images, ["dog", "sky"]), again(images, ["dog", "sky"]), atol=2e-2)
    assert again.card == {"seed": 0} and not list(tmp_path.glob(".m*"))


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_lseg(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="does not hold"):
        load_lseg(TINY)
    broken = bytearray(SHIPPED.read_bytes())
    broken[-100] ^= 1
    (tmp_path / "broken.safetensors").write_bytes(broken)
    with pytest.raises(RuntimeError, match="damaged"):
        load_lseg(tmp_path / "broken.safetensors")


def test_shipped_model_knows_its_world_and_what_it_was_not_shown():
    model = load_lseg("02_lseg/lseg")
    assert model.card["toyworld_version"] == toyworld.VERSION and model.card["seed"] == 0
    batch = toyworld.scenes(20, 8, names=toyworld.names("novel")[:10])
    words = toyworld.names("novel")[:10] + REGIONS
    found = model.segment(batch["images"], words)
    place = {name: i for i, name in enumerate(words)}
    column = torch.tensor([place.get(name, -1) for name in toyworld.label_names()])
    table = metrics.confusion(found, column[toyworld.label_map(batch)], len(words))
    assert metrics.iou(table)[:10].nanmean() > 0.25


def test_the_model_that_ships_is_the_first_of_three_seeds():
    runs = records.load("02_lseg")
    assert runs.seeds("main", "lseg") == [0, 1, 2] and load_lseg("02_lseg/lseg").card["seed"] == 0


# ---------------------------------------------------------------- measuring


def test_perfect_vectors_give_perfect_maps(chapter):
    """choose_words and object_miou on pixels that are their own word's vector."""
    batch = toyworld.scenes(6, 9)
    truth = toyworld.label_map(batch)
    torch.manual_seed(0)
    words = F.normalize(torch.randn(len(toyworld.label_names()), 64), dim=1)
    ids = torch.arange(len(words))
    found = chapter.predict_words(words[truth].permute(0, 3, 1, 2), words, ids)
    assert torch.equal(found, truth) and chapter.object_miou(found, truth) == 1
    assert chapter.object_miou(torch.full_like(truth, 304), truth) == 0  # all ground
    own = torch.ones(6, len(words), dtype=torch.bool)
    own[:, truth[0, 0, 0]] = False
    assert not (chapter.predict_words(words[truth].permute(0, 3, 1, 2), words, ids, own) == truth[0, 0, 0]).any()
    assert (chapter.predict_words(words[truth].permute(0, 3, 1, 2), words, ids, bias=9.0) >= 304).all()


def test_stored_tokens_give_the_decoder_s_map(chapter, clip):
    """path_from on a frozen encoder's tokens is path_1, and what learns there is all but the towers."""
    model, images = small(chapter, clip).eval(), toyworld.scenes(2, 11)["images"]
    with torch.no_grad():
        layers = model.pretrained.model.layers(clip.standardise(images))
        found = chapter.path_from(model, [layers[hook] for hook in model.config.hooks])
        assert torch.allclose(found, model.path_1(images), atol=1e-6)
    towers = sum(p.numel() for part in (model.clip_pretrained, model.pretrained.model) for p in part.parameters())
    weights = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in chapter.decoder_weights(model)) == weights - towers


def test_prototypes_are_means_inside_the_masks(chapter):
    """Vectors that tell the thing from the ground: a prototype holds the thing alone, whatever the shots."""
    seed, names = 12, ["dog", "apple"]

    def vectors_of(images):
        batch = next(b for b in scenes if torch.equal(b["images"], images))
        inside = (batch["object_map"] >= 0).float()
        return torch.stack([inside, 1 - inside], 1)

    for shots in (1, 3):
        scenes = [toyworld.scenes(shots, seed + 1000 * k, objects=(1, 1), names=[n]) for k, n in enumerate(names)]
        assert torch.allclose(chapter.prototypes(vectors_of, names, seed, shots), torch.tensor([[1.0, 0.0]] * 2))


def test_full_mode_trains_on_columns_image_and_mask(chapter, clip):
    """The function of the `full` cell, on a stand-in with the columns of the real set."""
    from datasets import Dataset, Features, Image
    from PIL import Image as Pictures

    batch = toyworld.scenes(8, 10, names=["dog", "cat"])
    words = ["dog", "cat", *REGIONS]
    masks = [Pictures.fromarray(m.to(torch.uint8).numpy()) for m in chapter.training_labels(batch, words)]
    rows = {"image": toyworld.as_dataset(batch)["image"], "mask": masks}
    people = Dataset.from_dict(rows, features=Features(image=Image(), mask=Image()))
    images, labels = chapter.as_tensors(people[:8], 96)
    assert torch.equal(labels, chapter.training_labels(batch, words)) and images.shape == (8, 3, 96, 96)
    losses = chapter.fit_on(people, small(chapter, clip), words, ["cat"], 96, steps=2)
    assert len(losses) == 2 and all(torch.isfinite(torch.tensor(losses)))


def test_real_masks_have_a_name_in_the_hub(chapter):
    repository, columns = hub.SETS["people"]
    assert columns == {"image": "image", "mask": "mask"} and len(chapter.PARTS) == 18
