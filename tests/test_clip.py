"""clipnotes.clip: equal to OpenAI's CLIP (golden files, open_clip, transformers), clear about bad input."""

import hashlib
import json
import math
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from clipnotes import clip, files, pins, tokenizer  # before open_clip: `import clipnotes` repairs torchvision

GOLDEN = Path(__file__).parent / "golden"
SHAPES = {
    "vit": dict(image_size=32, vision_layers=3, vision_width=64, patch_size=8, vision_heads=2),
    "resnet": dict(image_size=64, vision_layers=(2, 1, 1, 2), vision_width=8, patch_size=None),
}
SHAPES["vit-avg"] = SHAPES["vit"] | dict(pool="avg")
TEXTS = ["a photo of a dog", "dog", "two small cats on the grass, under a blue sky"]


def golden(name: str, prefix: str = "") -> tuple[dict, dict, dict]:
    """-> the inputs and outputs, the weights without `prefix`, the configuration."""
    with safe_open(GOLDEN / f"clip_{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        config = json.loads(file.metadata()["config"])
    start = "weights/" + prefix
    return tensors, {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}, config


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> bool:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item() <= tolerance * max(1.0, theirs.abs().max().item())


@torch.no_grad()
def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random numbers everywhere: a weight of zero or one, or idle batch norm, would hide a mistake."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.add_(0.2 * torch.randn_like(parameter) + (1.0 if "bn3.weight" in name else 0.0))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # a plain mean over the batches
        model.train()
        for _ in range(3):
            model.visual(torch.randn(8, 3, 64, 64))
    return model.eval()


def build(shape: str, seed: int = 0, **changes) -> clip.CLIP:
    torch.manual_seed(seed)
    text = dict(context_length=77, vocab_size=49408, text_width=64, text_layers=2, text_heads=4)
    return fill(clip.CLIP(clip.CLIPConfig(**{"embed_dim": 24, **SHAPES[shape], **text, **changes})), seed)


@pytest.fixture(scope="module", params=list(SHAPES))
def model(request) -> clip.CLIP:
    return build(request.param)


@pytest.fixture(scope="module")
def vit() -> clip.CLIP:
    return build("vit")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- the official numbers


def test_golden_vit():
    tensors, weights, c = golden("vit", "visual.")
    tower = clip.VisionTransformer(
        c["input_resolution"], c["patch_size"], c["width"], c["layers"], c["heads"], c["output_dim"])
    tower.load_state_dict(weights)
    features = tower(tensors["in/image"])
    assert close(features, tensors["out/image_features"])
    assert close(F.normalize(features, dim=-1), tensors["out/image_features_unit"])
    assert close(tower.layers(tensors["in/image"])[c["layers"] - 1], tensors["out/tokens"])


def test_quick_gelu_is_not_gelu():
    tensors, weights, c = golden("vit", "visual.")
    tower = clip.VisionTransformer(
        c["input_resolution"], c["patch_size"], c["width"], c["layers"], c["heads"], c["output_dim"])
    tower.load_state_dict(weights)
    for block in tower.transformer.resblocks:
        block.mlp.gelu = nn.GELU()
    assert not close(tower(tensors["in/image"]), tensors["out/image_features"], 1e-3)
    x = torch.linspace(-3, 3, 7)
    assert torch.allclose(clip.QuickGELU()(x), x / (1 + torch.exp(-1.702 * x)))


def test_golden_resnet():
    tensors, weights, c = golden("resnet", "visual.")
    tower = clip.ModifiedResNet(c["input_resolution"], c["layers"], c["width"], c["heads"], c["output_dim"])
    counters = {k: v for k, v in tower.state_dict().items() if k.endswith("num_batches_tracked")}
    tower.eval().load_state_dict(weights | counters)
    assert close(tower(tensors["in/image"]), tensors["out/image_features"])
    for name, activations in tower.layers(tensors["in/image"]).items():
        assert close(activations, tensors[f"out/{name}"]), name


def test_golden_text():
    tensors, weights, c = golden("text")
    config = clip.CLIPConfig(
        embed_dim=c["embed_dim"], context_length=c["context_length"], vocab_size=c["vocab_size"],
        text_width=c["transformer_width"], text_layers=c["transformer_layers"],
        text_heads=c["transformer_heads"], image_size=8, vision_layers=1, vision_width=64, patch_size=8)
    tower = clip.TextTransformer(config)
    tower.load_state_dict(weights)
    assert close(tower.encode_ids(tensors["in/text"]), tensors["out/text_features"])
    whole = clip.CLIP(config)
    whole.load_state_dict(weights, strict=False)
    assert close(whole.encode_text(tensors["in/text"]), tensors["out/text_features_unit"])


@pytest.mark.parametrize("case", "ab")
def test_golden_loss(case):
    tensors, _, _ = golden("loss")
    image_emb, text_emb = (F.normalize(tensors[f"in/{k}_features"], dim=-1) for k in ("image", "text"))
    scale = tensors[f"in/logit_scale_{case}"].exp()
    assert close(clip.clip_loss(image_emb, text_emb, scale), tensors[f"out/loss_{case}"])
    clamped = clip.clip_loss(image_emb, text_emb, scale.clamp(max=100))
    assert close(clamped, tensors[f"out/loss_clamped100_{case}"])


def test_golden_logits():
    """The forward pass with the towers short-circuited: only logits and temperature are left to be wrong."""
    tensors, _, _ = golden("loss")
    model = build("vit", embed_dim=16)
    model.encode_image = lambda images: F.normalize(images, dim=-1)
    model.encode_text = lambda texts: F.normalize(texts, dim=-1)
    for case in "ab":
        with torch.no_grad():
            model.logit_scale.copy_(tensors[f"in/logit_scale_{case}"])
        per_image, per_text = model(tensors["in/image_features"], tensors["in/text_features"])
        assert close(per_image, tensors[f"out/logits_per_image_{case}"])
        assert close(per_text, tensors[f"out/logits_per_text_{case}"])


# ---------------------------------------------------------------- open_clip and transformers


@pytest.fixture(scope="module")
def twins(model, tmp_path_factory) -> tuple[clip.CLIP, nn.Module]:
    """Ours, and open_clip's model that loads our export strictly."""
    import open_clip

    path = tmp_path_factory.mktemp("export") / "model.safetensors"
    theirs = open_clip.model.CLIP(**clip.export_open_clip(model, path))
    theirs.load_state_dict(load_file(path), strict=True)
    return model, theirs.eval()


def test_equal_to_open_clip(twins, images):
    ours, theirs = twins
    if ours.config.is_vit:
        images = images[..., :32, :32]
    ids = tokenizer.tokenize(TEXTS)
    standard = ours.standardise(images)
    with torch.no_grad():
        assert close(ours.encode_image(images, normalize=False), theirs.encode_image(standard))
        assert close(ours.encode_image(images), theirs.encode_image(standard, normalize=True))
        assert close(ours.encode_text(TEXTS, normalize=False), theirs.encode_text(ids))
        assert close(ours.encode_text(ids), theirs.encode_text(ids, normalize=True))
        per_image, per_text = ours(images, TEXTS)
        expected_per_image, expected_per_text = theirs.get_logits(standard, ids)
        assert close(per_image, expected_per_image)
        assert close(per_text, expected_per_text)
        features = theirs.encode_image(standard)
        assert (features[0] - features[1]).abs().max() > 1e-2, "nearly constant features would prove nothing"


def test_gradients_equal_to_open_clip(twins, images):
    ours, theirs = twins
    if ours.config.is_vit:
        images = images[..., :32, :32]
    from open_clip.loss import ClipLoss

    ids = tokenizer.tokenize(TEXTS)
    ours.zero_grad()
    theirs.zero_grad()
    clip.clip_loss(ours.encode_image(images), ours.encode_text(ids), ours.logit_scale.exp()).backward()
    ClipLoss()(*theirs(ours.standardise(images), ids)).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert close(parameter.grad, expected[name].grad, 1e-4), name
    assert ours.logit_scale.grad.abs() > 1e-4


def transformers_twin(ours: clip.CLIP) -> nn.Module:
    import transformers

    c = ours.config
    common = dict(hidden_act="quick_gelu", projection_dim=c.embed_dim)
    text = dict(common, hidden_size=c.text_width, intermediate_size=4 * c.text_width,
                num_hidden_layers=c.text_layers, num_attention_heads=c.text_heads, eos_token_id=49407,
                vocab_size=c.vocab_size, max_position_embeddings=c.context_length)
    vision = dict(common, hidden_size=c.vision_width, intermediate_size=4 * c.vision_width,
                  num_hidden_layers=c.vision_layers, num_attention_heads=c.vision_heads,
                  image_size=c.image_size, patch_size=c.patch_size)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=c.embed_dim)
    theirs = transformers.CLIPModel(config)

    names = {"visual.class_embedding": "vision_model.embeddings.class_embedding",
             "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
             "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
             "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
             "positional_embedding": "text_model.embeddings.position_embedding.weight",
             "logit_scale": "logit_scale"}
    state = {}
    for key, value in ours.state_dict().items():
        if key in ("visual.proj", "text_projection"):
            state["visual_projection.weight" if "visual" in key else "text_projection.weight"] = value.T
        elif key in names:
            state[names[key]] = value
        else:
            side = "vision_model" if key.startswith("visual.") else "text_model"
            key = key.removeprefix("visual.").replace("transformer.resblocks", "encoder.layers")
            for old, new in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm"), ("c_fc", "fc1"),
                             ("ln_final", "final_layer_norm"), ("ln_1", "layer_norm1"), ("c_proj", "fc2"),
                             ("ln_2", "layer_norm2"), (".attn.", ".self_attn.")):
                key = key.replace(old, new)
            if "in_proj_" in key:
                for part, piece in zip("qkv", value.chunk(3), strict=True):
                    state[f"{side}.{key.replace('in_proj_', part + '_proj.')}"] = piece
            else:
                state[f"{side}.{key}"] = value
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


