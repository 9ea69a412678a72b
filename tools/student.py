"""Write student copies of the chapters to build/student/: the exercises stay, the solutions go.

    python tools/student.py                          all chapters
    python tools/student.py chapters/01_clip.ipynb   only these

A student copy has no outputs. Its self-checks keep nbgrader's marks, and so do the cells to be filled in.
"""

import copy
import sys
from pathlib import Path

from nbformat import NotebookNode

from notebooks import ROOT, chapters, code_cells, facts, read, write

FOLDER = ROOT / "build" / "student"


def student_copy(notebook: NotebookNode) -> NotebookNode:
    """The notebook without solutions and outputs."""
    notebook = copy.deepcopy(notebook)
    notebook.cells = [cell for cell in notebook.cells if "solution" not in facts(cell)]
    notebook.metadata.pop("widgets", None)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    return notebook


def main() -> int:
    paths = [Path(name).resolve() for name in sys.argv[1:]] or chapters()
    for path in paths:
        write(student_copy(read(path)), FOLDER / path.name)
        print(f"{(FOLDER / path.name).relative_to(ROOT)}")
    if not paths:
        print("There is no chapter yet: chapters/ is empty.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
