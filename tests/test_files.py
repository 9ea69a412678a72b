"""Files under several writers, under writers that are killed, and where they are found."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from clipnotes import files
from notebooks import ROOT

WRITER = """
import json, sys
from pathlib import Path
from clipnotes.files import atomic_write, lock
path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for i in range(count):
    with lock(path):
        entries = json.loads(path.read_text("utf-8"))
        entries[f"{name}.{i}"] = "x" * 2000
        atomic_write(path, json.dumps(entries))
"""
STUCK = """
import os, sys, time
from clipnotes import files
def forever(descriptor):
    print("written", flush=True)
    time.sleep(600)
os.fsync = forever
files.atomic_write(sys.argv[1], "half")
"""
HOLDER = """
import sys, time
from clipnotes.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def start(program: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_many_writers_lose_nothing_and_readers_see_whole_files(tmp_path):
    path, count = tmp_path / "claims.json", 40
    path.write_text("{}", "utf-8")
    writers = [start(WRITER, str(path), name, str(count)) for name in "abc"]
    reads, seen = 0, 0
    while any(writer.poll() is None for writer in writers):
        now = len(json.loads(path.read_text("utf-8")))  # a torn file is no JSON
        assert now >= seen
        reads, seen = reads + 1, now
    assert [writer.wait() for writer in writers] == [0, 0, 0] and reads > 10
    entries = json.loads(path.read_text("utf-8"))
    assert set(entries) == {f"{name}.{i}" for name in "abc" for i in range(count)}
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, f".{path.name}.lock"}
    for writer in writers:
        writer.stdout.close()


def test_a_killed_writer_leaves_the_old_file_and_its_orphan_is_swept(tmp_path):
    path = tmp_path / "run[1].json"
    files.atomic_write(path, "whole")
    writer = start(STUCK, str(path))
    assert writer.stdout.readline() == "written\n"
    (temporary,) = tmp_path.glob(".*.tmp")
    files.atomic_write(path, "new")  # the other one still writes: its file is its own
    assert temporary.exists() and path.read_text("utf-8") == "new"
    kill(writer)
    assert path.read_text("utf-8") == "new" and temporary.exists()
    files.atomic_write(tmp_path / "other.json", "{}")
    assert temporary.exists(), "only files of the same name are swept"
    files.atomic_write(path, "newer")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.json", "run[1].json"]


def test_an_orphan_of_another_machine_is_swept_when_it_is_old(tmp_path):
    path = tmp_path / "a.json"
    orphan = tmp_path / f".a.json.elsewhere-{os.getpid()}-00000000.tmp"
    orphan.write_text("half", "utf-8")
    files.atomic_write(path, "{}")
    assert orphan.exists()
    os.utime(orphan, (time.time() - 2 * files.ABANDONED,) * 2)
    files.atomic_write(path, "{}")
    assert not orphan.exists()


def test_a_failed_write_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.atomic_write(path, "old")

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        files.atomic_write(path, "new")
    assert path.read_text("utf-8") == "old" and list(tmp_path.iterdir()) == [path]


def test_bytes_text_folders_and_links(tmp_path):
    path = tmp_path / "deep" / "text"
    files.atomic_write(path, "雪\n")
    assert path.read_bytes() == "雪\n".encode()
    (tmp_path / "link").symlink_to(path)
    files.atomic_write(tmp_path / "link", b"\0\1")
    assert (tmp_path / "link").is_symlink() and path.read_bytes() == b"\0\1"


def test_a_lock_is_waited_for_and_dies_with_its_owner(tmp_path):
    path = tmp_path / "a.json"
    holder = start(HOLDER, str(path))
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TimeoutError, match="a.json is held by another process"):
        with files.lock(path, seconds=0.2):
            pass
    kill(holder)
    with files.lock(path, seconds=5):
        pass


def test_what_travels_is_found(tmp_path, monkeypatch):
    assert files.shared("golden/clip_loss.safetensors") == ROOT / "tests" / "golden" / "clip_loss.safetensors"
    assert files.shared("recordings/tiny/train.py") and files.shared("recordings/none") is None
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "clipnotes")
    (tmp_path / "clipnotes" / "golden").mkdir(parents=True)
    (tmp_path / "golden").mkdir()
    assert files.shared("golden") == tmp_path / "clipnotes" / "golden", "an installed package asks itself first"


def test_every_writer_is_atomic():
    """No program writes by itself: what it wrote would be torn when it is killed, or lost beside another writer."""
    own = r"\.write_(text|bytes)\(|\bsave_file\(|torch\.save\(|json\.dump\(|open\([^)\n]*[\"'][wax]\+?b?\+?[\"']"
    found = [f"{path.relative_to(ROOT)}: {line.strip()}"
             for folder in ("clipnotes", "tools", "recordings") for path in sorted((ROOT / folder).rglob("*.py"))
             for line in path.read_text("utf-8").splitlines() if re.search(own, line)]
    others = [line for line in found if not line.startswith("clipnotes/files.py")]
    assert others == [], "use clipnotes.files.atomic_write"
    assert len(found) == 1, "the pattern still finds a writer: the one in files.py"