@torch.no_grad()
def test_equal_to_transformers(vit, images):
    theirs, images, ids = transformers_twin(vit), images[..., :32, :32], tokenizer.tokenize(TEXTS)
    out = theirs(input_ids=ids, pixel_values=vit.standardise(images))
    assert close(vit.encode_image(images), out.image_embeds)
    assert close(vit.encode_text(TEXTS), out.text_embeds)
    per_image, per_text = vit(images, TEXTS)
    assert close(per_image, out.logits_per_image)
    assert close(per_text, out.logits_per_text)


OPENAI = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"]


@pytest.mark.parametrize("name", OPENAI)
def test_names_and_shapes_of_the_released_models(name):
    import open_clip

    with torch.device("meta"):
        ours = clip.CLIP(clip._openai_config(name))
        shape = open_clip.get_model_config(name)
        theirs = open_clip.model.CLIP(**{k: shape[k] for k in ("embed_dim", "vision_cfg", "text_cfg")})
    expected = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected
    visual = theirs.visual
    attention = visual.attnpool if "RN" in name else visual.transformer.resblocks[0].attn
    assert ours.config.vision_heads == attention.num_heads
    assert ours.config.text_heads == theirs.transformer.resblocks[0].attn.num_heads


# ---------------------------------------------------------------- the loss and training


