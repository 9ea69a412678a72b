"""Files that somebody calls weights: tensors without running code, and each that is none named as what it is."""

import argparse
import io
import json
import pickle
import tarfile
import traceback
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipnotes import clip
from clipnotes.checkpoints import fit, read_state_dict

STATE = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.steps": torch.tensor(7)}


def equal(found: dict) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[k], v) for k, v in STATE.items())


def prefixed(prefix: str) -> dict:
    return {prefix + name: value for name, value in STATE.items()}


@pytest.mark.parametrize("content", [
    STATE, {"state_dict": STATE, "epoch": 3}, {"model_state_dict": STATE, "optimizer": {"state": {}}},
    {"model": {"state_dict": STATE}}, {"epoch": 3, **STATE}, prefixed("module."), prefixed("_orig_mod."),
    prefixed("module._orig_mod."), {"state_dict": prefixed("model.")},
    {"conv._orig_mod.weight": STATE["conv.weight"], "conv.steps": STATE["conv.steps"]},
    STATE | {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77), "vocab_size": torch.tensor(9)}])
@pytest.mark.parametrize("new", [True, False])
def test_what_training_programs_put_around_weights(tmp_path, content, new):
    torch.save(content, tmp_path / "x.pth.tar", _use_new_zipfile_serialization=new)
    assert equal(read_state_dict(tmp_path / "x.pth.tar"))


def test_safetensors_of_any_ending(tmp_path):
    save_file(STATE, tmp_path / "weights.bin")
    assert equal(read_state_dict(tmp_path / "weights.bin"))


class Towers(clip.CLIP):
    """A CLIP that torch.jit can record, with the three numbers that stand in OpenAI's archives."""

    def __init__(self, config):
        super().__init__(config)
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(16))

    def forward(self, images, ids):
        return self.visual(images), self.encode_ids(ids)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small CLIP in half precision as OpenAI released its models, and its weights."""
    path = tmp_path_factory.mktemp("archive") / "RN50.pt"
    model = Towers(clip.CLIPConfig(8, 16, 1, 64, 8, 16, 49408, 64, 1)).eval()
    for name, buffer in list(model.named_buffers()):  # a recording keeps buffers that a state dict does not
        if name not in model.state_dict():
            *above, last = name.split(".")
            owner = model.get_submodule(".".join(above))
            delattr(owner, last)
            setattr(owner, last, buffer)
    inputs = torch.rand(1, 3, 16, 16), torch.tensor([[1, 2, 49407]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that become constants
        torch.jit.trace(model, inputs, check_trace=False).half().save(str(path))
    return path, {k: v.half() for k, v in model.state_dict().items()}


def test_openais_archive_gives_its_tensors(archive, monkeypatch):
    path, state = archive
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("its code must not be run"))
    found = read_state_dict(path)
    assert {"visual.proj", "ln_final.weight", "logit_scale"} <= found.keys()
    assert not {"input_resolution", "context_length", "vocab_size"} & found.keys()
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == torch.half
               for name in found.keys() & state.keys()) and len(found.keys() & state.keys()) > 20


def test_an_archive_with_other_objects_is_refused_unread(tmp_path):
    class Run:
        def __reduce__(self):
            return print, ("this must not run",)

    with zipfile.ZipFile(tmp_path / "x.pt", "w") as made:
        made.writestr("x/code/__torch__.py", "")
        made.writestr("x/data.pkl", pickle.dumps(Run()))
    with pytest.raises(RuntimeError, match="x.pt is a TorchScript archive that cannot be read: give a file"):
        read_state_dict(tmp_path / "x.pt")


def saved(content) -> bytes:
    data = io.BytesIO()
    torch.save(content, data)
    return data.getvalue()


def safetensors(tmp_path) -> bytes:
    save_file(STATE, tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


def zipped(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr(name, "x")
    return data.getvalue()


def tarred() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as made:
        made.addfile(tarfile.TarInfo("weights.pt"))
    return data.getvalue()


def array() -> bytes:
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    return data.getvalue()


NO_WEIGHTS = {
    "empty": (b"", "is empty: download it again"),
    "page": (b"<!DOCTYPE html><html>Please log in</html>", "is a web page"),
    "xml": (b"\n <Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git LFS pointer"),
    "json": (json.dumps({"error": "gated"}).encode(), "is text .JSON."),
    "text": (b"Not Found", "is text: give the file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "gguf": (b"GGUF" + bytes(99), "is a GGUF file"),
    "array": (array(), "is a NumPy array"),
    "gz": (b"\x1f\x8b\x08\0" + bytes(99), "is a compressed archive: unpack it"),
    "tar": (tarred(), "is a compressed archive: unpack it"),
    "zip": (zipped("weights.pt"), "is a zip archive without weights: unpack it"),
    "npz": (zipped("x.npy"), "is a zip archive without weights: unpack it"),
    "cut zip": (saved(STATE)[:300], "is a PyTorch or zip file that is cut off"),
    "cut safetensors": (lambda p: safetensors(p)[:-8], "is a safetensors file that is cut off"),
    "cut header": (lambda p: safetensors(p)[:40], "is a safetensors file that is cut off"),
    "nothing": (saved({"epoch": 3}), "holds no tensors"),
    "a list": (saved([torch.zeros(1)]), "holds no tensors"),
    "arguments": (saved({"state_dict": STATE, "args": argparse.Namespace(x=1)}),
                  r"is a pickle of Python objects \(argparse.Namespace\)"),
    "a module": (saved(torch.nn.Linear(1, 1)), r"is a pickle of Python objects \(torch.nn.modules.linear.Linear\)"),
    "a pickle": (pickle.dumps({"a": argparse.Namespace(x=1)}), "is a pickle of Python objects"),
    "an old pickle": (pickle.dumps(argparse.Namespace(x=1), protocol=2), "is a pickle of Python objects"),
    "noise": (bytes(range(256)), "is neither safetensors nor a PyTorch file"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weights_is_named_as_what_it_is(tmp_path, kind):
    content, said = NO_WEIGHTS[kind]
    path = tmp_path / f"{kind}.pt"
    path.write_bytes(content(tmp_path) if callable(content) else content)
    with pytest.raises(RuntimeError, match=f"{kind}.pt {said}") as refusal:
        clip.load_clip("RN50", path)
    shown = "".join(traceback.format_exception(refusal.value))
    assert "weights_only" not in shown, "torch's own advice is to run the file's code"
    assert len(str(refusal.value)) < 300 + len(str(path))


def test_a_folder_and_nothing(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: give the file of weights in it"):
        read_state_dict(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file .*x.pt"):
        read_state_dict(tmp_path / "x.pt")


def test_differences_are_told_in_short():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(5)))
    state = model.state_dict()
    other = {k: v for k, v in state.items() if not k.startswith(("0", "1"))} | {"extra": torch.zeros(1)}
    other["4.bias"] = torch.zeros(3)
    said = (r"x.pt does not fit this model; tensors: 4 missing \(0.bias, 0.weight, 1.bias, \.\.\.\); 1 unknown "
            r"\(extra\); 1 of another shape \(4.bias\)\.$")
    with pytest.raises(RuntimeError, match=said):
        fit(model, other, "x.pt")
    with pytest.raises(RuntimeError, match="It is a CLIP of transformers: give OpenAI's"):
        fit(model, {"vision_model.embeddings": torch.zeros(1)}, "x.pt")
    fit(model, {k: v + 1 for k, v in state.items()}, "x.pt")
    assert torch.equal(model[0].bias, state["0.bias"])
