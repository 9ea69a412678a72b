"""Files of weights: whole or absent, checked, of the right kind and of this world."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from clipnotes import files, toyworld, weights
from notebooks import ROOT

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "counter": torch.tensor(3)}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "some.safetensors"
    weights.save_weights(weights.stored(TENSORS), path, "thing", {"width": 3}, {"seed": 0})
    tensors, config, card = weights.load_weights(path, "thing")
    assert tensors["a.weight"].dtype == torch.float16 and torch.equal(tensors["a.weight"].float(), TENSORS["a.weight"])
    assert tensors["counter"] == 3 and tensors["counter"].dtype == torch.int64
    assert config == {"width": 3} and card == {"seed": 0}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # no temporary file stays


def test_every_type_of_number_is_kept(tmp_path):
    tensors = {str(i): torch.ones(2).to(kind) for i, kind in enumerate((torch.bfloat16, torch.float64, torch.bool))}
    weights.save_weights(tensors | {"none": torch.zeros(0, 3)}, tmp_path / "x.safetensors", "thing", {}, {})
    found, _, _ = weights.load_weights(tmp_path / "x.safetensors", "thing")
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in tensors.items())


@pytest.mark.parametrize("place", [-5, 60], ids=["in a number", "in the header"])
def test_a_flipped_bit_is_found(tmp_path, place):
    path = tmp_path / "some.safetensors"
    weights.save_weights(TENSORS, path, "thing", {}, {})
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RuntimeError, match="some.safetensors is damaged"):
        weights.load_weights(path, "thing")


def rewritten(path, change):
    """The file with something changed and the digest as it was."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    change(metadata, tensors)
    path.write_bytes(save(tensors, metadata))


CHANGES = {
    "kind": lambda m, t: m.update(kind="other"),
    "configuration": lambda m, t: m.update(config=json.dumps({"width": 4})),
    "card": lambda m, t: m.update(card=json.dumps({"seed": 1})),
    "card that is no JSON": lambda m, t: m.update(card="{seed"),
    "configuration that is gone": lambda m, t: m.pop("config"),
    "digest that is gone": lambda m, t: m.pop("sha256"),
    "name": lambda m, t: t.update(b=t.pop("a.weight")),
    "two names": lambda m, t: t.update({"a.weight": t["b.weight"], "b.weight": t["a.weight"]}),
    "type": lambda m, t: t.update({"a.weight": t["a.weight"].view(torch.int32)}),
    "shape": lambda m, t: t.update({"a.weight": t["a.weight"].view(3, 2)}),
    "bytes": lambda m, t: t["a.weight"].mul_(-1),
    "tensor more": lambda m, t: t.update(c=torch.zeros(1)),
    "tensor less": lambda m, t: t.pop("counter"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_digest_covers_everything(tmp_path, change):
    path = tmp_path / "some.safetensors"
    weights.save_weights(TENSORS | {"b.weight": torch.ones(2, 3)}, path, "thing", {"width": 3}, {"seed": 0})
    rewritten(path, change)
    with pytest.raises(RuntimeError, match="some.safetensors is damaged"):
        weights.load_weights(path, "thing")


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"GIF89a" + b"x" * 99, b"{}", save(TENSORS), save(TENSORS)[:-9]],
                         ids=["empty", "zeros", "a picture", "json", "no metadata", "cut"])
@pytest.mark.parametrize("name", ["some.safetensors", "some.bin", "some"])
def test_what_is_no_file_of_weights_is_named(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RuntimeError, match=f"{name} is damaged"):
        weights.load_weights(tmp_path / name, "thing")


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


def test_what_ships_is_whole_and_listed_by_kind():
    assert weights.shipped("clip") == ["tiny-rn", "tiny"] and weights.shipped("lseg") == ["02_lseg/lseg"]
    assert weights.shipped("nothing") == []
    files_here = [*weights.DATA.glob("*.safetensors"), *(ROOT / "recordings").glob("*/*.safetensors")]
    for path in files_here:
        with safe_open(path, "pt") as file:
            kind = file.metadata()["kind"]
        name = path.stem if path.parent == weights.DATA else f"{path.parent.name}/{path.stem}"
        assert name in weights.shipped(kind)
        tensors, _, _ = weights.load_weights(name, kind)
        assert tensors
    assert len(files_here) >= 9


def test_a_damaged_file_does_not_hide_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "DATA", tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"half")
    weights.save_weights(TENSORS, tmp_path / "b.safetensors", "thing", {}, {})
    assert weights.shipped("thing") == ["b"] and torch.equal(weights.load_weights("b", "thing")[0]["counter"],
                                                              TENSORS["counter"])