def test_loss_by_hand():
    image_emb, text_emb = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    logits = [[5.0, 3.0], [0.0, 4.0]]  # rows are images

    def entropy(row, right):
        return math.log(sum(math.exp(x) for x in row)) - row[right]

    by_image = (entropy(logits[0], 0) + entropy(logits[1], 1)) / 2
    by_text = (entropy([5.0, 0.0], 0) + entropy([3.0, 4.0], 1)) / 2
    loss = clip.clip_loss(image_emb, text_emb, 5.0).item()
    assert loss == pytest.approx((by_image + by_text) / 2, abs=1e-6)


def test_loss_of_constant_features_is_log_n():
    same = F.normalize(torch.ones(8, 4), dim=-1)
    assert clip.clip_loss(same, same, 14.3).item() == pytest.approx(math.log(8), abs=1e-5)


def test_initial_weights():
    torch.manual_seed(0)
    model = clip.CLIP(clip.CLIPConfig(128, 64, 4, 128, 8, 32, 5000, 128, 6))
    block = model.transformer.resblocks[0]
    expected = {model.token_embedding.weight: 0.02, model.positional_embedding: 0.01,
                block.attn.in_proj_weight: 128**-0.5, block.attn.out_proj.weight: (128 * 2 * 6) ** -0.5,
                block.mlp.c_fc.weight: (2 * 128) ** -0.5, block.mlp.c_proj.weight: (128 * 2 * 6) ** -0.5,
                model.visual.transformer.resblocks[3].mlp.c_proj.weight: (128 * 2 * 4) ** -0.5,
                model.text_projection: 128**-0.5, model.visual.proj: 128**-0.5}
    for parameter, std in expected.items():
        assert parameter.std().item() == pytest.approx(std, rel=0.05)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert not block.attn.in_proj_bias.any() and not block.attn.out_proj.bias.any()
    assert not clip.Bottleneck(8, 8).bn3.weight.any()


