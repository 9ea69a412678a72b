"""Claims, parity, self-checks, quizzes and cards: each accepts what is right and refuses what is wrong."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clipnotes.clip as library
from clipnotes import check, lseg
from clipnotes.tokenizer import Tokenizer

# ---------------------------------------------------------------- claims


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPNOTES_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("CLIPNOTES_SEED", "2")
    return tmp_path / "records"


@pytest.fixture(autouse=True)
def no_records(monkeypatch):
    monkeypatch.delenv("CLIPNOTES_RECORDS", raising=False)


def test_a_claim_that_holds_prints_one_line(capsys):
    check.claim(
        "01.loss", torch.tensor(2.3141), high=4.16, kind="live", baseline=4.16, lower_is_better=True, n=64
    )
    assert capsys.readouterr().out == "claim 01.loss: 2.31 (at most 4.16; baseline 4.16; n 64) · holds\n"


def test_a_null_result_says_so(capsys):
    check.claim("01.tie", 0.5, 0.4, 0.6, kind="shipped", baseline=0.55, paper="+3.5", null=True)
    assert "from 0.4 to 0.6; baseline 0.55; paper +3.5) · null result" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "options", "reason"),
    [
        (0.3, dict(low=0.4), "at least 0.4"),
        (0.7, dict(high=0.4), "at most 0.4"),
        (0.7, dict(low=0.1, high=0.4), "from 0.1 to 0.4"),
        (math.nan, dict(low=0.1), "not a finite number"),
        (math.inf, dict(low=0.1), "not a finite number"),
        (0.5, dict(baseline=0.5), "baseline 0.5 is not beaten"),
        (0.5, dict(low=0.1, baseline=0.6), "baseline 0.6 is not beaten"),
        (0.5, dict(baseline=0.4, lower_is_better=True), "baseline 0.4 is not beaten"),
        (0.9, dict(high=0.6, baseline=0.5, null=True), "at most 0.6"),
    ],
)
def test_a_claim_that_does_not_hold_raises(value, options, reason):
    with pytest.raises(AssertionError, match=f"^claim 01.x: .*fails: .*{reason}"):
        check.claim("01.x", value, kind="exact", **options)


@pytest.mark.parametrize(
    ("id", "options", "reason"),
    [
        ("01.x", dict(low=0.0, kind="maybe"), "no kind 'maybe'.*exact, live, shipped, recorded"),
        ("01.x", dict(kind="exact"), "claims nothing"),
        ("01.x", dict(kind="exact", baseline=0.1, null=True), "claims nothing"),
        ("77.x", dict(low=0.0, kind="exact"), "no chapter '77'"),
    ],
)
def test_what_is_no_claim_is_refused(id, options, reason):
    with pytest.raises(ValueError, match=reason):
        check.claim(id, 0.5, **options)


def test_records_are_sorted_rounded_and_complete(records):
    check.claim("01.b", 1 / 3, 0, kind="live", n=7, note="a third", interval=(0.1234567891, 0.5))
    check.claim("01.a", 56, 56, 56, kind="exact")
    with pytest.raises(AssertionError):
        check.claim("01.c", 0.1, 0.5, kind="live")
    (path,) = records.iterdir()
    assert path.name == "01_clip.json"
    claims = json.loads(path.read_text())["claims"]
    assert [c["id"] for c in claims] == ["01.a", "01.b", "01.c"]
    assert claims[1]["value"] == 0.333333
    assert claims[1]["interval"] == [0.123457, 0.5]
    assert [c.get("seed") for c in claims] == [None, 2, 2]
    assert [c["holds"] for c in claims] == [True, True, False]


def test_the_same_claims_give_the_same_file(records):
    def run():
        check.claim("01.b", 0.5, 0, kind="exact")
        check.claim("01.a", 0.25, 0, kind="exact")
        return (records / "01_clip.json").read_bytes()

    assert run() == run()


def test_one_id_with_two_values_is_an_error(records):
    check.claim("01.a", 0.5, 0, kind="exact")
    with pytest.raises(ValueError, match="recorded twice"):
        check.claim("01.a", 0.6, 0, kind="exact")


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check.claim("01.a", 0.5, 0, kind="exact")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- parity

TOKENIZER = Tokenizer()
RIGHT = {
    "clip.vit": library.VisionTransformer,
    "clip.resnet": library.ModifiedResNet,
    "clip.text": library.TextTransformer,
    "clip.loss": library.clip_loss,
    "clip.tokens": TOKENIZER.encode,
    "lseg.decoder_block": lseg.FeatureFusionBlock,
    "lseg.head": lseg.PixelTextHead,
    "lseg.spatial_block_bottleneck": lseg.BottleneckBlock,
    "lseg.spatial_block_depthwise": lseg.DepthwiseBlock,
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_library_passes_parity(name, capsys, records):
    worst = check.parity(name, RIGHT[name])
    assert worst <= 1e-5
    assert capsys.readouterr().out.startswith(f"{name}: equal to the release (")
    method = name.split(".")[0]
    (entry,) = json.loads((records / f"{check._chapter(method)}.json").read_text())["parity"]
    assert entry["id"] == name and entry["oracle"] == check._RELEASES[method] and entry["worst"] <= 1e-5


def test_every_official_file_is_compared():
    """Here, where the library holds the component; else in the tests of its chapter or module."""
    here = Path(__file__).parent
    tests = [*here.glob("test_chapter_*.py"), here / "test_strokes.py"]
    chapters = "".join(path.read_text("utf-8") for path in tests)
    assert set(RIGHT) <= set(check._CAUSES)
    assert all(name in RIGHT or f'"{name}"' in chapters for name in check._CAUSES)


class GELU(nn.Module):
    def forward(self, x):
        return F.gelu(x)


class LateNorm(library.VisionTransformer):
    """Forgets ln_pre."""

    def embed(self, x):
        norm, self.ln_pre = self.ln_pre, nn.Identity()
        try:
            return super().embed(x)
        finally:
            self.ln_pre = norm


class NoMask(library.TextTransformer):
    def token_states(self, ids):
        self.causal_mask.zero_()
        return super().token_states(ids)


class RenamedWeight(library.VisionTransformer):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.projection = self.proj
        del self.proj


def one_sided(image_emb, text_emb, scale):
    logits = scale * image_emb @ text_emb.T
    return F.cross_entropy(logits, torch.arange(len(logits)))


def unscaled(image_emb, text_emb, scale):
    return library.clip_loss(image_emb, text_emb, 1.0)


def doubled(image_emb, text_emb, scale):
    return 2 * library.clip_loss(image_emb, text_emb, scale)


def half_a_width(image_size, patch_size, width, layers, heads, embed_dim):
    return library.VisionTransformer(image_size, patch_size, width // 2, layers, heads, embed_dim)


def mirrored(**config):
    """Gives each place another place's position."""
    tower = library.ModifiedResNet(**config)
    tower.attnpool.forward = lambda x: library.AttentionPool2d.forward(tower.attnpool, x.flip(-1))
    return tower


