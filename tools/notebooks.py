"""Notebooks as files and as running programs: what execute, student, hygiene and the tests share."""

import ast
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


def write_json(path: Path, content: dict | list, indent: int | None = 1) -> None:
    """Write a record by way of a temporary file, so that an interruption leaves the old one whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=indent) + "\n", "utf-8")
    os.replace(temporary, path)


def recorded_runs(path: Path) -> list[dict]:
    """The runs that a training program has put into its file."""
    return json.loads(path.read_text("utf-8"))["runs"] if path.exists() else []


def record_run(path: Path, command: str, run: dict, place: Callable[[dict], tuple], indent: int | None = 1) -> None:
    """Put a run into a training program's file, sorted by `place`; an older run of the same place is replaced."""
    content = json.loads(path.read_text("utf-8")) if path.exists() else dict(command=command, runs=[])
    content["runs"] = sorted([*(r for r in content["runs"] if place(r) != place(run)), run], key=place)
    write_json(path, content, indent)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells that are not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def facts(cell: NotebookNode) -> dict:
    """The course's own metadata of a cell."""
    return cell.metadata.get("clipnotes", {})


def defined(path: Path) -> SimpleNamespace:
    """What a chapter defines: the imports, functions and classes of its cells, without running the rest.

    The notebook is the only source of a method's code: programs and tests take it from here.
    """
    space = {"session": SimpleNamespace(mode="tiny", device="cpu", seed=0), "__name__": path.stem}
    kept = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    for cell in code_cells(read(path)):
        if not set(facts(cell)) & {"exercise", "check", "solution"}:
            tree = ast.parse(cell.source)
            tree.body = [node for node in tree.body if isinstance(node, kept)]
            exec(compile(tree, cell.id, "exec"), space)
    return SimpleNamespace(space=space, **{k: v for k, v in space.items() if not k.startswith("_")})


def printed(cell: NotebookNode) -> str:
    """What a cell has printed."""
    return "".join(
        o.text for o in cell.get("outputs", []) if o.output_type == "stream" and o.name == "stdout"
    )


def environment(records: Path | None = None) -> dict[str, str]:
    """The kernel's environment: one thread, no progress bars, the same hashes, records where they belong."""
    fixed = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "PYTHONHASHSEED": "0", "CI": "1"}
    kept = {k: v for k, v in os.environ.items() if k not in ("CLIPNOTES_RECORDS", "CLIPNOTES_MODE")}
    return kept | fixed | ({"CLIPNOTES_RECORDS": str(records)} if records else {})


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
