"""Chapter 9's own code, from the notebook: equal to the release, order and shift as said, bad films refused."""

import pytest
import torch
import torch.nn.functional as F

from bench import load
from clipnotes import check, grammar, records
from clipnotes.clip import clip_loss, load_clip
from clipnotes.files import shared
from clipnotes.toyworld import films
from notebooks import ROOT

NOTEBOOK = ROOT / "chapters" / "09_actionclip.ipynb"
PROGRAM = ROOT / "recordings" / "09_actionclip" / "record.py"
HEADS = ("mean", "conv1d", "conv1d_released", "lstm", "transf")


@pytest.fixture(scope="module")
def recording():
    """The chapter's recording program, as a module."""
    return load(PROGRAM)


@pytest.fixture(scope="module")
def some(chapter):
    """Films as bytes and their actions."""
    return chapter.labelled_films(12, 7)


# ---------------------------------------------------------------- equal to the release


def test_parity_with_the_release(chapter):
    for name, candidate in {
        "actionclip.kl_loss": chapter.kl_loss, "actionclip.shift": chapter.shift_tokens,
        "actionclip.transf": chapter.Transf, "actionclip.lstm": chapter.LSTM, "actionclip.conv1d": chapter.Conv1D,
        "actionclip.conv1d_released": chapter.Conv1DReleased,
    }.items():
        assert check.parity(name, candidate) <= 1e-5, name


def test_parity_refuses_typical_mistakes(chapter):
    def uniform(video_emb, text_emb, labels, scale):
        target = (labels[:, None] == labels).float()
        target = target / target.sum(1, keepdim=True)
        logits = scale * video_emb @ text_emb.T
        return sum(F.kl_div(t.log_softmax(1), target, reduction="batchmean") for t in (logits, logits.T)) / 2

    def other_way(tokens, count, div, skip):
        x = tokens.clone()
        x[:, skip:] = chapter.shift(tokens[:, skip:].unflatten(0, (-1, count)).flip(1), div).flip(1).flatten(0, 1)
        return x

    def class_token_too(tokens, count, div, skip):
        return chapter.shift_tokens(tokens, count, div, 0)

    class NoResidual(chapter.Transf):
        def forward(self, x):
            return super().forward(x) - x.mean(1)

    for name, wrong in (("kl_loss", uniform), ("shift", other_way), ("shift", class_token_too), ("transf", NoResidual),
                        ("conv1d", chapter.Conv1DReleased), ("conv1d_released", chapter.Conv1D)):
        with pytest.raises(AssertionError, match="differs from the release"):
            check.parity(f"actionclip.{name}", wrong)


# ---------------------------------------------------------------- the loss


def test_kl_loss(chapter):
    g = torch.Generator().manual_seed(0)
    u, v = (F.normalize(torch.randn(6, 8, generator=g), dim=1) for _ in range(2))
    labels = torch.tensor([0, 1, 0, 2, 2, 0])
    loss = chapter.kl_loss(u, v, labels, 12.0)
    assert torch.isclose(loss, chapter.kl_loss_naive(u, v, labels, 12.0), atol=1e-5)
    order = torch.tensor([4, 2, 0, 1, 5, 3])
    assert torch.isclose(loss, chapter.kl_loss(u[order], v[order], labels[order], 12.0), atol=1e-6)
    alone, diagonal = chapter.kl_loss(u, v, torch.arange(6), 12.0), clip_loss(u, v, 12.0)
    assert abs(alone - diagonal) < 0.02 and torch.equal(chapter.cross_entropy(u, v, labels, 12.0), diagonal)
    assert torch.isclose(loss, chapter.kl_loss(v, u, labels, 12.0), atol=1e-6)  # both directions count alike


def test_one_text_a_label_makes_the_gradients_alike(chapter):
    g = torch.Generator().manual_seed(1)
    labels, words = torch.arange(4).repeat_interleave(5), torch.randn(4, 16, generator=g)
    video = torch.randn(20, 16, generator=g)
    kl, ce = (chapter.gradients(f, video, words, labels) for f in (chapter.kl_loss, chapter.cross_entropy))
    assert (kl - ce).norm() < 0.01 * kl.norm() and kl.norm() > 0.01


# ---------------------------------------------------------------- the shift


def test_a_shift_moves_an_eighth_each_way_and_wraps_nothing(chapter):
    x = torch.arange(1.0, 1 + 2 * 5 * 3 * 16).view(2, 5, 3, 16)
    moved = chapter.shift(x)
    assert torch.equal(moved[:, :-1, :, :2], x[:, 1:, :, :2]) and torch.equal(moved[:, 1:, :, 2:4], x[:, :-1, :, 2:4])
    assert torch.equal(moved[..., 4:], x[..., 4:])
    assert not moved[:, -1, :, :2].any() and not moved[:, 0, :, 2:4].any()
    assert torch.equal(chapter.shift(x[:, :1])[..., :4], torch.zeros(2, 1, 3, 4))  # one frame has no neighbours
    for film in x[:, :, 0]:
        assert torch.equal(chapter.shift_naive(film), chapter.shift(film[None])[0])