def wide_gelu(**config):
    tower = library.VisionTransformer(**config)
    for block in tower.transformer.resblocks:
        block.mlp.gelu = GELU()
    return tower


@pytest.mark.parametrize(
    ("name", "wrong", "reason"),
    [
        ("clip.vit", wide_gelu, "differs from the release.*QuickGELU, not"),
        ("clip.vit", LateNorm, "differs from the release"),
        ("clip.vit", RenamedWeight, "other names.*Only there: proj; only in yours: projection"),
        ("clip.vit", half_a_width, "another shape"),
        ("clip.resnet", mirrored, "differs from the release"),
        ("clip.text", NoMask, "differs from the release.*causal mask"),
        ("clip.loss", one_sided, "differs.*over rows and over columns"),
        ("clip.loss", unscaled, "differs"),
        ("clip.loss", doubled, "differs.*not the sum"),
        ("clip.loss", lambda i, t, s: s * i @ t.T, r"shape is \(5, 5\), the release's is \(\)"),
        ("clip.tokens", lambda text: TOKENIZER.encode(text)[1:], "shape"),
        ("clip.tokens", lambda text: [49406, *([7] * len(TOKENIZER.encode(text))), 49407], "differs"),
        ("clip.tokens", lambda text: 1 / 0, "could not be compared"),
    ],
)
def test_parity_refuses_a_wrong_candidate_with_a_hint(name, wrong, reason):
    with pytest.raises(AssertionError, match=f"(?s)(?=.*Usual causes).*{reason}"):
        check.parity(name, wrong)


