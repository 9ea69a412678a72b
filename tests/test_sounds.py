"""The toy world's sounds: what a score says is heard, who plays it can be chosen, and another world is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from clipnotes import grammar, sound, toyworld
from clipnotes.toyworld import sounds, training
from clipnotes.weights import load_weights, save_weights, toy_world
from notebooks import ROOT

LABELS = [31, 159, 192, 295, 157, 6, 159, 36, 11, 26, 190, 56]
PLAYERS = [3, 0, 2, 0, 3, 0, 3, 1, 1, 3, 0, 3]


def of(name: str, count: int = 8, seed: int = 0, **options) -> torch.Tensor:
    """Sounds of one thing, without a room."""
    return sounds.sounds(count, seed, names=[name], room=False, **options)["samples"]


def pitch(samples: torch.Tensor) -> float:
    """Where the power's middle lies, in Hz."""
    power = np.abs(np.fft.rfft(samples.numpy())) ** 2
    return float(power.mean(0) @ np.fft.rfftfreq(samples.shape[1], 1 / sounds.RATE) / power.mean(0).sum())


def bursts(samples: torch.Tensor) -> int:
    """How often a sound rises out of silence."""
    loud = samples.abs().unfold(0, 80, 40).amax(1) > 0.1 * samples.abs().max()
    return int((loud[1:] & ~loud[:-1]).sum()) + int(loud[0])


@pytest.mark.parametrize("make", [sounds.sounds, sounds.mixtures])
def test_sounds_are_deterministic_and_in_range(make):
    batch, again, other = make(6, 3), make(6, 3), make(6, 4)
    assert batch["samples"].shape == (6, sounds.RATE) and batch["samples"].dtype == torch.float32
    for key in ("samples", "labels", "players", "ids"):
        assert torch.equal(batch[key], again[key]), key
    assert batch["captions"] == again["captions"]
    assert not torch.equal(batch["samples"], other["samples"]) and set(batch["ids"].tolist()).isdisjoint(
        other["ids"].tolist())
    peak = batch["samples"].abs().amax(1)
    assert (peak <= 1).all() and (peak >= 0.29).all()


def test_integers_are_the_same_on_every_machine():
    batch = sounds.sounds(12, 5)
    assert batch["labels"].tolist() == LABELS and batch["players"].tolist() == PLAYERS


def test_things_with_a_sound_are_of_this_world_and_some_are_novel():
    known = {concept.name: concept for concept in grammar.concepts()}
    assert len(sounds.NAMES) >= 20 and set(sounds.NAMES) <= set(known)
    assert 5 <= sum(known[name].split == "novel" for name in sounds.NAMES) <= len(sounds.NAMES) // 3
    assert not grammar.unknown_words(" ".join(sounds.sounds(200)["captions"] + sounds.mixtures(50)["captions"]))


def test_every_synthesiser_plays_every_thing():
    labels = toyworld.name_indices(sounds.NAMES)
    seen = []
    for number, player in enumerate(sounds.SYNTHESISERS):
        batch = sounds.sounds(len(labels), 7, labels=labels, synthesisers=[player])
        assert torch.equal(batch["labels"], labels) and (batch["players"] == number).all()
        assert torch.isfinite(batch["samples"]).all() and (batch["samples"].std(1) > 0.005).all()
        seen.append(sound.log_mel(batch["samples"]).mean((0, 2)))
    assert len(sounds.TRAIN_SYNTHESISERS) >= 4 and sounds.HELD_OUT_SYNTHESISER not in sounds.TRAIN_SYNTHESISERS
    apart = torch.cdist(torch.stack(seen), torch.stack(seen)) + 100 * torch.eye(len(seen))
    assert apart.min() > 1, "two synthesisers sound alike"


@pytest.mark.parametrize(("lower", "higher"), [("cow", "cat"), ("lion", "chick"), ("lightning", "snake"),
                                               ("drum", "alarm clock"), ("ship", "flute")])
@pytest.mark.parametrize("player", sounds.SYNTHESISERS)
def test_what_is_lower_sounds_lower(lower, higher, player):
    assert 1.3 * pitch(of(lower, synthesisers=[player])) < pitch(of(higher, synthesisers=[player]))


def test_events_can_be_counted():
    for name in ("hammer", "alarm clock", "dog", "cow", "cat"):
        low, high = sounds.SCORES[name].count
        found = [bursts(row) for row in of(name, 12, synthesisers=["sines"])]
        assert sum(low <= count <= high for count in found) >= 10, (name, found)


