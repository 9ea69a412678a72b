"""Notebooks as files and as running programs: what execute, student, hygiene and the tests share."""

import ast
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from clipnotes.check.claims import read_register
from clipnotes.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "book" / "template" / "00_template.ipynb"
TOY_WORLD = ROOT / "book" / "toyworld.ipynb"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def chapters() -> list[Path]:
    """The course's notebooks, in order."""
    return sorted((ROOT / "chapters").glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """Read a notebook as it is on disk, without converting it to another version."""
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook by way of a temporary file, so that an interruption leaves the old one whole."""
    atomic_write(path, nbformat.writes(notebook) + "\n")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that are not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def facts(cell: NotebookNode) -> dict:
    """The course's own metadata of a cell."""
    return cell.metadata.get("clipnotes", {})


def keeps(node: ast.stmt) -> bool:
    """Does a statement only define: an import, a function, a class, or constants in capitals?"""
    if isinstance(node, ast.Assign):
        names = [n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        return bool(names) and all(name.isupper() for name in names)
    return isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))


def defined(path: Path) -> SimpleNamespace:
    """What a chapter defines: imports, functions, classes and constants (UPPER_CASE), without running the rest.

    The notebook is the only source of a method's code: programs and tests take it from here.
    """
    space = {"session": SimpleNamespace(mode="tiny", device="cpu", seed=0), "__name__": path.stem}
    for cell in code_cells(read(path)):
        if not set(facts(cell)) & {"exercise", "check", "solution"}:
            tree = ast.parse(cell.source)
            tree.body = [node for node in tree.body if keeps(node)]
            exec(compile(tree, cell.id, "exec"), space)
    return SimpleNamespace(space=space, **{k: v for k, v in space.items() if not k.startswith("_")})


def printed(cell: NotebookNode) -> str:
    """The text that a cell has shown: what it printed, and the lines of claims and parity."""
    found = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            found.append(output.text)
        elif set(output.get("data", {})) == {"text/plain"}:
            found.append(output.data["text/plain"])
    return "\n".join(found)


def register_of(notebook: Path) -> dict[str, dict]:
    """The claims that are registered beside a notebook."""
    path = notebook.with_suffix(".toml")
    return read_register(path) if path.exists() else {}


def shown(notebook: NotebookNode, kind: str) -> list[dict]:
    """What the cells' outputs carry for the pages: "claim", "parity" or "card", in the order of the notebook."""
    return [output.metadata["clipnotes"][kind] for cell in code_cells(notebook) for output in cell.get("outputs", [])
            if kind in output.get("metadata", {}).get("clipnotes", {})]


def environment(seed: int = 0) -> dict[str, str]:
    """The kernel's environment: one thread, no progress bars, the same hashes, the seed, tiny mode."""
    fixed = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "PYTHONHASHSEED": "0", "CI": "1"}
    kept = {k: v for k, v in os.environ.items() if k != "CLIPNOTES_MODE"}
    return kept | fixed | {"CLIPNOTES_SEED": str(seed)}


class Kernel:
    """A kernel in a notebook's folder that runs one piece of source after another."""

    def __init__(self, client: NotebookClient):
        self.client = client

    def run(self, source: str) -> tuple[str, str | None]:
        """Run source. Returns what it printed, and the error as "Name: message", or None."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        errors = [f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
        return printed(cell), errors[0] if errors else None


def client(notebook: NotebookNode, folder: Path, timeout: int = 1200, allow_errors: bool = False) -> NotebookClient:
    """What runs a notebook's cells in a folder."""
    return NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        allow_errors=allow_errors,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )


@contextmanager
def kernel(folder: Path, timeout: int = 600) -> Iterator[Kernel]:
    running = client(nbformat.v4.new_notebook(), folder, timeout, allow_errors=True)
    with running.setup_kernel(env=environment()):
        yield Kernel(running)