def test_parity_takes_other_parameter_names_instances_and_framed_tokens():
    assert check.parity("clip.tokens", lambda text: [49406, *TOKENIZER.encode(text), 49407]) == 0

    def build(size, patch, dim, depth, n_heads, out):
        return library.VisionTransformer(size, patch, dim, depth, n_heads, out)

    assert check.parity("clip.vit", build) <= 1e-5
    assert check.parity("clip.vit", build(64, 16, 48, 2, 3, 32)) <= 1e-5


class OwnText(nn.Module):
    """A reader's text tower that is called on ids."""

    def __init__(self, embed_dim, context_length, vocab_size, text_width, text_layers, text_heads):
        super().__init__()
        config = library.CLIPConfig(
            embed_dim,
            32,
            1,
            64,
            32,
            context_length,
            vocab_size,
            text_width,
            text_layers,
            text_heads=text_heads,
        )
        tower = library.TextTransformer(config)
        for name, child in tower.named_children():
            self.add_module(name, child)
        self.positional_embedding, self.text_projection = tower.positional_embedding, tower.text_projection
        self.tower = [tower]

    def forward(self, ids):
        return self.tower[0].encode_ids(ids)


def test_parity_takes_a_text_tower_without_a_config_object():
    assert check.parity("clip.text", OwnText) <= 1e-5


@pytest.mark.parametrize("stub", [None, lambda *a, **k: (_ for _ in ()).throw(NotImplementedError)])
def test_parity_of_a_stub_is_not_attempted(stub, capsys):
    assert check.parity("clip.loss", stub) is None
    assert capsys.readouterr().out == "clip.loss: not attempted\n"


def test_parity_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="no official numbers for 'clip.sound'.*clip.vit"):
        check.parity("clip.sound", None)


def test_a_missing_oracle_is_recorded(records, capsys):
    check.no_oracle("clip.training", "the release has no training code")
    (entry,) = json.loads((records / "01_clip.json").read_text())["parity"]
    assert entry["oracle"] is None and "no training code" in entry["note"]
    assert "no oracle exists" in capsys.readouterr().out


def test_the_larger_of_two_differences_is_kept(records):
    entry = dict(id="clip.vit", oracle="x", tolerance=1e-5, note="")
    for worst in (2e-7, 3e-7, 1e-7):
        check._record("01_clip", "parity", {**entry, "worst": worst})
    assert json.loads((records / "01_clip.json").read_text())["parity"][0]["worst"] == 3e-7


# ---------------------------------------------------------------- exercises


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (56, 56),
        (2.0000001, 2),
        ("dog", "dog"),
        (torch.eye(3), torch.eye(3)),
        ([1, 2], [1, 2]),
        ((1, 2.0), [1, 2]),
        (["a", "b"], ["a", "b"]),
        ({"x": 1}, {"x": 1.0}),
        (True, True),
        (lambda: 4, 4),
        (5, lambda n: n > 4),
        ([torch.ones(2), "a"], [torch.ones(2), "a"]),
    ],
)
def test_a_right_answer(answer, right, capsys):
    check.expect(answer, right, "look again", name="1.1")
    assert capsys.readouterr().out == "1.1: correct\n"


def unwritten():
    raise NotImplementedError