def test_the_class_token_stays_and_films_do_not_mix(chapter):
    tokens = torch.randn(6, 10, 16, generator=torch.Generator().manual_seed(2))  # two films of three frames
    moved = chapter.shift_tokens(tokens, 3)
    assert torch.equal(moved[:, 0], tokens[:, 0]) and not torch.equal(moved[:, 1:], tokens[:, 1:])
    assert torch.equal(moved[:3], chapter.shift_tokens(tokens[:3], 3))


def test_a_tower_without_shift_is_clip(chapter, clip, some):
    x = clip.standardise(some[0][:3] / 255)
    with torch.no_grad():
        plain = chapter.frame_vectors(clip.visual, x, 0)
        assert torch.allclose(plain, clip.visual(x.flatten(0, 1)).unflatten(0, (3, 8)), atol=1e-5)
        assert (chapter.frame_vectors(clip.visual, x, 8) - plain).abs().max() > 0.01


def test_equal_parameters(chapter):
    counts = {div: sum(p.numel() for p in chapter.action_clip("mean", div).parameters()) for div in (0, 8)}
    assert counts[0] == counts[8] == sum(p.numel() for p in load_clip("tiny").parameters())


# ---------------------------------------------------------------- heads


def test_the_mean_head_ignores_order_exactly(chapter):
    x = torch.randn(5, 8, 128, generator=torch.Generator().manual_seed(3))
    for seed in range(5):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(chapter.Mean()(x), chapter.Mean()(x[:, order]))
    for name in HEADS[1:]:
        torch.manual_seed(0)
        head = chapter.make_head(name)
        assert (head(x) - head(x.flip(1))).abs().max() > 1e-5, name


def test_a_film_and_its_reverse_tie_for_the_mean(chapter, clip, some):
    model = chapter.ActionCLIP(clip, chapter.Mean())
    pairs = chapter.pair_accuracy(model, some[0], some[1], chapter.prompt_ids(chapter.ACTIONS))
    assert len(pairs) >= 3 and set(pairs.values()) == {0.5}


def test_conv1d_mixes_time_and_only_time(chapter):
    still = torch.randn(1, 1, 16).expand(1, 6, 16)
    inner = chapter.Conv1D(16).shift(still.mT)[0, :, 1:-1]
    assert torch.allclose(inner, inner[:, :1].expand_as(inner))
    assert (chapter.Conv1D(16)(still) - chapter.Conv1DReleased(16)(still)).abs().max() > 0.05


def test_more_frames_than_positions(chapter, clip):
    with pytest.raises(ValueError, match="40 positions"):
        chapter.Transf(16)(torch.randn(1, 41, 16))
    with pytest.raises(ValueError, match="9 frames and 8 positions in time"):
        chapter.JointTower(clip.visual)(torch.randn(1, 9, 3, 32, 32))


def test_joint_tokens_of_one_frame_are_the_picture(chapter, clip):
    joint = chapter.JointTower(clip.visual, 1)
    torch.nn.init.zeros_(joint.time_embedding)
    x = torch.randn(2, 1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(joint(x), clip.visual(x[:, 0]), atol=1e-5)
        swapped = chapter.JointTower(clip.visual, 4)
        y = torch.randn(1, 4, 3, 32, 32)
        assert (swapped(y) - swapped(y.flip(1))).abs().max() > 1e-4  # places in time are read
    with pytest.raises(NameError):
        chapter.joint_released(x)


# ---------------------------------------------------------------- films and texts


def test_segments(chapter):
    numbers = torch.arange(1.0, 7.0).expand(3, 6)
    mask = (torch.arange(6) < torch.tensor([[6], [3], [1]])).long()
    taken = chapter.segments(numbers, mask, 4)
    assert taken.tolist() == [[1, 3, 4, 6], [1, 2, 2, 3], [1, 1, 1, 1]]
    assert chapter.segments(numbers, mask, 1).flatten().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="all padding"):
        chapter.segments(numbers, mask * torch.tensor([[1], [1], [0]]))
    with pytest.raises(ValueError, match="ones, then zeros"):
        chapter.segments(numbers, mask.flip(1))


def test_a_film_of_one_frame_is_answered(chapter, clip):
    batch = films.films(2, 1, 32, frames=(1, 1))
    frames = chapter.segments(batch["frames"], batch["mask"])
    model = chapter.ActionCLIP(clip, chapter.make_head("transf"), div=8).eval()
    answer = model.predict_probs(frames, chapter.prompt_ids(chapter.ACTIONS))
    assert answer.shape == (2, 17) and torch.allclose(answer.sum(1), torch.ones(2), atol=1e-5)


