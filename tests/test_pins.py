"""Pins of what is fetched: made at first use, kept under several writers, and refused when they are broken."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import huggingface_hub
import pytest

from clipnotes import pins
from notebooks import ROOT

WRITER = """
import sys
from pathlib import Path
from clipnotes import pins
pins.PINS, file = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for i in range(40):
    pins.check_digest(file, f"{file.stem}/{i}", "c" * 40)
"""


@pytest.fixture(autouse=True)
def table(monkeypatch, tmp_path):
    monkeypatch.setattr(pins, "PINS", tmp_path / "cache" / "pins.json")
    return pins.PINS


@pytest.fixture
def newest(monkeypatch):
    """The newest commits of a hub, by kind and repository; empty, there is no network."""
    commits = {}

    def repo_info(self, repository, repo_type):
        if not commits:
            raise ConnectionError("no route")
        return SimpleNamespace(sha=commits[repo_type, repository])

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    return commits


def test_the_newest_commit_is_pinned_at_first_use(newest, table, capsys):
    newest |= {("dataset", "a/films"): "a" * 40, ("model", "a/films"): "b" * 40}
    assert pins.pinned_commit("a/films", "dataset") == "a" * 40
    assert capsys.readouterr().out == f"datasets/a/films is pinned from now on, in {table}: {'a' * 40}\n"
    newest["dataset", "a/films"] = "c" * 40
    assert pins.pinned_commit("a/films", "dataset") == "a" * 40, "it has moved on"
    assert pins.pinned_commit("a/films") == "b" * 40, "a model of that name is another"
    newest.clear()
    assert pins.pinned_commit("a/films") == "b" * 40, "offline"
    with pytest.raises(ConnectionError):
        pins.pinned_commit("a/other")
    assert json.loads(table.read_text("utf-8")) == {"datasets/a/films": "a" * 40, "models/a/films": "b" * 40}


def test_a_file_of_another_digest_is_refused(table, tmp_path, capsys):
    kept, link = tmp_path / "kept", tmp_path / "films.zip"
    kept.write_bytes(b"films")
    link.symlink_to(kept)
    for _ in range(2):
        pins.check_digest(link, "a/films", "a" * 40)
    assert capsys.readouterr().out.count("films.zip is pinned") == 1
    kept.write_bytes(b"others")
    first = f"^films.zip of a/films is not what was first fetched .*: delete {kept}, and .* its entry in {table}.$"
    with pytest.raises(pins.PinError, match=first):
        pins.check_digest(link, "a/films", "a" * 40)
    pins.check_digest(link, "a/films", "b" * 40)  # of another commit it is another file
    with pytest.raises(pins.PinError, match=f"is not what was published .*: delete {kept}, and fetch it again.$"):
        pins.check_digest(link, "a/films", "a" * 40, "0" * 64)
    pins.check_digest(link, "a/films", "a" * 40, pins.digest(kept))


@pytest.mark.parametrize("text", ['{"models/a": "', '["a"]', '{"models/a": null}', '{"models/a": "main"}'])
def test_damaged_pins_are_named_and_kept(newest, table, text):
    newest["model", "b"] = "a" * 40
    table.parent.mkdir()
    table.write_text(text, "utf-8")
    with pytest.raises(pins.PinError, match=f"^{table} is damaged: delete it, and"):
        pins.pinned_commit("b")
    assert table.read_text("utf-8") == text


def test_several_processes_lose_no_pin(table, tmp_path):
    files = [tmp_path / name for name in ("a.zip", "b.zip")]
    for file in files:
        file.write_bytes(file.name.encode())
    start = partial(subprocess.Popen, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    writers = [start([sys.executable, "-c", WRITER, str(table), str(file)]) for file in files]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    found = json.loads(table.read_text("utf-8"))
    assert found == {f"{f.stem}/{i}@{'c' * 40}/{f.name}": pins.digest(f) for f in files for i in range(40)}
