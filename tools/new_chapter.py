"""Begin a chapter from the template: python tools/new_chapter.py 02_lseg ["LSeg: a word for every pixel"]

Writes chapters/NAME.ipynb with the template's cells, headings and metadata, and says what to do next.
"""

import json
import re
import sys

from nbformat import from_dict

from notebooks import ROOT, TEMPLATE, code_cells, read, write

NEXT = """Next:
  1. Write it: each section says what belongs there, and CONTRIBUTING.md has the rules on one page.
  2. Add `- file: chapters/{name}` to _toc.yml, under its part, and link it on book/index.md.
  3. make execute NAME={name}   runs it and stores the outputs
  4. make check NAME={name}     says in a second what is still missing
  5. make test                  everything"""


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


def main() -> int:
    if len(sys.argv) < 2 or not re.fullmatch(r"\d\d_[a-z0-9_]+", sys.argv[1]):
        print("Name the chapter as two digits and a word: make new NAME=02_lseg TITLE='LSeg: ...'")
        return 2
    name, title = sys.argv[1], (sys.argv[2:] or [sys.argv[1][3:]])[0] or sys.argv[1][3:]
    path = ROOT / "chapters" / f"{name}.ipynb"
    if path.exists():
        print(f"{path.relative_to(ROOT)} exists. Choose another name, or move it away first.")
        return 1
    write(from_template(name, title), path)
    print(f"{path.relative_to(ROOT)} is written.\n{NEXT.format(name=name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