def test_a_siren_rises_and_what_is_struck_fades():
    def heard(name):
        return of(name, 16, synthesisers=["sines"])

    assert pitch(heard("fire truck")[:, 3000:4500]) > 1.3 * pitch(heard("fire truck")[:, :1200])
    bell, bee = (heard(name).abs().mean(0) for name in ("bell", "bee"))
    assert bell[:1500].mean() > 1.5 * bell[2500:3900].mean() and bee[1000:3000].mean() < 1.3 * bee[5000:7000].mean()


def test_two_of_one_thing_differ():
    row = sound.log_mel(of("dog", 12))
    apart = torch.pdist(row.flatten(1))
    assert apart.min() > 50


def test_a_room_adds_an_echo_and_noise():
    dry, wet = (sounds.sounds(20, 3, names=["hammer"], room=room)["samples"] for room in (False, True))
    quiet = [row.abs().unfold(0, 200, 200).amax(1).min().item() for row in (*dry, *wet)]
    assert np.mean(quiet[20:]) > 3 * np.mean(quiet[:20])


def test_a_mixture_is_two_things_equally_loud():
    batch = sounds.mixtures(40, 2)
    assert batch["labels"].shape == (40, 2) and (batch["labels"][:, 0] != batch["labels"][:, 1]).all()
    first, second = (sounds.sounds(40, 4 + i, labels=batch["labels"][:, i])["samples"] for i in range(2))
    parts = torch.stack([part / part.norm(dim=1, keepdim=True) for part in (first, second)], 2)
    shares = torch.linalg.lstsq(parts, batch["samples"][..., None]).solution[..., 0]
    assert torch.allclose(shares[:, 0], shares[:, 1], rtol=1e-3) and batch["samples"].abs().max() < 0.91
    names = [concept.name for concept in grammar.concepts()]
    for caption, pair in zip(batch["captions"], batch["labels"].tolist(), strict=True):
        assert all(names[label] in caption for label in pair)


def test_bad_input_is_refused():
    for options, why in [(dict(names=["dog", "book"]), "'book' has no sound; these have one: dog"),
                         (dict(labels=toyworld.name_indices(["apple"]).repeat(2)), "'apple' has no sound"),
                         (dict(synthesisers=["organ"]), "no synthesiser 'organ'; there are: sines"),
                         (dict(names=[]), "at least one name"), (dict(synthesisers=[]), "one synthesiser")]:
        with pytest.raises(ValueError, match=why):
            sounds.sounds(2, **options)
    with pytest.raises(ValueError, match="two names"):
        sounds.mixtures(2, names=["dog"])


def test_a_data_set_has_the_columns_of_esc50():
    batch = sounds.sounds(3, 1)
    data = sounds.as_dataset(batch)
    assert data.column_names == ["filename", "target", "category", "audio"]
    row = data[1]
    assert row["category"] in batch["captions"][1] and row["audio"]["sampling_rate"] == sounds.RATE
    assert torch.allclose(torch.tensor(row["audio"]["array"]), batch["samples"][1])


def test_the_hash_does_not_depend_on_threads_or_process():
    code = "import torch; torch.set_num_threads(2); from clipnotes import toyworld; print(toyworld.sounds_hash())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == toyworld.sounds_hash(), out.stderr


def test_the_hash_sees_samples_labels_players_and_captions(monkeypatch):
    make = sounds.sounds
    changes = {"samples": lambda v: v * 1.3, "labels": lambda v: v.roll(1), "players": lambda v: v.roll(1),
               "captions": lambda v: v[::-1]}
    for key, change in changes.items():
        monkeypatch.setattr(sounds, "sounds", lambda *a, key=key, change=change, **k: (
            lambda batch: batch | {key: change(batch[key])})(make(*a, **k)))
        assert training.sounds_hash.__wrapped__() != toyworld.sounds_hash(), key


def test_a_model_of_other_sounds_is_refused(tmp_path, monkeypatch):
    tensors = {"x": torch.zeros(1)}
    save_weights(tensors, tmp_path / "audio.safetensors", "test", {}, toy_world(sounds=True))
    save_weights(tensors, tmp_path / "plain.safetensors", "test", {}, toy_world())
    load_weights(tmp_path / "audio.safetensors", "test")
    monkeypatch.setattr(toyworld, "sounds_hash", lambda: "another")
    with pytest.raises(RuntimeError, match="sounds_hash"):
        load_weights(tmp_path / "audio.safetensors", "test")
    load_weights(tmp_path / "plain.safetensors", "test")
