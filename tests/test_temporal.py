"""Films as sequences: masks, encoding, order, padding, positions."""

import pytest
import torch
from torch import nn

from clipnotes import temporal
from clipnotes.clip import load_clip
from clipnotes.toyworld import films


@pytest.fixture(scope="module")
def clip():
    return load_clip("tiny").requires_grad_(False)


@pytest.fixture(scope="module")
def batch():
    return films.films(5, 3, frames=(2, 5))


@pytest.mark.parametrize(("mask", "words"), [
    (torch.tensor([[1, 1, 0], [0, 0, 0]]), "all padding"), (torch.tensor([[1, 0, 1], [1, 1, 1]]), "ones, then zeros"),
    (torch.tensor([[2, 1, 0], [1, 1, 1]]), "ones, then zeros"), (torch.ones(2, 4), "one number a frame"),
    (torch.ones(0, 3), "one number a frame"),
])
def test_bad_masks_are_refused(mask, words):
    with pytest.raises(ValueError, match=words):
        temporal.check_mask(mask, (2, 3, 7))


def test_only_real_frames_are_encoded(clip, batch):
    found = temporal.encode_films(clip, batch["frames"], batch["mask"], chunk=3)
    assert found.shape == (5, 5, 128) and (found[batch["mask"] == 0] == 0).all()
    for film, vectors, n in zip(batch["frames"], found, batch["mask"].sum(1).tolist(), strict=True):
        assert torch.allclose(vectors[:n], clip.encode_image(film[:n], normalize=False), atol=1e-5)
    with pytest.raises(ValueError, match=r"frames\[None\]"):
        temporal.encode_films(clip, batch["frames"][0], batch["mask"][0])


def test_gradients_flow_through_encoding(batch):
    model = load_clip("tiny")
    temporal.encode_films(model, batch["frames"][:1], batch["mask"][:1]).square().sum().backward()
    assert model.visual.conv1.weight.grad.abs().sum() > 0


def test_backwards_is_the_reversed_film(batch):
    assert torch.equal(temporal.backwards(batch["frames"], batch["mask"]), films.reverse(batch)["frames"])
    x = torch.randn(5, 5, 4, 8)
    assert torch.equal(temporal.backwards(temporal.backwards(x, batch["mask"]), batch["mask"]), x)
    assert torch.equal(temporal.backwards(x[:, :1], torch.ones(5, 1)), x[:, :1])  # a film of one frame


def test_mean_ignores_order_and_padding_to_the_bit():
    torch.manual_seed(0)
    x, mask = torch.randn(40, 7, 16), (torch.arange(7) < torch.randint(1, 8, (40, 1))).long()
    mean = temporal.mean_over_frames(x, mask)
    assert torch.equal(mean, temporal.mean_over_frames(temporal.backwards(x, mask), mask))
    assert torch.equal(mean, temporal.mean_over_frames(torch.where(mask[..., None] > 0, x, 99.0), mask))
    n = int(mask[0].sum())
    assert torch.allclose(mean[0], x[0, :n].mean(0), atol=1e-6)


def test_nothing_looks_at_padding():
    torch.manual_seed(0)
    blocks, x = temporal.frame_transformer(16, 2, 2), torch.randn(2, 5, 16)
    mask = torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])
    other = torch.where(mask[..., None] > 0, x, torch.randn(2, 5, 16))
    one, two = (blocks(v, temporal.padding_mask(mask)) for v in (x, other))
    assert torch.allclose(one[1, :2], two[1, :2], atol=1e-6) and torch.allclose(one[0], two[0], atol=1e-6)
    assert not torch.allclose(blocks(x)[1, :2], blocks(other)[1, :2], atol=1e-3)
    assert {m.eps for m in blocks.modules() if isinstance(m, nn.LayerNorm)} == {1e-12}


def test_positions_run_out_clearly():
    table = nn.Embedding(4, 8)
    assert torch.equal(temporal.frame_positions(table, torch.zeros(1, 3, 8)), table.weight[:3])
    with pytest.raises(ValueError, match="5 tokens in time and 4 positions"):
        temporal.frame_positions(table, torch.zeros(1, 5, 8))


def test_start_from_text(clip):
    blocks, positions = temporal.frame_transformer(128, 4, 2), nn.Embedding(50, 128)
    fresh = positions.weight[40:].clone()
    temporal.start_from_text(clip, blocks, positions)
    assert torch.equal(positions.weight[:40], clip.positional_embedding) and torch.equal(positions.weight[40:], fresh)
    theirs = clip.transformer.resblocks[2].mlp.c_fc.weight
    assert torch.equal(blocks.resblocks[2].mlp.c_fc.weight, theirs)
    with pytest.raises(ValueError, match="128 wide, the frames are 64"):
        temporal.start_from_text(clip, temporal.frame_transformer(64, 1, 2), nn.Embedding(8, 64))
