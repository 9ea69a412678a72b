"""Files of weights: whole or absent, checked, of the right kind and of this world."""

import json

import pytest
import torch
from safetensors.torch import save

from clipnotes import files, toyworld, weights

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "counter": torch.tensor(3)}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "some.safetensors"
    weights.save_weights(weights.stored(TENSORS), path, "thing", {"width": 3}, {"seed": 0})
    tensors, config, card = weights.load_weights(path, "thing")
    assert tensors["a.weight"].dtype == torch.float16 and torch.equal(tensors["a.weight"].float(), TENSORS["a.weight"])
    assert tensors["counter"] == 3 and tensors["counter"].dtype == torch.int64
    assert config == {"width": 3} and card == {"seed": 0}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no temporary file stays


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "some.safetensors"
    weights.save_weights(TENSORS, path, "thing", {}, {})
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RuntimeError, match="damaged"):
        weights.load_weights(path, "thing")
    path.write_bytes(raw[:-9])
    with pytest.raises(RuntimeError, match="damaged"):
        weights.load_weights(path, "thing")


def test_kind_world_and_absence_are_checked(tmp_path):
    path = tmp_path / "some.safetensors"
    weights.save_weights(TENSORS, path, "thing", {}, {"toyworld_version": toyworld.VERSION, "generator_hash": "old"})
    with pytest.raises(RuntimeError, match="generator_hash old"):
        weights.load_weights(path, "thing")
    with pytest.raises(ValueError, match="kind 'other'"):
        weights.load_weights(path, "other")
    with pytest.raises(FileNotFoundError, match="no file"):
        weights.load_weights("nothing_of_this_name", "thing")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "some.safetensors"
    path.write_bytes(save(TENSORS, {"kind": "old"}))
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        weights.save_weights(TENSORS, path, "thing", {}, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_ships_is_listed_by_kind():
    assert weights.shipped("clip") == ["tiny-rn", "tiny"] and weights.shipped("lseg") == ["02_lseg/lseg"]
    assert json.dumps(weights.shipped("nothing")) == "[]"