@pytest.mark.parametrize("answer", [None, unwritten, lambda: None])
def test_an_unanswered_stub(answer, capsys):
    check.expect(answer, 56, "look again", name="1.1")
    assert capsys.readouterr().out == "1.1: not attempted\n"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (57, 56),
        ("cat", "dog"),
        (torch.eye(3), torch.eye(4)),
        (torch.eye(3).T + 1e-3, torch.eye(3)),
        ([1], [1, 2]),
        (["b", "a"], ["a", "b"]),
        ({"y": 1}, {"x": 1}),
        (1, True),
        ("56", 56),
        (math.nan, 1.0),
        (3, lambda n: n > 4),
        (object(), 1),
        (["a"], "a"),
        ([[1], [2, 3]], torch.ones(2)),
    ],
)
def test_a_wrong_answer_gets_the_hint(answer, right):
    with pytest.raises(AssertionError, match="1.1: not yet. Hint: .*look again"):
        check.expect(answer, right, "look again", name="1.1")


def test_hints_fit_the_mistake():
    mistakes = [(63, "the diagonal is not negative"), (64, "those are all places")]
    for wrong, hint in mistakes:
        with pytest.raises(AssertionError, match=hint):
            check.expect(wrong, 56, "count again", mistakes=mistakes)
    with pytest.raises(AssertionError, match="count again"):
        check.expect(1, 56, "count again", mistakes=mistakes)
    with pytest.raises(AssertionError, match="it is negative"):
        check.expect(-1, lambda n: n > 0 or "it is negative", "look again")
    with pytest.raises(AssertionError, match=r"its shape is \(3,\), not \(3, 3\)"):
        check.expect(torch.ones(3), torch.ones(3, 3), "look again")


# ---------------------------------------------------------------- shown in the notebook

QUESTION = {
    "question": "How many negatives has a batch of n pairs?",
    "answers": [
        {"answer": "n²−n", "correct": True, "feedback": "Yes."},
        {"answer": "n²−1", "correct": False, "feedback": "Only one positive would be left."},
    ],
}


@pytest.fixture
def shown():
    """What the cells show, as an IPython shell sees it."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    yield capture_output
    InteractiveShell.clear_instance()


def test_a_quiz_is_the_same_at_every_run_and_asks_no_other_site(shown):
    pages = []
    random.seed(1)
    before = random.getstate()
    for _ in range(2):
        with shown() as captured:
            check.quiz([QUESTION])
        pages.append([output.data for output in captured.outputs])
    assert pages[0] == pages[1]
    assert random.getstate() == before
    text = json.dumps(pages[0])
    assert "How many negatives" in text and "https://cdn" not in text
    assert {"text/html", "application/javascript"} <= {kind for data in pages[0] for kind in data}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a[0].update(correct=False), "one right answer"),
        (lambda a: a[1].update(correct=True), "one right answer"),
        (lambda a: a.pop(1), "one right answer"),
        (lambda a: a[1].update(feedback=""), "misconception"),
    ],
)
def test_a_quiz_without_sense_is_refused(change, reason):
    question = json.loads(json.dumps(QUESTION))
    change(question["answers"])
    with pytest.raises(ValueError, match=reason):
        check.quiz([question])


def test_cards(shown):
    with shown() as captured:
        check.card("run", gpu="T4", date="2025-01-01", commit="abc", weights="123<4>")
        check.card("stand-in", stand_in="random weights", shape="ViT-B/32")
        check.card("not-run", paper="76.2", expectation="about the same", how='start("01_clip", mode="full")')
    pages = [o.data["text/html"] for o in captured.outputs]
    assert "123&lt;4&gt;" in pages[0] and "not a result" in pages[1] and "Not run by us" in pages[2]
    assert all(o.data["text/plain"] for o in captured.outputs)


def test_a_card_without_its_facts_is_refused():
    with pytest.raises(ValueError, match="also needs: date, weights"):
        check.card("run", gpu="T4", commit="abc")
    with pytest.raises(ValueError, match="no card 'maybe'.*run, stand-in, not-run"):
        check.card("maybe")


def test_progress_is_silent_in_ci(monkeypatch, capsys):
    monkeypatch.setenv("CI", "1")
    assert list(check.progress(range(3), "counting")) == [0, 1, 2]
    monkeypatch.delenv("CI")
    assert list(check.progress(iter("ab"), "counting", total=2)) == ["a", "b"]
    assert capsys.readouterr().err == ""
