"""The wheel carries all that a chapter needs offline, and stays small."""

import subprocess
import sys
import zipfile

import pytest

from notebooks import ROOT

MEGABYTES = 50


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def test_wheel_is_small(wheel):
    size = wheel.stat().st_size / 1e6
    assert size <= MEGABYTES, f"the wheel has {size:.1f} MB"


def test_wheel_holds_data_and_official_numbers(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    data = {f"clipnotes/data/{p.name}" for p in (ROOT / "clipnotes" / "data").iterdir() if p.is_file()}
    golden = {f"clipnotes/golden/{p.name}" for p in (ROOT / "tests" / "golden").iterdir() if p.is_file()}
    modules = {f"clipnotes/{p.name}" for p in (ROOT / "clipnotes").glob("*.py")}
    assert data and golden and data | golden | modules <= inside
    assert any(name.endswith("LICENSE") for name in inside)


def test_import_is_quiet():
    """`import clipnotes` loads neither open_clip nor matplotlib, and opens no connection."""
    source = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "import clipnotes\n"
        "print([m for m in ('open_clip', 'matplotlib', 'datasets', 'ipywidgets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
