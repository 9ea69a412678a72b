"""The shipped tiny CLIP: what the book says of it holds, and open_clip agrees with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipnotes import clip, grammar, toyworld
from tools import eval_clip, probe_clip

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny():
    return clip.load_clip("tiny")


@pytest.fixture(scope="module", params=["tiny", "tiny-rn"])
def shipped(request):
    """Each of the two models that ship, with what the probe found."""
    return clip.load_clip(request.param), json.loads(probe_clip.RECORDS[request.param].read_text())


def test_card_tells_how_it_was_made(shipped):
    card = shipped[0].card
    assert card["toyworld_version"] == toyworld.VERSION and card["generator_hash"] == toyworld.generator_hash()
    assert card["images"] >= 500_000 and card["seed"] == 0 and card["minutes"] > 0
    losses = [row[1] for row in card["curve"]]
    assert losses[0] > 1.5 * losses[-1], "the curve over pictures seen is in the card"


def test_image_towers_are_small_and_of_two_kinds(tiny):
    other = clip.load_clip("tiny-rn")
    assert tiny.config.is_vit and sum(p.numel() for p in tiny.visual.parameters()) <= 1_500_000
    assert not other.config.is_vit and sum(p.numel() for p in other.visual.parameters()) <= 1_500_000
    assert other.config.image_size == 128 and other.encode_image(torch.rand(2, 3, 128, 128)).shape == (2, 128)


def test_open_clip_gives_the_same_embeddings(shipped, tmp_path):
    import open_clip

    tiny = shipped[0]
    config = clip.export_open_clip(tiny, tmp_path / "full.safetensors")
    other = open_clip.model.CLIP(**config).eval()
    other.load_state_dict(load_file(tmp_path / "full.safetensors"))
    images = toyworld.singles(8, seed=1, size=tiny.config.image_size)["images"]
    ids = clip.tokenize(toyworld.scenes(8, seed=1)["captions"], tiny.config.context_length)
    with torch.no_grad():
        torch.testing.assert_close(other.encode_image(tiny.standardise(images), normalize=True),
                                   tiny.encode_image(images), atol=1e-5, rtol=0)
        torch.testing.assert_close(other.encode_text(ids, normalize=True), tiny.encode_text(ids), atol=1e-5, rtol=0)


def test_every_prompt_of_the_course_is_known(shipped, recwarn):
    for prompts in grammar.PROMPTS.values():
        shipped[0].encode_text(list(prompts))
    assert not [w for w in recwarn if issubclass(w.category, clip.UntrainedTokenWarning)]


def test_probe_page_is_of_these_models(shipped):
    """The stored figures are measured again on fewer pictures: they must agree within sampling error."""
    model, probe = shipped
    names = eval_clip.pool_names(None)
    again = eval_clip.naming(model, names, n=250, floor=False)
    for style, row in probe[f"Names, {len(names)} candidates"].items():
        assert abs(again[style]["top1"] - row["top1"]) < 0.12, style
    assert f"{model.card['images']:,} pictures" in (ROOT / "book" / "probe.md").read_text()


def test_what_it_knows_beats_its_controls(shipped):
    probe = shipped[1]
    names = next(rows for head, rows in probe.items() if head.startswith("Names"))
    for style, row in names.items():
        assert row["top1"] > 2 * row["pixels_top1"] and row["top5"] > row["pixels_top5"], style
    assert all(row["text for image R@5"] > 10 * row["chance"] for row in probe["Retrieval"].values())
    know = probe["Attributes"]
    assert know["category"]["top1"] > know["category"]["majority"] + 0.1
    assert know["colour"]["top1"] > 3 * know["colour"]["chance"]
    assert know["count"]["top1"] > 1.5 * know["count"]["chance"]
    assert know["small crops"]["top1"] > 0.5
    assert know["distance"]["spearman"] > 0.4


def test_probe_programs_run_on_any_candidate():
    """A model that knows nothing is at chance: the probe invents nothing."""
    torch.manual_seed(0)
    config = clip.CLIPConfig(128, 64, 1, 128, 8, 40, 49408, 128, 1, pool="avg")
    nothing = clip.CLIP(config).eval()
    rows = eval_clip.naming(nothing, eval_clip.pool_names(60), n=200, floor=False)
    assert all(row["top1"] < 0.1 for row in rows.values())
    found = probe_clip.patches(nothing, n=40)
    assert all(abs(row["hit"] - row["absent_name"]) < 0.35 for row in found.values())
    forms = probe_clip.forms(nothing, n=40, names=eval_clip.pool_names(60))
    assert set(forms) == {"silhouette", "outline", "edges", "solids"}


def test_short_runs_decided_the_pooling():
    """Names do not tell the class token from the mean over patches; the patches do."""
    runs = json.loads((ROOT / "book" / "records" / "short_runs.json").read_text()).values()
    mean = [r for r in runs if r["pool"] == "avg"]
    token = [r for r in runs if r["pool"] == "tok"]
    assert len({r["seed"] for r in mean}) == 3 and len(token) == 1
    assert len({(r["pictures"], r["names"]) for r in runs}) == 1, "equal budgets"
    assert all(r["patch_value"] > r["absent_name"] + 0.1 for r in mean)
    assert all(r["patch_value"] < r["absent_name"] + 0.1 for r in token)
