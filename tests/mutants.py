"""Edits of a chapter and of the library, each made in a copy of the course, where the chapter's probe judges it.

tests/test_recordings.py runs them, and holds the table of book/recordings.md to them.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = "07_clipasso"  # its probe is the quickest
NOTEBOOK, CLIP = f"chapters/{CHAPTER}.ipynb", "clipnotes/clip.py"


@dataclass(frozen=True)
class Edit:
    """In `file`, the one place that reads `old` becomes `new`."""

    what: str
    file: str
    old: str
    new: str

    @property
    def where(self) -> str:
        return "notebook" if self.file == NOTEBOOK else self.file


HARMLESS = [
    Edit("another name for a local variable", NOTEBOOK,
         """    weight = min_max(saliency)
    if edges is not None:
        weight = weight * (1 - edges)
    probability = torch.zeros_like(weight)
    inside = weight > 0
    probability[inside] = (weight[inside] / temperature).softmax(0)
""", """    score = min_max(saliency)
    if edges is not None:
        score = score * (1 - edges)
    probability = torch.zeros_like(score)
    inside = score > 0
    probability[inside] = (score[inside] / temperature).softmax(0)
"""),
    Edit("another docstring", CLIP, "x * sigmoid(1.702 x): close to GELU, but not equal.", "Nearly GELU."),
    Edit("a line that prints", NOTEBOOK, "    strokes = start.clone().requires_grad_()\n    presence",
         '    print(len(images), "sketches")\n    strokes = start.clone().requires_grad_()\n    presence'),
    Edit("a function split in two", NOTEBOOK,
         """    maps = clip.visual.layers(clip.standardise(images))
    return maps | {"fc": clip.visual.attnpool(maps["layer4"])}""",
         """    return pooled(clip, clip.visual.layers(clip.standardise(images)))


def pooled(clip: CLIP, maps: dict[str, Tensor]) -> dict[str, Tensor]:
    return maps | {"fc": clip.visual.attnpool(maps["layer4"])}"""),
    Edit("imports in another order", NOTEBOOK, "import math\nimport os\nimport time\n",
         "import time\nimport os\nimport math\n"),
]

HARMFUL = [
    Edit("a factor in the loss", NOTEBOOK, "parts[layer] = weight * loss", "parts[layer] = 1.1 * weight * loss"),
    Edit("a normalisation dropped", NOTEBOOK, "maps = clip.visual.layers(clip.standardise(images))\n    return maps",
         "maps = clip.visual.layers(images)\n    return maps"),
    Edit("another learning rate", NOTEBOOK, "torch.optim.Adam(groups, lr)", "torch.optim.Adam(groups, 1.2 * lr)"),
    Edit("another augmentation", NOTEBOOK, "distortion: float = 0.5", "distortion: float = 0.3"),
    Edit("another temperature", NOTEBOOK, "temperature: float = 0.3", "temperature: float = 0.4"),
    Edit("a normalisation dropped", CLIP, "(images.to(self.image_mean) - self.image_mean) / self.image_std",
         "images.to(self.image_mean)"),
    Edit("another activation", CLIP, "x * torch.sigmoid(1.702 * x)", "x * torch.sigmoid(1.6 * x)"),
    Edit("pixels half a pixel off", "clipnotes/strokes.py",
         "-1) + 0.5 - bezier(own, t)", "-1) - bezier(own, t)"),
    Edit("darker drawings", "clipnotes/toyworld/drawings.py", "reshape(-1, 4, 64, 64)[:n]",
         "reshape(-1, 4, 64, 64)[:n] // 10 * 9"),
    Edit("a lower horizon", "clipnotes/toyworld/scenery.py", "torch.randint(size * 35 // 100, size * 60 // 100, (n,)",
         "torch.randint(size * 45 // 100, size * 60 // 100, (n,)"),
]


def linked(source: str, target: str) -> None:
    """Copy a program; what is not one is only pointed to."""
    if source.endswith(".py"):
        shutil.copy(source, target)
    else:
        os.symlink(source, target)


def copied(folder: Path, edits: list[Edit]) -> Path:
    """A copy of the course's programs and chapters in a folder, with the edits made."""
    for part in ("clipnotes", "chapters", "recordings", "tools"):
        shutil.copytree(ROOT / part, folder / part, copy_function=linked,
                        ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for edit in edits:
        path = folder / edit.file
        old, new = edit.old, edit.new
        if path.suffix == ".ipynb":  # text in a notebook is written as JSON writes it, a line a string
            notebook = json.loads(path.read_text("utf-8"))
            sources = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
            fits = [cell for cell in sources if old in "".join(cell["source"])]
            assert len(fits) == 1 and "".join(fits[0]["source"]).count(old) == 1, f"{edit.what}: not one place"
            fits[0]["source"] = "".join(fits[0]["source"]).replace(old, new)
            text = json.dumps(notebook)
        else:
            assert path.read_text("utf-8").count(old) == 1, f"{edit.what}: not one place"
            text = path.read_text("utf-8").replace(old, new)
        path.unlink()
        path.write_text(text, "utf-8")
    return folder


def moved(root: str) -> list[str]:
    """What the chapter's probe says in a copy of the course. To be called in a process that has not met the course."""
    sys.path[:0] = [root, f"{root}/tools"]
    import clipnotes
    from bench import load

    assert Path(clipnotes.__file__).is_relative_to(root)
    try:
        return load(Path(root, "recordings", CHAPTER, "record.py")).recorder.moved()
    except RuntimeError as error:  # the probe did not get to its end
        return [str(error)]


def table() -> str:
    """The edits and their verdicts in Markdown."""
    rows = [(edit, "passes") for edit in HARMLESS] + [(edit, "fails") for edit in HARMFUL]
    lines = [f"| {edit.what} | {edit.where} | {verdict} |" for edit, verdict in rows]
    return "\n".join(["| edit | where | probe |", "|---|---|---|", *lines])
