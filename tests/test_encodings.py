"""Every text is opened with its encoding: on a machine with another code page it would be garbage, or an error."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("clipnotes", "tools", "recordings", "chapters", "book")
NO_FILES = ("Image", "archive", "av", "tarfile", "webbrowser")  # what their open() opens is no text


def without_encoding(source: str) -> Iterator[int]:
    """The lines of calls that read or write a text in the machine's own code page."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        # where the mode and the encoding stand: a method's come one place earlier, as its path stands before it
        first = 0 if isinstance(node.func, ast.Attribute) else 1
        places = {"read_text": (None, 0), "write_text": (None, 1), "open": (first, first + 2), "fdopen": (1, 3)}
        if name not in places or getattr(getattr(node.func, "value", None), "id", "") in NO_FILES:
            continue
        mode_at, encoding_at = places[name]
        mode = given.get("mode") or (node.args[mode_at] if mode_at is not None and len(node.args) > mode_at else None)
        binary = isinstance(mode, ast.Constant) and "b" in str(mode.value)
        if not binary and "encoding" not in given and len(node.args) <= encoding_at:
            yield node.lineno


def texts() -> Iterator[tuple[str, str]]:
    """Each program of the repository, and each cell of each notebook, with its name."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text("utf-8")
        for path in sorted((ROOT / folder).rglob("*.ipynb")):
            for cell in json.loads(path.read_text("utf-8"))["cells"]:
                if cell["cell_type"] == "code":
                    yield f"{path.relative_to(ROOT)}, cell {cell['id']}", "".join(cell["source"])


@pytest.mark.parametrize(("call", "found"), [
    ("path.read_text()", True), ('path.read_text("utf-8")', False), ("path.write_text(x)", True),
    ('path.write_text(x, encoding="utf-8")', False), ("open(p)", True), ('open(p, "w")', True),
    ('open(p, "rb")', False), ('open(p, encoding="utf-8")', False), ("path.open()", True), ('path.open("wb")', False),
    ("Image.open(p)", False)])
def test_the_rule_knows_these_calls(call, found):
    assert bool(list(without_encoding(call))) == found


def test_every_text_has_an_encoding():
    found = [f"{name}:{line}" for name, source in texts() for line in without_encoding(source)]
    assert not found, "\n".join(found)


FLOW = """
import tempfile, warnings
from pathlib import Path

warnings.filterwarnings("error", category=EncodingWarning, module="clipnotes")
import clipnotes
from clipnotes import clip, draw, grammar, hub, lseg, metrics, prompts, records, toyworld, video
from clipnotes import check

clipnotes.start("01_clip")
model = clip.load_clip("tiny")
prompts.class_embeddings(model, grammar.TEMPLATES[:1], ["{}"])
model.encode_image(toyworld.postcard()["images"])
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "meshes.csv").write_text("file,class\\na.obj,chair\\n", encoding="utf-8")
    Path(folder, "a.obj").write_text("v 0 0 0\\nv 1 0 0\\nv 0 1 0\\nf 1 2 3\\n", encoding="utf-8")
    hub.meshes(folder, 8)
print("done")
"""


def test_a_flow_in_another_code_page():
    """What the rule cannot see: Python itself warns of each text that is opened without an encoding."""
    machine = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run([sys.executable, "-X", "warn_default_encoding", "-c", FLOW], cwd=ROOT, capture_output=True,
                         encoding="utf-8", env=os.environ | machine)
    assert run.stdout.rstrip().endswith("done"), run.stderr
