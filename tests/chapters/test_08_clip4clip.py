"""Chapter 8's own code, from the notebook: equal to the release, blind to order or not, ties, loops, records."""

import pytest
import torch
import torch.nn.functional as F

from clipnotes import check, metrics, records
from clipnotes.clip import clip_loss
from clipnotes.temporal import backwards, encode_films
from clipnotes.toyworld import films
from notebooks import ROOT

NOTEBOOK = ROOT / "chapters" / "08_clip4clip.ipynb"


@pytest.fixture(scope="module")
def few(chapter, clip):
    return chapter.film_vectors(clip, 24, 5)


def heads(chapter) -> dict:
    torch.manual_seed(0)
    return {"mean": chapter.MeanHead(), "LSTM": chapter.LSTMHead(128),
            "transformer": chapter.TransformerHead(128, 2, 2, 33), "tight": chapter.TightHead(128, 2, 2, 33)}


# ---------------------------------------------------------------- equal to the release


def test_parity_with_the_release(chapter):
    for name, candidate in {
        "clip4clip.meanP": chapter.MeanHead, "clip4clip.seqLSTM": chapter.LSTMHead,
        "clip4clip.seqTransf": chapter.TransformerHead, "clip4clip.tightTransf": chapter.TightHead,
        "clip4clip.loss": chapter.match_loss, "clip4clip.metrics": chapter.ranks_released,
    }.items():
        assert check.parity(name, candidate) <= 1e-5, name


def test_parity_refuses_typical_mistakes(chapter):
    class NormedOnce(chapter.MeanHead):
        def video(self, frames, mask):
            return F.normalize((frames * mask[..., None]).sum(1), dim=-1)

    class NoResidual(chapter.LSTMHead):
        def refine(self, frames, mask):
            return self.lstm_visual(frames)[0]

    class NoMask(chapter.TransformerHead):
        def refine(self, frames, mask):
            return super().refine(frames, torch.ones_like(mask))

    class LastToken(chapter.TightHead):
        def pairs(self, text, frames, mask):
            return super().pairs(frames[:, 0], frames, mask)

    def one_direction(logits):
        return F.cross_entropy(logits, torch.arange(len(logits)))

    def one_rank_a_query(similarity):
        return (similarity > similarity.diagonal()[:, None]).sum(1)

    for name, wrong in (("meanP", NormedOnce), ("seqLSTM", NoResidual), ("seqTransf", NoMask),
                        ("tightTransf", LastToken), ("loss", one_direction), ("metrics", one_rank_a_query)):
        with pytest.raises(AssertionError, match="differs from the release|could not be compared"):
            check.parity(f"clip4clip.{name}", wrong)


def test_the_mean_may_be_a_function(chapter):
    assert check.parity("clip4clip.meanP", lambda *given: chapter.MeanHead()(*given)) <= 1e-5


def test_match_loss_is_chapter_1s(chapter):
    torch.manual_seed(0)
    u, v = F.normalize(torch.randn(6, 8), dim=-1), F.normalize(torch.randn(6, 8), dim=-1)
    assert torch.isclose(chapter.match_loss(20 * u @ v.T), clip_loss(u, v, 20.0))


# ---------------------------------------------------------------- heads


def test_order_and_padding(chapter, few):
    frames, mask = few["frames"], few["mask"]
    text = torch.randn(2, 128)
    for name, head in heads(chapter).items():
        forth, back = (head(text, x, mask) for x in (frames, backwards(frames, mask)))
        assert torch.equal(forth, back) == (name == "mean"), name
        noise = torch.where(mask[..., None] > 0, frames, torch.randn_like(frames))
        assert torch.allclose(forth, head(text, noise, mask), atol=1e-5), name


