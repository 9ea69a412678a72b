"""The first line of every chapter, and what `import clipnotes` does and does not do."""

import dataclasses
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import clipnotes
from clipnotes import start

OFFLINE = """
import socket, sys
def refused(*arguments, **named):
    raise RuntimeError("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
import clipnotes
early = [m for m in ("open_clip", "matplotlib", "datasets", "ipywidgets", "skimage") if m in sys.modules]
assert not early, f"imported too early: {early}"
import open_clip, torchvision
print("fine")
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("CLIPNOTES_SEED", "CLIPNOTES_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_import_opens_no_connection_and_open_clip_imports_after_it():
    result = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True)
    assert result.stdout.strip() == "fine", result.stderr


def test_the_repair_is_made_where_torchvision_is_broken_and_only_there():
    plain = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    broken = plain.returncode != 0 and "nms" in plain.stderr
    assert (clipnotes._torchvision_library is not None) == broken


def without_torchvision(monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


def test_no_torchvision_is_no_error(monkeypatch):
    without_torchvision(monkeypatch)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert clipnotes._repair_torchvision() is None


def test_another_error_of_torchvision_is_not_hidden(monkeypatch, tmp_path):
    without_torchvision(monkeypatch)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="something else"):
        clipnotes._repair_torchvision()


def draw_numbers():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_start_seeds_everything(monkeypatch):
    start("01_clip")
    first = draw_numbers()
    start("01_clip")
    assert draw_numbers() == first
    monkeypatch.setenv("CLIPNOTES_SEED", "3")
    assert start("01_clip").seed == 3
    assert all(a != b for a, b in zip(draw_numbers(), first, strict=True))


def test_start_returns_a_frozen_session_and_prints_one_line(capsys):
    session = start("01_clip")
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert all(word in line for word in (clipnotes.__version__, "01_clip", session.device, "tiny", "seed 0"))
    assert (session.chapter, session.mode, session.seed) == ("01_clip", "tiny", 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.mode = "full"


def test_the_environment_overrides_the_mode(monkeypatch):
    assert start("01_clip", mode="full").mode == "full"
    monkeypatch.setenv("CLIPNOTES_MODE", "tiny")
    assert start("01_clip", mode="full").mode == "tiny"


def test_on_a_gpu_the_line_says_how_to_get_the_real_clip(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert start("01_clip").device == "cuda"
    assert 'start("01_clip", mode="full")' in capsys.readouterr().out
    start("01_clip", mode="full")
    assert "mode=" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "seed", "message"),
    [
        (("dalle",), "0", "'dalle' is no chapter.*as in '01_clip'"),
        (("01_clip", "huge"), "0", "no mode 'huge'.*tiny, full"),
        (("01_clip",), "zero", "CLIPNOTES_SEED is 'zero'"),
    ],
)
def test_bad_input_is_refused_with_what_works(monkeypatch, arguments, seed, message):
    monkeypatch.setenv("CLIPNOTES_SEED", seed)
    with pytest.raises(ValueError, match=message):
        start(*arguments)