def test_bad_films_are_refused(chapter, clip, some):
    model = chapter.ActionCLIP(clip, chapter.Mean())
    for wrong in (torch.rand(3, 32, 32), torch.rand(1, 0, 3, 32, 32), torch.rand(2, 3, 32, 32)):
        with pytest.raises(ValueError, match="Films are B×T×3×H×W"):
            model.encode_video(wrong)
    with pytest.raises(ValueError, match="multiples of 8"):
        model.encode_video(torch.rand(1, 2, 3, 30, 30))
    ids = chapter.prompt_ids(chapter.ACTIONS)
    with pytest.raises(ValueError, match="need as many labels"):
        chapter.fit(model, some[0], some[1][:3], ids, 1, 0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        chapter.fit(model, some[0], some[1] + 2, ids[:2], 1, 0)


def test_every_word_is_known(chapter, recording):
    texts = (*chapter.ACTIONS, *recording.coarse_groups())
    sentences = [template.format(text) for template in chapter.TEMPLATES for text in texts]
    assert grammar.unknown_words(" ".join(sentences)) == [] and len(set(chapter.TEMPLATES)) == 16
    assert "zorgle" in grammar.NEVER_TRAINED


def test_labels_and_their_reverses(chapter):
    places = torch.arange(len(films.EVENTS))
    labels = chapter.action_labels(places)
    assert len(chapter.ACTIONS) == 17 and labels.max() == 16
    for event, label in zip(films.EVENTS.values(), labels.tolist(), strict=True):
        back = list(films.EVENTS).index(event.reverse)
        assert chapter.reverse_labels(torch.tensor(label)) == labels[back]
    fixed = (chapter.reverse_labels(torch.arange(17)) == torch.arange(17)).sum()
    assert fixed == 1  # first one thing, then another: without names it is its own reverse


def test_the_vote_is_per_template(chapter):
    g = torch.Generator().manual_seed(4)
    video, text = (F.normalize(torch.randn(*shape, generator=g), dim=-1) for shape in ((3, 8), (5, 4, 8)))
    slow = torch.stack([(9 * video @ text[:, p].T).softmax(1) for p in range(4)]).mean(0)
    assert torch.allclose(chapter.vote(video, text, 9.0), slow, atol=1e-6)


def test_fit_learns_and_leaves_the_frozen_alone(chapter, some):
    torch.manual_seed(0)
    model = chapter.action_clip("lstm")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        x = chapter.frame_vectors(model.clip.visual, model.clip.standardise(some[0] / 255), 0)
    ids = chapter.prompt_ids(chapter.ACTIONS, ("{}", "a video of {}"))
    losses = chapter.fit(model, x, some[1], ids, 12, 0, batch=12)
    after = model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3]) and "head.lstm_visual.weight_hh_l0" in changed
    assert not any(k.startswith("clip.visual") or "token_embedding" in k for k in changed)
    assert any(k.startswith("clip.transformer") for k in changed)


def test_a_one_hot_head_has_no_language(chapter, recording):
    model = recording.OneHot(load_clip("tiny"), chapter.Mean(), 17)
    rows = model.encode_text(torch.arange(17)[:, None, None])
    assert rows.shape == (17, 1, 128) and torch.allclose(rows.norm(dim=2), torch.ones(17, 1))
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert names == ["rows", "scale"]


def test_zorgles_blink(recording):
    frames, labels = recording.zorgles(2, 1)
    assert labels.tolist() == [17, 17]  # behind all actions
    assert torch.equal(frames[:, 0], frames[:, 2]) and torch.equal(frames[:, 1], frames[:, 7])
    assert (frames[:, 0].float() - frames[:, 1].float()).abs().max() > 20


# ---------------------------------------------------------------- what ships


def test_the_shipped_model(chapter):
    model, ids = chapter.load_shift(), chapter.prompt_ids(chapter.ACTIONS)
    x, labels = chapter.labelled_films(60, chapter.TEST_SEED + 90_000)
    hits = (model.predict_probs(x, ids).argmax(1) == labels).float().mean().item()
    assert hits > 0.6
    assert shared("recordings/09_actionclip/shift.safetensors").stat().st_size < 4e6


def test_each_variant_was_recorded_under_three_seeds():
    runs = records.load("09_actionclip")
    assert all(row["minutes"] >= 0 for row in runs.rows) and len(runs.rows) == 90
    for study in ("inside", "heads", "losses", "data", "coarse", "new"):
        for variant in runs.variants(study):
            assert runs.seeds(study, variant) == [0, 1, 2], (study, variant)


def test_the_figure_is_that_of_the_shipped_model(recording):
    again = recording.figure()
    for (action, prob), (recorded, chance) in zip(again, records.load("09_actionclip")["figure"], strict=True):
        assert action == recorded, "run python recordings/09_actionclip/record.py figure"
        assert abs(prob - chance) < 0.02