def test_short_empty_and_long_films(chapter):
    one = torch.randn(2, 1, 128), torch.ones(2, 1, dtype=torch.long)
    empty = torch.zeros(1, 3, 128), torch.zeros(1, 3, dtype=torch.long)
    long = torch.randn(1, 40, 128), torch.ones(1, 40, dtype=torch.long)
    for name, head in heads(chapter).items():
        assert head(torch.randn(3, 128), *one).isfinite().all()
        with pytest.raises(ValueError, match="all padding"):
            head(torch.randn(1, 128), *empty)
        if name in ("transformer", "tight"):
            with pytest.raises(ValueError, match="positions"):
                head(torch.randn(1, 128), *long)
        else:
            head(torch.randn(1, 128), *long)


def test_cells_are_the_frame_in_four(chapter, clip):
    batch = films.films(3, 1)
    cells = chapter.encode_cells(clip, batch["frames"], batch["mask"])
    assert torch.allclose(cells.mean(2), encode_films(clip, batch["frames"], batch["mask"]), atol=1e-4)
    tokens, mask = chapter.as_tokens(cells, batch["mask"])
    assert tokens.shape == (3, 32, 128) and torch.equal(tokens[0, 4:8], cells[0, 1])
    assert torch.equal(mask.sum(1), 4 * batch["mask"].sum(1))
    assert chapter.as_tokens(cells[:, :, 0], batch["mask"])[0].shape == (3, 8, 128)
    for name, head in heads(chapter).items():
        assert head(torch.randn(2, 128), tokens, mask).shape == (2, 3), name


def test_patches_in_three_dimensions(chapter, clip):
    batch = films.films(2, 1)
    three = chapter.Film3D(clip)
    same = encode_films(clip, batch["frames"], batch["mask"])
    assert torch.allclose(three(batch["frames"], batch["mask"]), same, atol=1e-4)
    with torch.no_grad():
        three.conv2.weight[:, :, 0] = three.conv2.weight[:, :, 1]  # now it sees the frame before
    moved = (three(batch["frames"], batch["mask"]) - same).abs().amax(-1)
    assert (moved[:, 1] > 1e-3).all() and clip.visual.conv1.weight.shape == (128, 3, 8, 8)


def test_official_sizes(chapter):
    state = chapter.TransformerHead(512, 4, 8, 77).state_dict()
    assert state["transformerClip.resblocks.3.mlp.c_fc.weight"].shape == (2048, 512)
    assert chapter.TightHead(512, 4, 8, 77).state_dict()["similarity_dense.weight"].shape == (1, 512)


def test_start_is_the_text_towers(chapter, clip):
    for head in (chapter.TransformerHead(128, 2, 2, 16), chapter.TightHead(128, 2, 2, 16)):
        chapter.start_head(head, clip, loud=False)
        weights = [v for k, v in head.state_dict().items() if k.endswith("resblocks.1.attn.in_proj_weight")]
        assert torch.equal(weights[0], clip.transformer.resblocks[1].attn.in_proj_weight)


# ---------------------------------------------------------------- measures


def test_ranks_and_ties(chapter):
    tensors, _ = check.golden("clip4clip.metrics")
    for case in ("distinct", "ties"):
        similarity = tensors[f"in/sim_{case}"]
        low, high = (tensors[f"out/{case}_rank_{kind}0"] for kind in ("optimistic", "pessimistic"))
        assert torch.equal(chapter.ranks(similarity), (low + high) / 2 + 1)
        assert chapter.ranks(similarity).tolist() == chapter.ranks_naive(similarity)
        assert metrics.median_rank(similarity) == chapter.ranks(similarity).double().quantile(0.5)
    distinct = tensors["in/sim_distinct"]
    assert torch.equal(chapter.ranks_released(distinct), (chapter.ranks(distinct) - 1).long())
    assert len(chapter.ranks_released(torch.zeros(4, 4))) == 16
    flat = chapter.retrieval(torch.zeros(20, 20))
    assert flat == pytest.approx({"R@1": 0.05, "R@5": 0.25, "R@10": 0.5, "median": 10.5, "mean": 10.5})


