"""Begin a chapter: python tools/new.py 04_vild ["ViLD: a detector for names without boxes"]

Writes the notebook from the template with its registered claims, and stubs of what belongs to it: recording, parity,
exercises, test. Puts its line into _toc.yml and on the map of book/index.md. No other file changes.
"""

import json
import re
import sys

from nbformat import from_dict, writes

from clipnotes.files import atomic_write
from notebooks import ROOT, TEMPLATE, code_cells, read

PARTS = {"Part 1 · Names": (1,), "Part 2 · Pixels": (2, 3), "Part 3 · Boxes": (4, 5, 6), "Part 4 · Drawing": (7,),
         "Part 5 · Time": (8, 9), "Part 6 · Other senses": (10, 11, 12, 13), "Part 7 · Three ways": (14,)}
NEXT = """Next:
  1. Write it: each section says what belongs there, and CONTRIBUTING.md has the rules on one page.
  2. make execute NAME={name}   runs it and stores the outputs
  3. make check NAME={name}     says in a second what is still missing
  4. make test                  everything
  Golden numbers go to tests/golden/, the papers to book/references.bib."""

RECORD = '''"""Chapter {n}'s recordings. See recordings/runner.py for the command line."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recordings.runner import Recorder

recorder = Recorder("{name}")
chapter = recorder.chapter

if __name__ == "__main__":
    sys.exit(recorder.main())
'''
PARITY = '''"""{title}: what a reader's own code is compared with."""

RELEASE = "owner/repository at commit"
'''
TEST = '''"""Chapter {n}'s own code, from the notebook."""

from notebooks import ROOT

NOTEBOOK = ROOT / "chapters" / "{name}.ipynb"


def test_the_chapter_defines_what_it_builds(chapter):
    assert chapter.Matcher(2, 2, 4).logit_scale.exp() > 14
'''


def from_template(name: str, title: str) -> dict:
    """The template as a chapter: its number, name and title in place, no outputs."""
    number = name[:2]
    notebook = read(TEMPLATE)
    notebook.metadata.pop("widgets", None)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    text = json.dumps(notebook)
    text = text.replace("book/template/00_template", f"chapters/{name}").replace("00_template", name)
    text = re.sub(r"\b00\.(?=[a-z])", f"{number}.", text)
    text = re.sub(r"(Figure |\\\\tag\{)0\.", rf"\g<1>{int(number)}.", text)
    notebook = from_dict(json.loads(text))
    heading = notebook.cells[0].source.split("\n", 1)
    notebook.cells[0].source = "\n".join([f"# {int(number)} · {title}", *heading[1:]])
    return notebook


def stubs(name: str, title: str) -> dict[str, str]:
    """Path -> content of each file of a new chapter. Exercises and claims begin as the template's."""
    n, method = int(name[:2]), name[3:]
    exercises = (ROOT / "clipnotes/check/exercises/ch00.py").read_text("utf-8")
    return {
        f"chapters/{name}.ipynb": writes(from_template(name, title)) + "\n",
        f"chapters/{name}.toml": TEMPLATE.with_suffix(".toml").read_text("utf-8"),
        f"recordings/{name}/record.py": RECORD.format(n=n, name=name),
        f"clipnotes/check/parity/{method}.py": PARITY.format(title=title),
        f"clipnotes/check/exercises/ch{name[:2]}.py": exercises,
        f"tests/chapters/test_{name}.py": TEST.format(n=n, name=name),
    }


def in_the_contents(text: str, name: str) -> str:
    """_toc.yml with the chapter in its part, in order; the part appears with its first chapter."""
    line, number = f"      - file: chapters/{name}\n", int(name[:2])
    if line in text:
        return text
    head, tail = text.split("  - caption: The evidence\n")
    start, *parts = re.split(r"(?m)^(?=  - caption: \"Part)", head)
    caption = next(title for title, numbers in PARTS.items() if number in numbers)
    mine = [part for part in parts if f'"{caption}"' in part] or [f'  - caption: "{caption}"\n    chapters:\n']
    others = [part for part in parts if f'"{caption}"' not in part]
    first, *files = re.split(r"(?m)^(?=      - file:)", mine[0])
    parts = sorted([*others, first + "".join(sorted([*files, line]))])
    return start + "".join(parts) + "  - caption: The evidence\n" + tail


def on_the_map(text: str, name: str) -> str:
    """book/index.md with a link where its map said that the chapter is planned."""
    entry = re.compile(rf"(?m)^{int(name[:2])}\. (.+?) \[planned\]\{{\.planned\}}")
    return entry.sub(rf"{int(name[:2])}. [\1](../chapters/{name}.ipynb)", text)


def main() -> int:
    if len(sys.argv) < 2 or not re.fullmatch(r"\d\d_[a-z0-9_]+", sys.argv[1]):
        print("Name the chapter as two digits and a word: make new NAME=04_vild TITLE='ViLD: ...'")
        return 2
    name, title = sys.argv[1], (sys.argv[2:] or [sys.argv[1][3:]])[0] or sys.argv[1][3:]
    files = stubs(name, title)
    if standing := [path for path in files if (ROOT / path).exists() and f"chapters/{name}" in path]:
        print(f"{standing[0]} exists. Choose another name, or move it away first.")
        return 1
    for path, content in files.items():
        if not (ROOT / path).exists():
            atomic_write(ROOT / path, content)
            print(f"{path} is written")
    for path, change in (("_toc.yml", in_the_contents), ("book/index.md", on_the_map)):
        text = (ROOT / path).read_text("utf-8")
        atomic_write(ROOT / path, change(text, name))
    print(NEXT.format(name=name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