@pytest.mark.parametrize("shape", list(SHAPES))
def test_four_pairs_are_learnt(shape):
    torch.manual_seed(0)
    text = dict(context_length=16, vocab_size=49408, text_width=64, text_layers=1)
    model = clip.CLIP(config := clip.CLIPConfig(32, **SHAPES[shape], **text))
    standard = torch.randn(4, 3, config.image_size, config.image_size)
    ids = tokenizer.tokenize(["a dog", "a cat", "the sea", "my bike"], 16)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(25):
        image_emb = F.normalize(model.visual(standard), dim=-1)
        text_emb = F.normalize(model.encode_ids(ids), dim=-1)
        loss = clip.clip_loss(image_emb, text_emb, model.logit_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * math.log(4)


def test_compiles_in_one_graph(model, images):
    images = model.standardise(images)
    visual = torch.compile(model.visual, backend="eager", fullgraph=True)
    encode_ids = torch.compile(model.encode_ids, backend="eager", fullgraph=True)
    ids = tokenizer.tokenize(TEXTS)
    assert close(visual(images), model.visual(images))
    assert close(encode_ids(ids), model.encode_ids(ids))


def test_bfloat16_autocast_is_near(model, images):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        image_emb, text_emb = model.encode_image(images), model.encode_text(TEXTS)
        patches = model.patch_features(images)
    assert image_emb.dtype == text_emb.dtype == patches.dtype == torch.float32
    with torch.no_grad():
        assert (image_emb * model.encode_image(images)).sum(-1).min() > 0.995
        assert (text_emb * model.encode_text(TEXTS)).sum(-1).min() > 0.995
        assert (patches * model.patch_features(images)).sum(-1).min() > 0.99


# ---------------------------------------------------------------- encode_image, encode_text


def test_outputs_are_float32_and_unit(model, images):
    texts = model.encode_text(TEXTS)
    pictures = model.encode_image(images.double())
    for emb in (texts, pictures):
        assert emb.shape == (3, 24) and emb.dtype == torch.float32
        assert torch.allclose(emb.norm(dim=-1), torch.ones(3), atol=1e-5)
    raw = model.encode_text(TEXTS, normalize=False)
    assert not torch.allclose(raw.norm(dim=-1), torch.ones(3), atol=1e-2)
    assert torch.allclose(F.normalize(raw, dim=-1), texts, atol=1e-6)


def test_half_precision_weights_give_float32(tmp_path, images):
    clip.save_clip(build("vit"), tmp_path / "m.safetensors", torch.arange(49408), {})
    half = clip.load_clip(tmp_path / "m.safetensors", dtype=torch.bfloat16)
    full = clip.load_clip(tmp_path / "m.safetensors")
    assert half.visual.proj.dtype == torch.bfloat16
    assert half.encode_image(images).dtype == half.encode_text("dog").dtype == torch.float32
    assert (half.encode_image(images) * full.encode_image(images)).sum(-1).min() > 0.99


def test_images_are_standardised_as_by_openai(vit):
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(vit.standardise(images), (images - mean) / std)
    expected = vit.visual(vit.standardise(images))
    assert torch.equal(vit.encode_image(images, normalize=False), expected)


def test_ids_and_texts_are_the_same(vit):
    assert torch.equal(vit.encode_text(TEXTS), vit.encode_text(tokenizer.tokenize(TEXTS)))
    assert torch.equal(vit.encode_text("dog"), vit.encode_text(["dog"]))
    assert torch.equal(vit.encode_text(TEXTS), vit.encode_text(tokenizer.tokenize(TEXTS).int()))


def test_text_does_not_depend_on_its_neighbours(vit):
    together = vit.encode_text(TEXTS)
    alone = torch.cat([vit.encode_text(text) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(together, F.normalize(vit.encode_ids(tokenizer.tokenize(TEXTS)), dim=-1), atol=1e-6)


# ---------------------------------------------------------------- any size of image


def test_positions_stay_at_the_trained_size():
    positions = torch.randn(17, 6)
    assert clip.resize_positions(positions, (4, 4)) is positions


def test_positions_equal_timms():
    from timm.layers import resample_abs_pos_embed

    positions = torch.randn(17, 6)
    expected = resample_abs_pos_embed(positions[None], (6, 3), (4, 4), antialias=False)[0]
    assert close(clip.resize_positions(positions, (6, 3)), expected)
    assert torch.equal(clip.resize_positions(positions, (6, 3))[0], positions[0])


def test_rows_stay_rows():
    """A table that knows the row alone still knows the row alone: height and width are not swapped."""
    rows = torch.arange(4.0).repeat_interleave(4)
    table = torch.cat([torch.zeros(1), rows])[:, None]
    resized = clip.resize_positions(table, (2, 8))[1:, 0].view(2, 8)
    assert torch.allclose(resized, resized[:, :1].expand(2, 8), atol=1e-5)
    assert resized[1, 0] - resized[0, 0] > 1


def test_any_multiple_of_the_patch(model):
    patch = model.visual.patch_size
    emb = model.encode_image(torch.rand(2, 3, 2 * patch, 3 * patch))
    assert emb.shape == (2, 24) and emb.isfinite().all()
    small = torch.rand(1, 3, patch, patch)
    assert model.encode_image(small).shape == (1, 24)


# ---------------------------------------------------------------- windows


def test_patch_features_shape(model):
    patch = model.visual.patch_size
    images = torch.rand(2, 3, 2 * patch, 3 * patch)
    patches = model.patch_features(images)
    assert patches.shape == (2, 2, 3, 24) and patches.dtype == torch.float32
    assert torch.allclose(patches.norm(dim=-1), torch.ones(2, 2, 3), atol=1e-5)
    raw = model.patch_features(images, normalize=False)
    assert torch.allclose(F.normalize(raw, dim=-1), patches, atol=1e-6) and not torch.allclose(raw, patches)


def test_patch_features_default_path(images):
    for shape in ("vit", "vit-avg"):
        model = build(shape)
        assert torch.equal(model.patch_features(images), model.patch_features(images, path="value"))
        assert not close(model.patch_features(images, path="tokens"), model.patch_features(images), 1e-2)


def test_mean_of_patches_is_the_image(images):
    model = build("vit-avg")
    mean = model.patch_features(images, normalize=False, path="tokens").mean((1, 2))
    assert close(mean, model.encode_image(images, normalize=False))


def test_value_path_looks_at_one_place(images):
    """With one block, another patch's change reaches a place through attention, but not by the value path."""
    model = build("vit", vision_layers=1)
    changed = images.clone()
    changed[:, :, :8, :8] = 1 - changed[:, :, :8, :8]
    for path, reached in (("value", False), ("tokens", True)):
        before, after = (model.patch_features(x, path=path) for x in (images, changed))
        difference = (before - after).abs()
        assert difference[:, 0, 0].max() > 1e-2
        assert (difference[:, 1:].max() > 1e-4) == reached


def test_value_path_is_attention_to_oneself(images):
    """The mask must leave exactly the value: out_proj(v), then the MLP, as computed by hand."""
    model = build("vit")
    visual, last = model.visual, model.visual.transformer.resblocks[-1]
    x = model.features(images, [1])[1]
    width = x.shape[-1]
    values = F.linear(last.ln_1(x), last.attn.in_proj_weight[2 * width:], last.attn.in_proj_bias[2 * width:])
    x = x + last.attn.out_proj(values)
    x = x + last.mlp(last.ln_2(x))
    expected = (visual.ln_post(x[:, 1:]) @ visual.proj).view(3, 8, 8, 24)
    assert close(model.patch_features(images, normalize=False, path="value"), expected)


@torch.no_grad()
def test_resnet_places_average_to_the_pool(images):
    """A pool that looks everywhere alike, without positions, returns the mean of what the places give."""
    model = build("resnet")
    pool = model.visual.attnpool
    for parameter in (pool.q_proj.weight, pool.q_proj.bias, pool.positional_embedding):
        parameter.zero_()
    places = model.patch_features(images, normalize=False)
    assert close(places.mean((1, 2)), model.encode_image(images, normalize=False))
    assert (places[:, 0, 0] - places[:, 1, 1]).abs().max() > 1e-2


def test_features(model, images):
    vit = model.config.is_vit
    layers = [2, 0] if vit else ["layer4", "stem"]
    found = model.features(images, layers)
    assert list(found) == layers
    if vit:
        assert all(tokens.shape == (3, 1 + 8 * 8, 64) for tokens in found.values())
        if model.config.pool == "tok":
            emb = model.visual.ln_post(found[2][:, 0]) @ model.visual.proj
    else:
        assert found["stem"].shape == (3, 8, 16, 16) and found["layer4"].shape == (3, 256, 2, 2)
        emb = model.visual.attnpool(found["layer4"])
    if model.config.pool == "tok":
        assert close(emb, model.encode_image(images, normalize=False))


def test_text_tokens(vit):
    tokens, mask = vit.text_tokens(TEXTS)
    lengths = [len(tokenizer.Tokenizer().encode(text)) + 2 for text in TEXTS]
    assert tokens.shape == (3, max(lengths), 24) and tokens.dtype == torch.float32
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == lengths
    assert torch.equal(mask, mask.cummin(1).values), "real tokens come first"
    ends = tokens[torch.arange(3), mask.sum(1) - 1]
    assert close(ends, vit.encode_text(TEXTS, normalize=False))


# ---------------------------------------------------------------- files


@pytest.fixture
def saved(tmp_path) -> tuple[clip.CLIP, Path]:
    """A model in a file that keeps the tokens of two sentences."""
    model, path = build("vit-avg"), tmp_path / "small.safetensors"
    ids = tokenizer.tokenize(["a photo of a dog", "two cats"])
    clip.save_clip(model, path, ids[ids > 0], {"steps": 7})
    return model, path


def test_round_trip(saved, images):
    model, path = saved
    loaded = clip.load_clip(path)
    assert loaded.config == model.config and loaded.card == {"steps": 7} and not loaded.training
    for key, value in loaded.state_dict().items():
        if key != "token_embedding.weight":
            assert torch.equal(value, model.state_dict()[key].half().float()), key
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the padding behind "two cats" is no word
        text_emb = loaded.encode_text(["a photo of a dog", "two cats"])
    assert close(text_emb, model.encode_text(["a photo of a dog", "two cats"]), 1e-2)
    assert close(loaded.encode_image(images), model.encode_image(images), 1e-2)
    assert path.stat().st_size < 1e6, "only the trained rows are stored"
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file stays"
    (path.parent / "plain").touch()
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode, "others may read what they may"


def test_resnet_round_trip(tmp_path, images):
    model = build("resnet")
    clip.save_clip(model, tmp_path / "rn.safetensors", torch.tensor([49406, 49407]), {})
    loaded = clip.load_clip(tmp_path / "rn.safetensors")
    assert loaded.config.vision_layers == (2, 1, 1, 2)
    assert torch.equal(loaded.visual.bn1.num_batches_tracked, model.visual.bn1.num_batches_tracked)
    assert close(loaded.encode_image(images), model.encode_image(images), 2e-2)


def test_untrained_words_are_named(saved):
    loaded = clip.load_clip(saved[1])
    with pytest.warns(clip.UntrainedTokenWarning, match=r"these words in training: zebra, okapis\.") as seen:
        loaded.encode_text(["a photo of a zebra", "two okapis"])
    assert seen[0].filename == __file__, "the warning points to the reader's line"
    rows = loaded.token_embedding.weight
    zebra, piano = (tokenizer.Tokenizer().encode(word)[0] for word in ("zebra", "piano"))
    assert torch.equal(rows[zebra], rows[piano])
    assert torch.allclose(rows[zebra], rows[loaded.trained_tokens].mean(0), atol=1e-6)


def test_exported_after_loading_is_equal_in_open_clip(saved, tmp_path, images):
    import open_clip

    loaded = clip.load_clip(saved[1])
    theirs = open_clip.model.CLIP(**clip.export_open_clip(loaded, tmp_path / "full.safetensors")).eval()
    theirs.load_state_dict(load_file(tmp_path / "full.safetensors"), strict=True)
    images = images[..., :32, :32]
    expected = theirs.encode_image(loaded.standardise(images))
    assert close(loaded.encode_image(images, normalize=False), expected)
    ids = tokenizer.tokenize("a photo of a dog")
    assert close(loaded.encode_text(ids, normalize=False), theirs.encode_text(ids))


def test_damaged_files_are_refused(saved, tmp_path):
    path, data = saved[1], saved[1].read_bytes()
    flipped = bytearray(data)
    flipped[-100] ^= 1
    for damage in (b"", data[:1000], data[:-10], bytes(flipped), b"not a file of weights at all"):
        path.write_bytes(damage)
        with pytest.raises(RuntimeError, match="small.safetensors is damaged: install the package again"):
            clip.load_clip(path)


def test_other_files_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors does not hold weights of the kind 'clip': .*load_clip"):
        clip.load_clip(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        clip.load_clip(tmp_path / "none.safetensors")


def test_another_toy_world_is_refused(tmp_path, monkeypatch):
    import clipnotes

    world = types.SimpleNamespace(VERSION=3, generator_hash=lambda: "abc")
    monkeypatch.setattr(clipnotes, "toyworld", world, raising=False)
    monkeypatch.setitem(sys.modules, "clipnotes.toyworld", world)
    path, ids = tmp_path / "toy.safetensors", torch.tensor([1])
    clip.save_clip(build("vit"), path, ids, {"toyworld_version": 3, "generator_hash": "abc"})
    assert clip.load_clip(path).card["generator_hash"] == "abc"
    for version, code in ((2, "abc"), (3, "x")):
        clip.save_clip(build("vit"), path, ids, {"toyworld_version": version, "generator_hash": code})
        with pytest.raises(RuntimeError, match="was trained with .* but the toy world here has"):
            clip.load_clip(path)


def test_a_broken_write_leaves_the_old_file(saved, monkeypatch):
    model, path = saved
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        clip.save_clip(model, path, torch.tensor([1]), {})
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


# ---------------------------------------------------------------- load_clip by name


def test_unknown_name():
    with pytest.raises(ValueError, match=r"no CLIP 'ViT-Q-7'\. Shipped: .*; through open_clip: .*'ViT-B-32'.*\]\.$"):
        clip.load_clip("ViT-Q-7")
    with pytest.raises(ValueError, match=r"no CLIP 'mine/RN50.pt'.*load_clip\(\"RN50\", file\)"):
        clip.load_clip("mine/RN50.pt")


@pytest.fixture
def small_rn50(monkeypatch, tmp_path) -> tuple[nn.Module, Path, list]:
    """open_clip's "RN50", made small, with a checkpoint as the hub would send it, and the fetches made.

    The commit is pinned as if in the code; `PINS` is a file of the test's own.
    """
    import huggingface_hub
    import open_clip

    ours, path = build("resnet"), tmp_path / "open_clip_model.safetensors"
    shape = clip.export_open_clip(ours, tmp_path / "export.safetensors")
    shape["vision_cfg"]["patch_size"] = None
    theirs = open_clip.model.CLIP(**shape).eval()
    theirs.load_state_dict(ours.state_dict())
    save_file(theirs.half().state_dict(), path)
    fetched = []
    repository = "timm/resnet50_clip.openai"
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: shape)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download",
                        lambda *a, **k: fetched.append((*a, k["revision"])) or str(path))
    monkeypatch.setattr(pins, "PINS", tmp_path / "pins.json")
    monkeypatch.setitem(clip.PINNED, repository, ("a" * 40, hashlib.sha256(path.read_bytes()).hexdigest()))
    return theirs.float(), path, fetched


def test_open_clip_names(small_rn50, images):
    theirs, path, fetched = small_rn50
    for pretrained in ("openai", path):
        model = clip.load_clip("RN50", pretrained)
        expected = theirs.encode_image(model.standardise(images))
        assert close(model.encode_image(images, normalize=False), expected)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert model.card == {"name": "RN50", "pretrained": str(pretrained), "sha256": sha256}
        assert not model.training
    assert fetched == [("timm/resnet50_clip.openai", path.name, "a" * 40)], "a pinned commit; a file is not fetched"
    random = clip.load_clip("RN50", pretrained=None)
    assert random.config == model.config and "random" in random.card["pretrained"]
    assert not close(random.visual.conv1.weight, model.visual.conv1.weight, 1e-2)


def test_pins_are_whole_digests_of_open_clips_copies():
    import open_clip

    copies = {open_clip.get_pretrained_cfg(name, "openai")["hf_hub"].rstrip("/") for name in OPENAI}
    assert clip.PINNED.keys() <= copies
    for commit, sha256 in clip.PINNED.values():
        assert re.fullmatch("[0-9a-f]{40}", commit) and re.fullmatch("[0-9a-f]{64}", sha256)


def test_other_weights_than_the_pinned_are_refused(small_rn50):
    path = small_rn50[1]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RuntimeError, match=f"{path.name} of timm/.* is not what was published .*: delete {path}, and"):
        clip.load_clip("RN50")
    assert not pins.PINS.exists(), "what the code pins needs no other pin"


def test_releases_of_open_clip_are_checked_by_the_digest_in_their_names(small_rn50, monkeypatch):
    import open_clip

    asked = []

    def download(config, prefer_hf_hub):
        asked.append((config["hf_hub"], prefer_hf_hub))
        return str(small_rn50[1])

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    clip.load_clip("RN50", "yfcc15m")
    assert asked == [("timm/resnet50_clip.yfcc15m/", False)]


def test_weights_without_a_pin_get_one_at_first_use(small_rn50, monkeypatch):
    import huggingface_hub
    import open_clip

    repository, path = "timm/resnet50_clip.openai", small_rn50[1]
    newest, asked = ["b" * 40], []
    monkeypatch.delitem(clip.PINNED, repository)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info",
                        lambda self, repository, repo_type: SimpleNamespace(sha=newest.pop()))
    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download",
                        lambda **k: asked.append((k["repo_id"], k["filename"], k["revision"])) or str(path))
    for _ in range(2):
        clip.load_clip("RN50")
    assert asked == [(repository, path.name, "b" * 40)] * 2 and not newest
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RuntimeError, match=f"not what was first fetched .*: delete {path}, .*its entry in .*pins.json"):
        clip.load_clip("RN50")
    pins.PINS.write_text("half", "utf-8")
    with pytest.raises(RuntimeError, match="^[^ ]*pins.json is damaged: delete it"):
        clip.load_clip("RN50")