def test_retrieval_of_a_perfect_table(chapter):
    assert chapter.retrieval(torch.eye(12)) == {"R@1": 1, "R@5": 1, "R@10": 1, "median": 1, "mean": 1}


def test_two_way(chapter, clip, few):
    assert torch.equal(chapter.two_way(chapter.MeanHead(), clip, few), torch.full((24,), 0.5, dtype=torch.float64))
    assert chapter.is_right(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0.0, 1.0, 0.5])).tolist() == [1, 0, 0.5]
    event, label, other = (few[k][0].item() for k in ("events", "labels", "others"))
    names = list(films.EVENTS)
    assert few["reversed"][0] == films.caption(films.EVENTS[names[event]].reverse, label, other)


def test_distinct_captions(chapter):
    assert chapter.distinct({"captions": ["a", "b", "a", "c"]}, 3) == [0, 1, 3]
    with pytest.raises(ValueError, match="2 distinct captions, not 3"):
        chapter.distinct({"captions": ["a", "b", "a"]}, 3)


# ---------------------------------------------------------------- the loop


def test_the_loop_learns_and_leaves_the_frozen_alone(chapter, clip, few):
    torch.manual_seed(0)
    head, ours = chapter.LSTMHead(128), chapter.copy_for_training(clip)
    losses = chapter.fit(head, ours, few, 30, batch=8)
    assert sum(losses[-5:]) < sum(losses[:5])
    changed = {k for k, p in ours.named_parameters() if not torch.equal(p, clip.get_parameter(k))}
    assert changed and not any(k.startswith("visual.") or k == "token_embedding.weight" for k in changed)


def test_a_batch_holds_films_and_their_reverses(chapter, few):
    frames, mask, captions = chapter.both_ways(few, [0, 3])
    assert len(frames) == len(mask) == len(captions) == 4 and captions[2] == few["reversed"][0]
    assert torch.equal(frames[2:], backwards(frames[:2], mask[:2]))
    assert len(chapter.both_ways(few, [0, 3], reverses=False)[2]) == 2


@pytest.mark.parametrize("reverses", [True, False])
def test_every_head_trains(chapter, clip, few, reverses):
    for name, head in heads(chapter).items():
        before = [p.clone() for p in head.parameters()]
        chapter.fit(head, chapter.copy_for_training(clip), few, 2, batch=4, reverses=reverses)
        assert not any(torch.equal(a, b) for a, b in zip(before, head.parameters(), strict=True)), name


# ---------------------------------------------------------------- what ships


def test_the_record_is_whole():
    runs = records.load("08_clip4clip")
    assert set(runs["figure"]) == {"postcard", "photographs"}
    for head in ("mean", "LSTM", "transformer"):
        assert all(runs.seeds("heads", f"{head}_{n}") == [0, 1, 2] for n in (100, 800, 16_000))
    for row in runs.rows:
        hits = [int(c) for c in row["values"]["hits"]]
        assert len(hits) == 500 and abs(sum(hits) / 500 - row["values"]["text_to_film"]["R@1"]) < 0.01
        assert row["minutes"] >= 0 and len(row["values"]["two_way"]) == 9


def test_the_shipped_head_loads(chapter, clip, few):
    head, ours, card = chapter.load_head("08_clip4clip/transformer", clip)
    assert card["seed"] == 0 and card["variant"] == "transformer_16000"
    assert chapter.two_way(head, ours, few).mean() > 0.6
    assert torch.equal(ours.visual.conv1.weight, clip.visual.conv1.weight)


def test_scale_record():
    scale = records.load("08_clip4clip")["scale"]
    assert {r["films"] for r in scale["rows"]} >= {100_000, 1_000_000}
    assert all(r["real"] >= 20_000 and (r["index"] != "exact" or r["recall"] == 1) for r in scale["rows"])
