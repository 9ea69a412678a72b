"""Execute the chapters and store their outputs, so normalised that a second run changes nothing in git.

    python tools/execute.py                          all chapters, the template, the toy world
    python tools/execute.py chapters/01_clip.ipynb   only these
    python tools/execute.py --skip 01_clip           all but these

A notebook that raises is left as it was, and the cell is shown.
"""

import argparse
import base64
import copy
import json
import re
import sys
import time
from pathlib import Path

from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode, from_dict

from notebooks import (
    ROOT,
    TEMPLATE,
    TOY_WORLD,
    WIDGET_STATE,
    WIDGET_VIEW,
    chapters,
    client,
    code_cells,
    environment,
    read,
    write,
)

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def plain_png(data: bytes) -> bytes:
    """A PNG without its text and time chunks, which name the software that wrote it."""
    if not data.startswith(PNG_HEAD):
        return data
    kept, at = [PNG_HEAD], len(PNG_HEAD)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def plain_text(text: str) -> str:
    """Text without memory addresses and without the place of the repository on this machine."""
    text = re.sub(r" at 0x[0-9a-f]{6,}", "", text)
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".").replace(str(Path.home()), "~")


def plain_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Streams joined and without stderr, texts and pictures made plain, no timings."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            output.text = plain_text(output.text)
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        if "metadata" in output:
            output.metadata = from_dict({k: v for k, v in output.metadata.items() if k == "clipnotes"})
        data = output.get("data", {})
        for kind in data:
            if isinstance(data[kind], str) and (kind.startswith("text/") or kind.endswith("javascript")):
                data[kind] = plain_text(data[kind])
        if WIDGET_VIEW in data:
            data["text/plain"] = "an interactive figure: it is alive in the book, in Jupyter and on Colab"
        if "image/png" in data:
            png = base64.b64decode(data["image/png"])
            data["image/png"] = base64.b64encode(plain_png(png)).decode()
        kept.append(output)
    return kept


def references(value: object) -> list[str]:
    """The ids of the widgets that a widget's state mentions."""
    return re.findall(r"IPY_MODEL_([\w-]+)", json.dumps(value, sort_keys=True))


def shown_widgets(notebook: NotebookNode, state: dict) -> list[str]:
    """The ids of the widgets that are shown, those they are made of, and the links between them."""
    found: list[str] = []
    todo = [
        o.data[WIDGET_VIEW]["model_id"]
        for c in code_cells(notebook)
        for o in c.outputs
        if WIDGET_VIEW in o.get("data", {})
    ]
    while todo:
        id = todo.pop(0)
        if id in state and id not in found:
            found.append(id)
            todo = references(state[id]) + todo
    links = [id for id in state if "Link" in state[id].get("model_name", "")]
    return found + [id for id in links if id not in found and set(references(state[id])) <= set(found)]


def plain_widgets(notebook: NotebookNode) -> NotebookNode:
    """Keep the widgets that are shown, and number them in the order in which the page meets them."""
    widgets = notebook.metadata.get("widgets", {}).get(WIDGET_STATE)
    shown = shown_widgets(notebook, widgets["state"]) if widgets else []
    if not shown:
        notebook.metadata.pop("widgets", None)
        return notebook
    widgets["state"] = {id: widgets["state"][id] for id in shown}
    numbered = {id: f"widget-{number:04d}" for number, id in enumerate(shown, 1)}
    old = re.compile("|".join(map(re.escape, shown)))
    return from_dict(json.loads(old.sub(lambda match: numbered[match[0]], json.dumps(notebook))))


def fold(cell: NotebookNode) -> None:
    """A cell whose first line is `# @title Claim: ...` is folded under that title: in the book, Jupyter and Colab."""
    title = re.match(r"# @title (.+)", cell.source)
    if title is None or "claim" not in cell.metadata.get("tags", []):
        return
    tags = [*cell.metadata.tags, *({"hide-input"} - set(cell.metadata.tags))]
    prompts = {f"code_prompt_{state}": title[1] for state in ("show", "hide")}
    cell.metadata.update(from_dict({"tags": tags, "cellView": "form", "jupyter": {"source_hidden": True},
                                    "mystnb": cell.metadata.get("mystnb", {}) | prompts}))


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The same notebook without anything that differs from run to run, or from machine to machine."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            **{k: v for k, v in notebook.metadata.items() if k not in ("kernelspec", "language_info")},
        }
    )
    for number, cell in enumerate(code_cells(notebook), 1):
        cell.execution_count = number
        cell.metadata.pop("execution", None)
        fold(cell)
        cell.outputs = plain_outputs(cell.outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    return plain_widgets(notebook)


def execute(path: Path, timeout: int = 1200) -> float:
    """Run a notebook in its own folder and store it. Returns the seconds. Raises CellExecutionError."""
    notebook = read(path)
    notebook.metadata.pop("widgets", None)
    started = time.monotonic()
    client(notebook, path.parent, timeout).execute(env=environment())
    seconds = time.monotonic() - started
    write(normalise(notebook), path)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; all, if none is named")
    parser.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="names to leave alone: 01_clip")
    options = parser.parse_args()
    paths = [p.resolve() for p in options.paths] or [TEMPLATE, TOY_WORLD, *chapters()]
    failed = 0
    for path in paths:
        if path.stem in options.skip:
            continue
        print(f"{path.relative_to(ROOT)} ...", end=" ", flush=True)
        try:
            print(f"{execute(path):.0f} s")
        except CellExecutionError as error:
            failed += 1
            print(f"raised, and is left as it was:\n{error}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
