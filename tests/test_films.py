"""The films of the toy world."""

import subprocess
import sys

import pytest
import torch

from clipnotes import grammar, video
from clipnotes.toyworld import TRAIN_STYLES, films
from clipnotes.toyworld.films import EVENTS


def test_every_event_has_a_reverse_that_is_another_event():
    for name, event in EVENTS.items():
        assert event.reverse != name and EVENTS[event.reverse].reverse == name
        assert EVENTS[event.reverse].frames_tell == event.frames_tell
    assert sum(e.frames_tell for e in EVENTS.values()) == 10


@pytest.mark.parametrize("event", EVENTS)
def test_a_film_run_backwards_is_the_reverse_event(event):
    forward = films.films(8, seed=4, events=[event])
    backward = films.films(8, seed=4, events=[EVENTS[event].reverse])
    turned = films.reverse(forward)
    assert torch.equal(turned["frames"], backward["frames"]) and turned["captions"] == backward["captions"]
    assert torch.equal(turned["events"], backward["events"])
    assert torch.equal(films.reverse(turned)["frames"], forward["frames"])
    long = forward["mask"].sum(1) > 1
    assert (forward["frames"] != backward["frames"]).flatten(1).any(1)[long].all(), "time has a direction"


def test_shapes_masks_and_seeds():
    batch = films.films(40, seed=1, frames=(3, 6), size=48)
    assert batch["frames"].shape == (40, 6, 3, 48, 48) and batch["mask"].shape == (40, 6)
    lengths = batch["mask"].sum(1)
    assert set(lengths.tolist()) == {3, 4, 5, 6}
    assert (batch["frames"].flatten(2).amax(2) > 0).long().equal(batch["mask"]), "black after the end, never before"
    assert (batch["labels"] != batch["others"]).all()
    again = films.films(40, seed=1, frames=(3, 6), size=48)
    assert torch.equal(again["frames"], batch["frames"]) and again["captions"] == batch["captions"]
    assert not torch.equal(films.films(40, seed=2, frames=(3, 6), size=48)["labels"], batch["labels"])


def centre(pictures, plain):
    """The centre of what differs from the empty scene, in pixels: (x, y)."""
    weight = (pictures - plain).abs().sum(0)
    rows, columns = torch.arange(weight.shape[0]), torch.arange(weight.shape[1])
    return (weight.sum(0) @ columns.float()) / weight.sum(), (weight.sum(1) @ rows.float()) / weight.sum()


@pytest.mark.parametrize(
    ("event", "axis", "sign"), [("moves left", 0, -1), ("moves right", 0, 1), ("moves up", 1, -1), ("moves down", 1, 1)]
)
def test_what_moves_moves_where_the_caption_says(event, axis, sign):
    batch = films.films(12, seed=3, events=[event])
    empty = films.films(12, seed=3, events=["appears"])["frames"][:, 0]  # the same seed, nothing there yet
    for film, mask, plain in zip(batch["frames"], batch["mask"], empty, strict=True):
        first, last = centre(film[0], plain)[axis], centre(film[mask.sum() - 1], plain)[axis]
        assert sign * (last - first) > 5


def test_what_grows_grows_and_what_appears_appears():
    empty = films.films(12, seed=3, events=["appears"])["frames"][:, 0]
    for event in ("grows", "appears"):
        batch = films.films(12, seed=3, events=[event])
        ink = (batch["frames"] - empty[:, None]).abs().flatten(2).sum(2)
        for amounts, mask in zip(ink, batch["mask"], strict=True):
            assert (amounts[: mask.sum()].diff() > 0).all()


def test_colours_turn_and_numbers_change():
    batch = films.films(12, seed=5, events=["turns red"])
    for film, mask in zip(batch["frames"], batch["mask"], strict=True):
        first, last = film[0], film[mask.sum() - 1]
        changed = (first - last).abs().sum(0) > 0.2
        red, blue = (last - first)[0][changed].mean(), (last - first)[2][changed].mean()
        assert red > 0 > blue
    empty = films.films(12, seed=5, events=["appears"])["frames"][:, 0]
    batch = films.films(12, seed=5, events=["one and then four"])
    ink = ((batch["frames"] - empty[:, None]).abs().sum(2) > 0.1).flatten(2).sum(2)
    last = batch["mask"].sum(1) - 1
    assert (ink[torch.arange(12), last] > 1.3 * ink[:, 0]).all()


def test_captions_say_object_and_event_in_words_that_clip_knows():
    batch = films.films(60, seed=7)
    names = [c.name for c in grammar.concepts()]
    rows = zip(*(batch[k].tolist() for k in ("events", "labels", "others")), strict=True)
    assert batch["captions"] == [films.caption(tuple(EVENTS)[e], a, b) for e, a, b in rows]
    for text, label in zip(batch["captions"], batch["labels"].tolist(), strict=True):
        assert names[label] in text and not grammar.unknown_words(text)
    columns = (batch[k] for k in ("events", "labels", "others"))
    assert films.captions(*columns, backwards=True) == films.reverse(batch)["captions"] != batch["captions"]
    assert films.caption("comes before", names.index("dog"), names.index("cat")) == "first a dog and then a cat"
    assert films.caption("one and then four", names.index("dog"), 0) == "one dog and then four dogs"
    assert films.caption("turns red", names.index("apple"), 0) == "a blue apple turns red"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no event 'sings'"):
        films.films(2, events=["sings"])
    with pytest.raises(ValueError, match="at least one event"):
        films.films(2, events=[])
    with pytest.raises(ValueError, match="at least one frame"):
        films.films(2, frames=(0, 4))
    with pytest.raises(ValueError, match="at least one frame"):
        films.films(2, frames=(5, 4))
    assert films.films(3, frames=(1, 1))["mask"].tolist() == [[1]] * 3, "a film of one frame is a film"


def test_only_styles_and_names_that_were_asked_for():
    batch = films.films(30, styles=["emojitwo"], names=["dog", "cat"], events=["moves left"])
    names = [c.name for c in grammar.concepts()]
    assert {names[i] for i in batch["labels"].tolist()} == {"dog", "cat"}
    assert "emojitwo" not in TRAIN_STYLES


def test_a_data_set_with_the_columns_of_the_real_ones():
    batch = films.films(5, seed=1)
    rows = films.as_dataset(batch)
    assert rows.column_names == ["video", "video_id", "caption", "label"]
    assert rows.features["label"].names == list(EVENTS) and rows[2]["caption"] == batch["captions"][2]
    frames, mask = video.stack(rows["video"], 8, 64)
    assert torch.equal(mask, batch["mask"]) and (frames - batch["frames"]).abs().max() <= 1 / 255
    frames, mask = video.stack(rows["video"], 3, 32)
    assert frames.shape == (5, 3, 3, 32, 32) and mask.all()


def test_importing_films_opens_no_connection_and_needs_no_reader():
    source = "import sys; import clipnotes.toyworld.films, clipnotes.video, clipnotes.hub; print('av' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_shorter_films_are_padded():
    rows = films.as_dataset(films.films(1, seed=1))
    frames, mask = video.stack(rows["video"], 12, 64)
    assert frames.shape[1] == 12 and mask.sum() == len(rows[0]["video"])
