"""What `make` and the build machines run. An environment is set up by one at a time, and refused in another folder.

Nothing is installed: a stand-in for Python makes an environment whose pip writes down that it was asked.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from notebooks import ROOT

# Python as `make` uses it before there is an environment: `-m venv FOLDER`, and `-c PROGRAM` for all else.
PYTHON = f"""#!{sys.executable}
import os, sys
from pathlib import Path
if sys.argv[1:3] != ["-m", "venv"]:
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
folder = Path(sys.argv[3]).absolute()
(folder / "bin").mkdir(parents=True)
(folder / "pyvenv.cfg").write_text(f"version = 3.11.7\\ncommand = /usr/bin/python3 -m venv {{folder}}\\n", "utf-8")
(folder / "bin" / "python").write_text(Path("inner").read_text("utf-8"), "utf-8")
(folder / "bin" / "python").chmod(0o755)
"""
# The environment's Python: an editable install, or any program.
INNER = """#!/bin/bash
echo "$*" >> asked
if [[ "$*" == *"pip install"* ]]; then
  sleep 0.7
  packages="$(dirname "$0")/../lib/python3.11/site-packages"
  mkdir -p "$packages"
  pwd > "$packages/_clipnotes.pth"
fi
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "course"
    made.mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, made)
    (made / "inner").write_text(INNER, "utf-8")
    (made / "python").write_text(PYTHON, "utf-8")
    (made / "python").chmod(0o755)
    return made


def start(folder: Path, *words: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "CI")}
    return subprocess.Popen(["make", "PYTHON=./python", *words], cwd=folder, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def make(folder: Path, *words: str) -> tuple[int, str]:
    process = start(folder, *words)
    text = process.communicate(timeout=60)[0]
    return process.returncode, text


def installs(folder: Path) -> int:
    return (folder / "asked").read_text("utf-8").count("pip install")


def test_set_up_happens_once(folder):
    code, text = make(folder, "check")
    assert code == 0 and "Installing into .venv" in text and installs(folder) == 1
    assert (folder / "asked").read_text("utf-8").endswith("tools/hygiene.py\n")
    code, text = make(folder, "check")
    assert code == 0 and text == "" and installs(folder) == 1
    time.sleep(0.02)
    (folder / "requirements.txt").touch()
    assert make(folder, "setup")[0] == 0 and installs(folder) == 2


def test_the_second_of_two_waits_and_installs_nothing(folder):
    both = [start(folder, "setup"), start(folder, "check")]
    texts = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert installs(folder) == 1
    assert sum("Another make is setting up the environment: waiting for it." in text for text in texts) == 1
    assert sum("Installing into" in text for text in texts) == 1


def test_a_set_up_that_failed_is_done_again(folder):
    (folder / "inner").write_text(INNER.replace("sleep 0.7", "exit 1"), "utf-8")
    code, text = make(folder, "setup")
    assert code != 0 and "The install did not finish" in text and not (folder / ".venv/.clipnotes-ready").exists()
    (folder / ".venv/bin/python").write_text(INNER, "utf-8")
    assert make(folder, "setup")[0] == 0 and (folder / ".venv/.clipnotes-ready").exists()


@pytest.mark.parametrize("how", ["moved", "copied", "only the environment"])
def test_a_moved_or_copied_folder_is_named(folder, how):
    make(folder, "setup")
    other = folder.with_name("other course")
    if how == "only the environment":
        shutil.move(folder / ".venv", folder / "env")
        other, words = folder, ("VENV=env",)
    else:
        (shutil.move if how == "moved" else shutil.copytree)(folder, other)
        words = ()
    before = installs(other)
    for target in ("check", "setup", "book"):
        code, text = make(other, target, *words)
        assert code != 0 and "was moved or copied" in text and "rm -r" in text, text
        assert len([line for line in text.splitlines() if not line.startswith("make")]) == 2
    assert installs(other) == before, "nothing of the other folder's library was run or changed"
    shutil.rmtree(other / (words[0][5:] if words else ".venv"))
    assert make(other, "check", *words[1:])[0] == 0


def test_every_program_that_make_names_is_there():
    text = (ROOT / "Makefile").read_text("utf-8")
    names = set(re.findall(r"tools/\w+\.py", text))
    assert len(names) >= 8 and not [name for name in names if not (ROOT / name).is_file()]


def test_a_chapters_recordings_are_made_by_name(folder):
    (folder / "recordings/09_some").mkdir(parents=True)
    (folder / "recordings/09_some/record.py").write_text("", "utf-8")
    code, text = make(folder, "record", "NAME=09_some")
    assert code == 0 and (folder / "asked").read_text("utf-8").endswith("recordings/09_some/record.py\n")
    code, text = make(folder, "record")
    assert code != 0 and "make record NAME=01_clip" in text
    assert make(folder, "record", "NAME=10_none")[0] != 0


def test_progress_is_seen_on_a_build_machine(folder):
    assert "-v " not in make(folder, "-n", "test")[1]
    shown = [line for line in make(folder, "-n", "test", "CI=1")[1].splitlines() if "pytest" in line]
    assert len(shown) == 2 and all("PYTHONUNBUFFERED=1" in line and " -v " in line for line in shown)


def jobs(workflow: Path) -> dict:
    return yaml.safe_load(workflow.read_text("utf-8"))["jobs"]


def test_actions_are_pinned_by_commit():
    """A tag can be moved: the commit is what runs, and its version stands behind it."""
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
    lines = [line.strip() for path in workflows for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    others = [line for line in lines if not line.endswith("uses: ./.github/workflows/tests.yml")]
    assert len(others) >= 6
    for line in others:
        assert re.fullmatch(r"(- )?uses: actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line), line


def test_publishing_waits_for_the_tests():
    publish, tests = jobs(ROOT / ".github/workflows/publish.yml"), jobs(ROOT / ".github/workflows/tests.yml")
    assert publish["book"]["needs"] == "tests" and publish["deploy"]["needs"] == "book"
    assert publish["tests"] == {"uses": "./.github/workflows/tests.yml"}
    assert tests["tests"]["steps"][-1]["run"] == ".ci/run"
    assert [name for name, job in publish.items() if "permissions" in job] == ["deploy"]
    assert not [step for step in publish["deploy"]["steps"] if "run" in step]
