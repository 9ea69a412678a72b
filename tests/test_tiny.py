"""The shipped tiny CLIP: what the book says of it holds, and open_clip agrees with it."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from clipnotes import clip, grammar, toyworld
from notebooks import ROOT
from recordings.tiny import evaluate, probe, sprites
from recordings.tiny.train import chosen_names


@pytest.fixture(scope="module")
def tiny():
    return clip.load_clip("tiny")


@pytest.fixture(scope="module", params=["tiny", "tiny-rn"])
def shipped(request):
    """Each of the two models that ship, with what the probe found."""
    return clip.load_clip(request.param), probe.stored(probe.RECORDS[request.param])


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


def test_the_probe_found_it_in_these_models(shipped):
    """The stored figures are measured again on fewer pictures: they must agree within sampling error."""
    model, found = shipped
    names = chosen_names(None)
    again = evaluate.naming(model, names, n=250, floor=False)
    for style, row in found[f"Names, {len(names)} candidates"].items():
        assert abs(again[style]["top1"] - row["top1"]) < 0.12, style


def test_the_page_shows_what_is_stored():
    """A figure that was changed on the page, or in a record, is found."""
    assert probe.PAGE.read_text("utf-8") == probe.markdown(), "run: python recordings/tiny/probe.py --page"


def test_what_is_stored_stays_beside_what_is_new(tmp_path):
    probe.store(tmp_path / "a.json", {"one": {"row": {"top1": 0.1234567891}}})
    probe.store(tmp_path / "a.json", {"two": {"n": 3}})
    assert probe.stored(tmp_path / "a.json") == {"one": {"row": {"top1": 0.123457}}, "two": {"n": 3}}
    assert probe.stored(tmp_path / "none.json") == {}


def test_what_it_knows_beats_its_controls(shipped):
    found = shipped[1]
    names = next(rows for head, rows in found.items() if head.startswith("Names"))
    for style, row in names.items():
        assert row["top1"] > 2 * row["pixels_top1"] and row["top5"] > row["pixels_top5"], style
    assert all(row["text for image R@5"] > 10 * row["chance"] for row in found["Retrieval"].values())
    know = found["Attributes"]
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
    rows = evaluate.naming(nothing, chosen_names(60), n=200, floor=False)
    assert all(row["top1"] < 0.1 for row in rows.values())
    found = probe.patches(nothing, n=40)
    assert all(abs(row["hit"] - row["absent_name"]) < 0.35 for row in found.values())
    forms = probe.forms(nothing, n=40, names=chosen_names(60))
    assert set(forms) == {"silhouette", "outline", "edges", "solids"}


def test_short_runs_decided_the_pooling():
    """Names do not tell the class token from the mean over patches; the patches do."""
    runs = probe.stored(probe.SHORT).values()
    mean = [r for r in runs if r["pool"] == "avg"]
    token = [r for r in runs if r["pool"] == "tok"]
    assert len({r["seed"] for r in mean}) == 3 and len(token) == 1
    assert len({(r["pictures"], r["names"]) for r in runs}) == 1, "equal budgets"
    assert all(r["patch_value"] > r["absent_name"] + 0.1 for r in mean)
    assert all(r["patch_value"] < r["absent_name"] + 0.1 for r in token)


def test_the_sheets_are_those_of_the_table():
    """What ships was drawn from the table of concepts and packages that the program holds."""
    facts = json.loads((sprites.DATA / "sprites.json").read_text("utf-8"))
    drawn = [(c["name"], c["category"], c["split"]) for c in facts["concepts"]]
    assert drawn == [(c["name"], c["category"], c["split"]) for c in sprites.parse_concepts()]
    packs = {style: (f["package"], f["version"], f["licence"], f["by"]) for style, f in facts["styles"].items()}
    assert packs == sprites.STYLES


@pytest.mark.parametrize(("program", "words", "said"), [
    ("probe", ("--page", "other"), "--page is for the models that ship: tiny, tiny-rn"),
    ("sprites", (), "name the folder node_modules"),
])
def test_the_programs_run_from_anywhere(program, words, said, tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "recordings" / "tiny" / f"{program}.py"), *words], cwd=tmp_path,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and said in done.stderr