def test_loading_is_strict(small_rn50):
    state = load_file(small_rn50[1])
    del state["visual.attnpool.c_proj.bias"]
    save_file(state, small_rn50[1])
    with pytest.raises(RuntimeError, match=r"1 missing \(visual.attnpool.c_proj.bias\)\.$"):
        clip.load_clip("RN50", small_rn50[1])


def test_weights_of_exact_gelu_are_refused(small_rn50):
    with pytest.raises(ValueError, match="RN50 has no weights 'tag' trained with QuickGELU, .*'openai'"):
        clip.load_clip("RN50", "tag")
    with pytest.raises(ValueError, match="'laion2b_s34b_b79k' trained with QuickGELU, .*'openai'") as refusal:
        clip._fetch("ViT-B-32", "laion2b_s34b_b79k")
    assert str(refusal.value).count("laion2b") == 1, "it is not among those that work"


@pytest.mark.parametrize("pretrained", ["nowhere.pt", "nowhere/weights", Path("nowhere")])
def test_a_path_without_a_file(small_rn50, pretrained):
    with pytest.raises(FileNotFoundError, match=f"There is no file {pretrained}"):
        clip.load_clip("RN50", pretrained)


def test_no_network(small_rn50, monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(RuntimeError, match=r"'openai' of RN50 could not be fetched \(ConnectionError: no route"):
        clip.load_clip("RN50")


# ---------------------------------------------------------------- bad input


BAD_IMAGES = {
    "bytes": (torch.zeros(1, 3, 8, 8).byte(), "float tensor, .*not torch.uint8: divide bytes by 255"),
    "an array": ([[0.0]], "float tensor, .* not list"),
    "one image": (torch.zeros(3, 32, 32), r"shape Bx3xHxW, not \(3, 32, 32\): a single .* images\[None\]"),
    "grey": (torch.zeros(1, 1, 32, 32), r"shape Bx3xHxW, not \(1, 1, 32, 32\)"),
    "channels last": (torch.zeros(1, 32, 32, 3), r"shape Bx3xHxW, not \(1, 32, 32, 3\)"),
    "none": (torch.zeros(0, 3, 32, 32), r"shape Bx3xHxW, not \(0, 3, 32, 32\)"),
    "odd": (torch.zeros(1, 3, 30, 32), "multiples of 8, not 30x32: for 30 take 24 or 32"),
    "tiny": (torch.zeros(1, 3, 3, 3), "multiples of 8, not 3x3: for 3 take 8"),
    "0 to 255": (torch.full((1, 3, 32, 32), 255.0), r"lie in \[0, 1\], not in \[255, 255\]"),
    "standardised": (torch.linspace(-2, 2, 3072).view(1, 3, 32, 32), r"not in \[-2, 2\]; do not standardise"),
    "nan": (torch.full((1, 3, 32, 32), torch.nan), r"not in \[nan, nan\]"),
}


@pytest.mark.parametrize("case", list(BAD_IMAGES))
@pytest.mark.parametrize("method", ["encode_image", "patch_features", "features"])
def test_bad_images(vit, case, method):
    images, message = BAD_IMAGES[case]
    arguments = ([0],) if method == "features" else ()
    with pytest.raises(ValueError, match=message):
        getattr(vit, method)(images, *arguments)


def test_rounding_is_no_bad_image(vit):
    vit.encode_image(torch.full((1, 3, 32, 32), 1.0005))


def test_resnet_names_its_sizes():
    with pytest.raises(ValueError, match="multiples of 32, not 64x80: for 80 take 64 or 96"):
        build("resnet").encode_image(torch.zeros(1, 3, 64, 80))


BAD_TEXTS = {
    "no texts": ([], "No texts: give a string, a list of strings that is not empty, or ids NxT"),
    "numbers": ([3, 4], "Texts are strings, not int"),
    "too long": (["ok", "a dog " * 50], r"'a dog a dog .*\.\.\.' has 102 tokens, the limit is 77: shorten"),
    "float ids": (torch.zeros(1, 4), r"whole numbers NxT with T from 1 to 77, not torch.float32 \(1, 4\)"),
    "one row": (torch.zeros(4, dtype=torch.long), r"whole numbers NxT .* not torch.int64 \(4,\)"),
    "long rows": (torch.zeros(1, 78, dtype=torch.long), r"from 1 to 77, not torch.int64 \(1, 78\)"),
    "no rows": (torch.zeros(0, 77, dtype=torch.long), "No texts"),
    "other vocabulary": (torch.tensor([[1, 49408]]), r"Ids lie in \[0, 49407\], not in \[1, 49408\]"),
    "negative": (torch.tensor([[-1, 49407]]), r"Ids lie in \[0, 49407\], not in \[-1, 49407\]"),
}


@pytest.mark.parametrize("case", list(BAD_TEXTS))
@pytest.mark.parametrize("method", ["encode_text", "text_tokens"])
def test_bad_texts(vit, case, method):
    texts, message = BAD_TEXTS[case]
    with pytest.raises(ValueError, match=message):
        getattr(vit, method)(texts)


def test_unknown_layer_path_and_pool(model, images):
    with pytest.raises(ValueError, match=r"no layer 'layer9': this image tower has \[(0, 1, 2|'stem', )"):
        model.features(images, ["layer9"])
    with pytest.raises(ValueError, match=r"Layers are a list: write \['layer4'\]"):
        model.features(images, "layer4")
    with pytest.raises(ValueError, match='path is "tokens" or "value" for a ViT, None for a ResNet, not'):
        model.patch_features(images, path="values" if model.config.is_vit else "value")
    with pytest.raises(ValueError, match='pool is "tok" or "avg", not'):
        build("vit", pool="max")


def test_needs_torch_numpy_and_safetensors_alone():
    """A machine that only trains has neither open_clip nor ftfy."""
    code = """
import sys
for name in ("open_clip", "transformers", "ftfy", "regex", "matplotlib", "datasets", "timm"):
    sys.modules[name] = None  # an import of it fails
from clipnotes import clip
model = clip.CLIP(clip.CLIPConfig(8, 16, 1, 64, 8, 16, 49408, 64, 1))
print(tuple(model.encode_text(["a photo of a dog", "it's black & white"]).shape))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "(2, 8)", run.stderr
