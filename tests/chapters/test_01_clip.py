"""Chapter 1's own code, from the notebook: equal to the release, right gradients, `full` mode on stand-ins."""

import types

import pytest
import torch
import torch.nn.functional as F

from clipnotes import check, toyworld  # before open_clip: `import clipnotes` repairs torchvision
from clipnotes.clip import CLIPConfig, load_clip
from notebooks import ROOT, code_cells, defined, read

NOTEBOOK = ROOT / "chapters" / "01_clip.ipynb"


def cells() -> dict:
    return {cell.id: cell.source for cell in code_cells(read(NOTEBOOK))}


@pytest.fixture(scope="module")
def chapter() -> types.SimpleNamespace:
    return defined(NOTEBOOK)


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("name, built", [
    ("clip.vit", "VisionTransformer"), ("clip.resnet", "ModifiedResNet"), ("clip.text", "TextTransformer"),
    ("clip.text", "DualEncoder"), ("clip.loss", "clip_loss"),
])
def test_parity_with_the_release(chapter, name, built):
    assert check.parity(name, getattr(chapter, built)) <= 1e-5


def test_merges_spell_the_release_s_tokens(chapter):
    tokenizer = chapter.Tokenizer()
    for word in ("lower", "photo", "zorgle", "a", "unbelievable"):
        letters = [*word[:-1], word[-1] + "</w>"]
        ids = [tokenizer.ids[part] for part in chapter.merge(letters, tokenizer.ranks)]
        assert ids == tokenizer.encode(word)


def test_loss_has_the_gradient_of_its_definition(chapter):
    image_emb, text_emb = unit(4, 3, 0).requires_grad_(), unit(4, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, v: chapter.clip_loss(u, v, 14.3), (image_emb, text_emb))
    logits = 14.3 * image_emb @ text_emb.T
    slow = -(logits.log_softmax(0).diagonal() + logits.log_softmax(1).diagonal()).mean() / 2
    fast = torch.autograd.grad(chapter.clip_loss(image_emb, text_emb, 14.3), (image_emb, text_emb))
    for ours, theirs in zip(fast, torch.autograd.grad(slow, (image_emb, text_emb)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_loss_guesses_at_ln_n_and_is_symmetric(chapter):
    image_emb, text_emb = unit(16, 8, 2), unit(16, 8, 3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(4))
    loss = chapter.clip_loss(image_emb, text_emb, 10.0)
    assert torch.isclose(chapter.clip_loss(image_emb, text_emb, 0.0), torch.tensor(16.0).log().double())
    assert torch.isclose(loss, chapter.clip_loss(text_emb, image_emb, 10.0))
    assert torch.isclose(loss, chapter.clip_loss(image_emb[order], text_emb[order], 10.0))
    naive = chapter.clip_loss_naive(image_emb.float(), text_emb.float(), 10.0)
    assert torch.isclose(loss.float(), naive, atol=1e-5)


@pytest.mark.parametrize("layers, patch", [(2, 8), ((1, 1, 1, 1), None)])
def test_every_weight_of_the_dual_encoder_gets_a_gradient(chapter, layers, patch):
    torch.manual_seed(0)
    size = 32 if patch else 64
    model = chapter.DualEncoder(CLIPConfig(16, size, layers, 16, patch, 16, 49408, 64, 1)).train()
    for name, parameter in model.named_parameters():
        if "bn3.weight" in name:  # zero at the start: it would hide what lies before it
            torch.nn.init.ones_(parameter)
    batch = toyworld.singles(8, 1, size)
    logits, _ = model(batch["images"], batch["captions"])
    F.cross_entropy(logits, torch.arange(8)).backward()
    silent = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    unused = {"visual.class_embedding"} if model.config.pool == "avg" else set()
    biases = {k for k in silent if k.endswith("k_proj.bias")}  # adds the same to all scores: no gradient
    assert set(silent) <= unused | biases


def test_fit_looks_on_and_keeps_the_factor_below_100(chapter):
    data, steps = toyworld.singles(80, 0, 32), []

    def watch(step, model):
        steps.append(step)
        if step == 3:
            model.logit_scale.data.fill_(6.0)  # a factor of 403

    model, losses = chapter.fit(data["images"], data["captions"], steps=4, group=16, watch=watch)
    assert steps == [0, 1, 2, 3] and len(losses) == 4 and not model.training
    assert torch.isclose(model.logit_scale.exp(), torch.tensor(100.0))
    assert 2 < losses[0] < 5  # ln 16, and a little for the factor of an untrained model


def test_your_photo_answers_with_probabilities(chapter):
    chapter.space["session"].mode = "full"
    try:
        torch.manual_seed(0)
        real = chapter.DualEncoder(CLIPConfig(16, 64, 1, 64, 16, 77, 49408, 64, 1)).eval()
        probs = chapter.word_probs(real, chapter.hub.photo("cat"), ["cat", "dog", "rocket"])
    finally:
        chapter.space["session"].mode = "tiny"
    assert probs.shape == (3,) and torch.isclose(probs.sum(), torch.tensor(1.0))


def test_full_mode_reads_a_real_set(chapter, monkeypatch):
    """The cell of the small set, in `full` mode, on a local stand-in with the columns of CIFAR-10."""
    from datasets import ClassLabel

    from clipnotes import hub

    names = ["cat", "dog", "car", "pizza"]
    batch = toyworld.singles(60, 5, names=names)
    batch["labels"] = (batch["labels"][:, None] == toyworld.name_indices(names)).float().argmax(1)
    stand_in = toyworld.as_dataset(batch).cast_column("label", ClassLabel(names=names))
    asked = []
    monkeypatch.setattr(hub, "load", lambda name, limit: asked.append((name, limit)) or stand_in)
    session = types.SimpleNamespace(mode="full", device="cpu", seed=0)
    exec(cells()["small-set-run"], chapter.space | {"session": session, "real": load_clip("tiny")})
    assert asked == [("cifar10", 1000)]


@pytest.mark.slow
def test_full_mode_loads_the_released_weights_strictly(chapter, monkeypatch, capsys):
    """The cell itself, on open_clip's ViT-B/32 of random weights: official names and shapes, equal features."""
    import open_clip

    create, asked = open_clip.create_model, []

    def stand_in(name, pretrained, **options):
        asked.append((name, pretrained))
        torch.manual_seed(0)
        return create(name, pretrained=None, **options)

    monkeypatch.setattr(open_clip, "create_model", stand_in)
    session = types.SimpleNamespace(mode="full", device="cpu", seed=0)
    space = chapter.space | {"session": session, "tiny": load_clip("tiny")}
    exec(cells()["released-shapes-check"], space)
    exec(cells()["released-weights-run"], space)
    assert asked == [("ViT-B-32", "openai")]
    shown = capsys.readouterr().out
    assert "302 tensors" in shown
    assert isinstance(space["real"], chapter.DualEncoder) and "sha256 of the weights: " in shown
