"""The wheel carries all that a chapter needs offline, nothing else, and stays small."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from notebooks import ROOT

MEGABYTES = 50
# What writers leave behind when they are killed, or while they write.
LEFT_BEHIND = ["clipnotes/data/.tiny.safetensors.host-1-00000000.tmp", "clipnotes/data/.world.json.lock",
               "chapters/.09_actionclip.toml.lock", "chapters/.ipynb_checkpoints/09_actionclip.toml",
               "recordings/09_actionclip/.runs.json.lock", "recordings/09_actionclip/.runs.json.host-1-00000000.tmp",
               "tests/golden/.clip_loss.safetensors.host-1-00000000.tmp"]
WHERE_INSTALLED = """
import sys
from pathlib import Path
import clipnotes
from clipnotes import records, weights
from clipnotes.check.claims import read_register
from clipnotes.clip import load_clip
from clipnotes.files import PACKAGE, shared
from safetensors import safe_open
assert PACKAGE == Path(sys.argv[1]) / "clipnotes", PACKAGE
for register in sorted(shared("chapters").glob("*.toml")):
    assert read_register(register)
for runs in sorted(shared("recordings").glob("*/runs.json")):
    assert records.load(runs.parent.name).rows
for path in sorted(PACKAGE.rglob("*.safetensors")):
    if path.parent.name != "golden":
        name = path.relative_to(path.parents[1]).with_suffix("").as_posix().removeprefix("data/")
        weights.load_weights(name, safe_open(path, "pt").metadata()["kind"])
assert shared("golden/clip_loss.safetensors").is_relative_to(PACKAGE) and load_clip("tiny").config.is_vit
print("all found")
"""


def build(folder: Path, target: str, out: Path) -> Path:
    """Build a distribution of the project in `folder`."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(path for path in out.iterdir() if path.suffix in (".whl", ".gz"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the project in which writers were killed."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("clipnotes", "chapters", "recordings", "tests/golden"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, folder)
    for name in LEFT_BEHIND:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("half", "utf-8")
    return folder


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory) -> Path:
    return build(tree, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def inside(wheel) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_is_small(wheel):
    size = wheel.stat().st_size / 1e6
    assert size <= MEGABYTES, f"the wheel has {size:.1f} MB"


def test_wheel_holds_what_chapters_need(inside):
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "clipnotes").rglob("*")
              if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")}
    wanted |= {f"clipnotes/golden/{p.name}" for p in (ROOT / "tests" / "golden").glob("[!.]*")}
    wanted |= {f"clipnotes/chapters/{p.name}" for p in (ROOT / "chapters").glob("[!.]*.toml")}
    wanted |= {f"clipnotes/recordings/{p.parent.name}/{p.name}" for kind in ("json", "safetensors")
               for p in (ROOT / "recordings").glob(f"*_*/[!.]*.{kind}")}
    assert len(wanted) > 100 and wanted <= inside, wanted - inside
    assert any(name.endswith("LICENSE") for name in inside)


def test_wheel_holds_nothing_else(inside):
    here = {name for name in inside if not name.startswith("clipnotes-")}
    assert all(name.startswith("clipnotes/") for name in here)
    assert not [name for name in here if any(part.startswith((".", "__pycache__")) for part in name.split("/"))]
    for name in here:
        folder = name.split("/")[1]
        kinds = {"chapters": (".toml",), "recordings": (".json", ".safetensors")}.get(folder)
        assert kinds is None or name.endswith(kinds), name
    assert not [name for name in here if name.startswith("clipnotes/recordings/tiny/")]


def test_a_source_distribution_makes_the_same_wheel(tree, inside, tmp_path):
    with tarfile.open(build(tree, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("clipnotes-*")
    again = build(folder, "wheel", tmp_path / "wheel")
    assert set(zipfile.ZipFile(again).namelist()) == inside


def test_an_installed_wheel_finds_its_files_from_anywhere(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(installed)
    done = subprocess.run([sys.executable, "-P", "-c", WHERE_INSTALLED, str(installed)], cwd=elsewhere,
                          env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True)
    assert done.stdout == "all found\n", done.stderr


def test_an_editable_install_points_here_and_copies_nothing(tree, tmp_path):
    names = zipfile.ZipFile(build(tree, "wheel:editable", tmp_path)).namelist()
    (path,) = (name for name in names if not name.startswith("clipnotes-"))
    assert path.endswith("clipnotes.pth")
    assert zipfile.ZipFile(next(tmp_path.glob("*.whl"))).read(path).decode().strip() == str(tree)


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
