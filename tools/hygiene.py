"""What every notebook of the course must be. Each rule is one function: notebook in, complaints out.

    python tools/hygiene.py                          all chapters, the template, and what holds for every file
    python tools/hygiene.py chapters/01_clip.ipynb   only these

The tests run the same rules, and break a copy of the template for each, to see it fail.
"""

import ast
import base64
import html
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

from nbformat import NotebookNode

from clipnotes import records
from clipnotes.check.claims import line
from clipnotes.draw import picture_hash
from clipnotes.files import digest
from execute import normalise
from notebooks import (
    ROOT,
    TEMPLATE,
    WIDGET_STATE,
    WIDGET_VIEW,
    chapters,
    code_cells,
    facts,
    printed,
    read,
    register_of,
    shown,
    tags,
)

BOOK = "https://clip-notes.github.io/clip-notes/"
REPOSITORY = "https://github.com/clip-notes/clip-notes"
COLAB = "https://colab.research.google.com/github/clip-notes/clip-notes"
SECTIONS = [
    "At a glance",
    "Warm-up",
    "Set-up",
    "The idea",
    "Build it",
    "A toy proof",
    "Equal to the original",
    "Results",
    "On real data",
    "Look inside",
    "More measurements",
    "Where paper and code disagree",
    "Exercises",
    "Quiz, summary, what became of it",
]
KINDS = ["complete", "change", "debug", "transfer", "rebuild"]
PICTURES = ("image/png", "image/jpeg", "image/webp", "image/svg+xml", "image/gif")
MEGABYTES = 3


@dataclass
class Page:
    """A notebook and where it lies."""

    path: Path
    notebook: NotebookNode

    @property
    def is_template(self) -> bool:
        return self.path.stem == TEMPLATE.stem

    @cached_property
    def code(self) -> list[NotebookNode]:
        return code_cells(self.notebook)

    @cached_property
    def prose(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "markdown"]

    def tagged(self, tag: str) -> list[NotebookNode]:
        return [cell for cell in self.code if tag in tags(cell)]

    @cached_property
    def headings(self) -> list[tuple[int, str]]:
        return [h for cell in self.prose for h in headings(cell.source)]

    @cached_property
    def sections(self) -> dict[str, list[NotebookNode]]:
        """H2 -> the cells under it."""
        found: dict[str, list[NotebookNode]] = {"": []}
        current = ""
        for cell in self.notebook.cells:
            if cell.cell_type == "markdown":
                for level, text in headings(cell.source):
                    current = text if level == 2 else current
            found.setdefault(current, []).append(cell)
        return found

    @cached_property
    def exercises(self) -> dict[str, dict[str, NotebookNode]]:
        """name -> its cells: "exercise" (the stub), "check" (the self-check), "solution"."""
        found: dict[str, dict[str, NotebookNode]] = {}
        for cell in self.code:
            for role in ("exercise", "check", "solution"):
                if role in facts(cell):
                    found.setdefault(facts(cell)[role], {})[role] = cell
        return found


def prose_only(markdown: str) -> str:
    """Markdown without fenced code."""
    return re.sub(r"^(```|~~~).*?^\1\s*?$", "", markdown, flags=re.M | re.S)


def headings(markdown: str) -> list[tuple[int, str]]:
    found = re.findall(r"^(#{1,6})\s+(.+?)\s*#*$", prose_only(markdown), flags=re.M)
    return [(len(marks), text) for marks, text in found]


def words(cells: list[NotebookNode]) -> int:
    """Words of prose: without code blocks, formulas and the addresses of links."""
    text = "\n".join(prose_only(cell.source) for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " formula ", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)|<!--.*?-->", "]", text)
    return len(re.findall(r"[\w'’-]*\w", text))


def lines(cell: NotebookNode) -> int:
    return len(cell.source.strip("\n").split("\n"))


# ---------------------------------------------------------------- the shape of a chapter


def template_headings(page: Page) -> Iterator[str]:
    """One H1, in the first cell, and the fourteen H2s in their order (chapter 14 has its own)."""
    titles = [text for level, text in page.headings if level == 1]
    if len(titles) != 1 or not page.notebook.cells[0].source.startswith("# "):
        yield f"has {len(titles)} H1 headings: write one, at the start of the first cell"
    found = [text for level, text in page.headings if level == 2]
    if found != SECTIONS and not page.path.stem.startswith("14"):
        wrong = next(
            (f"{w!r} stands where {r!r} should" for w, r in zip(found, SECTIONS, strict=False) if w != r),
            f"there are {len(found)}, not {len(SECTIONS)}",
        )
        yield f"does not have the H2 headings of the template: {wrong}"


def lengths(page: Page) -> Iterator[str]:
    """2,500 to 4,500 words, 50 to 160 code cells (the template is exempt)."""
    if page.is_template:
        return
    if not 2500 <= (count := words(page.prose)) <= 4500:
        yield f"has {count} words, not 2,500 to 4,500"
    if not 50 <= len(page.code) <= 160:
        yield f"has {len(page.code)} code cells, not 50 to 160"


# ---------------------------------------------------------------- one idea a cell


def read_cells(page: Page) -> list[NotebookNode]:
    """The code cells that are read as code: all but the quiz, which is folded data."""
    return [cell for cell in page.code if "quiz" not in tags(cell)]


def short_cells(page: Page) -> Iterator[str]:
    """Cells of at most 20 lines, half of them of at most 8; a cell that is one class may have 55."""
    cells = read_cells(page)
    for cell in cells:
        alone = [type(node) for node in ast.parse(cell.source).body] == [ast.ClassDef]
        if lines(cell) > (55 if alone else 20):
            yield f"cell {cell.id} has {lines(cell)} lines, at most 20 are allowed (55 where it is one class)"
    if median(map(lines, cells)) > 8:
        yield f"has code cells of {median(map(lines, cells)):.0f} lines in the median, at most 8 are allowed"


def narrow_lines(page: Page) -> Iterator[str]:
    """No line of code above 80 characters: a page of 1280 pixels shows it whole, and so does paper."""
    for cell in read_cells(page):
        if wide := [line for line in cell.source.split("\n") if len(line) > 80]:
            yield f"cell {cell.id} has a line of {len(wide[0])} characters, at most 80 are allowed"


def prose_between(page: Page) -> Iterator[str]:
    """Prose before each code cell; only a check, a claim or a solution follows a code cell directly."""
    before = None
    for cell in page.notebook.cells:
        follows = {"check", "claim", "solution"} & set(tags(cell))
        if cell.cell_type == "code" and before is not None and before.cell_type == "code" and not follows:
            yield f"cell {cell.id} follows the code cell {before.id}: say between them what comes and why"
        before = cell


def statements(tree: ast.AST) -> Iterator[list[ast.AST]]:
    """What belongs to each statement itself: of a compound one only its head."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        inner = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
        yield [part for child in inner if not isinstance(child, ast.ExceptHandler) for part in ast.walk(child)]


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def one_comprehension(page: Page) -> Iterator[str]:
    """At most one comprehension a statement, with one `for`."""
    for cell in read_cells(page):
        for parts in statements(ast.parse(cell.source)):
            found = [part for part in parts if isinstance(part, COMPREHENSIONS)]
            if sum(len(part.generators) for part in found) > 1:
                yield f"cell {cell.id} has a statement with more than one comprehension: {ast.unparse(found[0])[:60]}"


LETTERS = set("ijkntbxyzqvuwghs_") | {chr(code) for code in range(ord("A"), ord("Z") + 1)}
DIALECT = {"lesson", "lessons", "exam", "exams", "pupil", "ask", "asked", "sure", "told"}


def names_of_the_field(page: Page) -> Iterator[str]:
    """Letters for indices and tensors of the notation only; the field's words, no dialect."""
    for cell in read_cells(page):
        nodes = list(ast.walk(ast.parse(cell.source)))
        bound = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        bound += [n.arg for n in nodes if isinstance(n, ast.arg)]
        bound += [n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        for name in sorted(set(bound)):
            if len(name) == 1 and name not in LETTERS:
                yield f"cell {cell.id} binds {name!r}: letters are for indices and tensors of the notation"
            if word := DIALECT & set(name.lower().split("_")):
                yield f"cell {cell.id} binds {name!r}: write train_*, test_*, model, probs, predict, not {word.pop()!r}"


def short_idea(page: Page) -> Iterator[str]:
    """The idea in at most 400 words."""
    count = words(page.sections.get("The idea", []))
    if count > 400:
        yield f"tells the idea in {count} words, at most 400 are allowed"


def short_setup(page: Page) -> Iterator[str]:
    """The set-up: one cell of at most 12 lines, which calls clipnotes.start with the chapter's own name."""
    cells = [cell for cell in page.sections.get("Set-up", []) if cell.cell_type == "code"]
    if len(cells) != 1 or cells[0].id != "set-up":
        yield "must have one code cell in its set-up section, with the id set-up"
        return
    if lines(cells[0]) > 12:
        yield f"has a set-up cell of {lines(cells[0])} lines, at most 12 are allowed"
    if f'clipnotes.start("{page.path.stem}"' not in cells[0].source:
        yield f'must call clipnotes.start("{page.path.stem}") in its set-up cell'


# ---------------------------------------------------------------- the stored file


def stored_form(page: Page) -> Iterator[str]:
    """nbformat 4.5, a python3 kernel, at most 3 MB."""
    book = page.notebook
    if (book.nbformat, book.nbformat_minor) != (4, 5):
        yield f"is nbformat {book.nbformat}.{book.nbformat_minor}, not 4.5"
    if book.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "needs the kernel python3"
    size = len(json.dumps(book, ensure_ascii=False).encode()) / 1e6
    if size > MEGABYTES:
        yield f"is {size:.1f} MB, at most {MEGABYTES} are allowed"


def sequential_counts(page: Page) -> Iterator[str]:
    """Execution counts 1, 2, 3, ...: run from top to bottom in one go."""
    counts = [cell.execution_count for cell in page.code]
    if counts != list(range(1, len(counts) + 1)):
        yield "was not run from top to bottom: make execute NAME=..."


def normalised(page: Page) -> Iterator[str]:
    """Stored by tools/execute.py: nothing random in it, nothing of one machine."""
    if json.dumps(normalise(page.notebook), sort_keys=True) != json.dumps(page.notebook, sort_keys=True):
        yield "is not normalised: make execute NAME=..."


def stored_outputs(page: Page) -> Iterator[str]:
    """A cell that is checked shows what it checked; no errors and no warnings are stored."""
    for cell in page.code:
        kinds = [output.output_type for output in cell.outputs]
        if "error" in kinds:
            yield f"cell {cell.id} has a stored error"
        if any(o.output_type == "stream" and o.name == "stderr" for o in cell.outputs):
            yield f"cell {cell.id} has stored warnings (stderr)"
        if {"claim", "check"} & set(tags(cell)) and not printed(cell).strip():
            yield f"cell {cell.id} is a claim or a check, but prints nothing"
        if "nbval-check-output" in tags(cell) and not cell.outputs:
            yield f"cell {cell.id} asks nbval to compare its output, but none is stored"


def compared_outputs(page: Page) -> Iterator[str]:
    """nbval compares the output of at least ten cells (three in the template)."""
    least, count = (3 if page.is_template else 10), len(page.tagged("nbval-check-output"))
    if count < least:
        yield f"has {count} cells tagged nbval-check-output, at least {least} are needed"


TAGS = {"check", "claim", "exercise", "full", "hide-cell", "hide-input", "interactive", "nbval-check-output",
        "nbval-ignore-output", "quiz", "solution"}


def known_tags(page: Page) -> Iterator[str]:
    """Only tags that the course knows: others keep a cell from being run or compared, as nbval-skip does."""
    for cell in page.notebook.cells:
        for tag in tags(cell):
            if tag not in TAGS and not tag.startswith("lib:"):
                yield f"cell {cell.id} has the tag {tag!r}, which the course does not know (see CONTRIBUTING.md)"
        if "nbval-ignore-output" in tags(cell) and "quiz" not in tags(cell):
            yield f"cell {cell.id} asks nbval to ignore its output: only a quiz may"


def stable_ids(page: Page) -> Iterator[str]:
    """Cell ids given by hand: unique words with dashes, as loss-naive."""
    for id, count in Counter(cell.id for cell in page.notebook.cells).items():
        if count > 1:
            yield f"has {count} cells with the id {id}"
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", id) or len(id) > 48:
            yield f"has the cell id {id!r}: write lower-case words with dashes"
        elif re.fullmatch(r"(?=.*\d)[0-9a-f-]{6,}|[0-9a-f]{8,}", id):
            yield f"has the cell id {id!r}, which looks random: give it a name"


# ---------------------------------------------------------------- truth


def definitions(source: str) -> dict[str, ast.AST]:
    """The classes and functions at the top level of a source."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    return {node.name: node for node in ast.parse(source).body if isinstance(node, kinds)}


def bare(tree: ast.AST) -> str:
    """A syntax tree as text, without docstrings (comments are not in it)."""
    tree = ast.parse(ast.unparse(tree))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)


def no_drift(page: Page) -> Iterator[str]:
    """What a cell tagged lib:clipnotes/x.py defines is what the library defines: the same syntax tree."""
    for cell in page.code:
        for tag in tags(cell):
            if not tag.startswith("lib:"):
                continue
            module = ROOT / tag.removeprefix("lib:")
            if not module.exists():
                yield f"cell {cell.id} is tagged {tag}, but there is no such file"
                continue
            here, there = definitions(cell.source), definitions(module.read_text("utf-8"))
            if not here:
                yield f"cell {cell.id} is tagged {tag}, but defines nothing"
            for name, node in here.items():
                if name not in there:
                    yield f"cell {cell.id} defines {name}, which {module.name} does not have"
                elif bare(node) != bare(there[name]):
                    yield f"cell {cell.id} defines {name} in another way than {module.name}"


def enough_assertions(page: Page) -> Iterator[str]:
    """At least ten asserts or claims."""
    count = sum(
        len(re.findall(r"^\s*assert\b|\bcheck\.(?:claim|parity)\(", cell.source, re.M)) for cell in page.code
    )
    if count < 10:
        yield f"has {count} asserts and claims, at least ten are needed"


def claims_in(cell: NotebookNode) -> list[str | None]:
    """The ids of the claims that a cell makes; None where an id is not written out."""
    calls = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)]
    ids = [call.args[0] for call in calls if ast.unparse(call.func) == "check.claim"]
    return [id.value if isinstance(id, ast.Constant) else None for id in ids]


def claims_stand_alone(page: Page) -> Iterator[str]:
    """A claim has a folded cell of its own, tagged claim: a title, at most ten lines, one line of output."""
    for cell in read_cells(page):
        found = claims_in(cell)
        if bool(found) != ("claim" in tags(cell)):
            yield f"cell {cell.id}: a cell that makes a claim, and no other, is tagged claim"
        if not found:
            continue
        if len(found) > 1 or None in found:
            yield f"cell {cell.id} makes {len(found)} claims: one a cell, with its id written out"
        if not re.match(r"# @title Claim: \S", cell.source) or lines(cell) > 10:
            yield f"cell {cell.id} must begin with '# @title Claim: ...' and have at most ten lines"
        if len(cell.outputs) > 1:
            yield f"cell {cell.id} shows more than its claim: tables and figures stand open before it"


def claims_registered(page: Page) -> Iterator[str]:
    """Each claim is registered in the chapter's .toml and each registered claim is made, once."""
    register, number = register_of(page.path), page.path.stem[:2]
    made = [id for cell in read_cells(page) for id in claims_in(cell) if id]
    for id, count in Counter(made).items():
        if id.partition(".")[0] != number or id.partition(".")[2] not in register:
            yield f"makes the claim {id}, which {page.path.stem}.toml does not register"
        if count > 1:
            yield f"makes the claim {id} {count} times"
    for name in register:
        if f"{number}.{name}" not in made:
            yield f"registers the claim {number}.{name}, but does not make it"


def few_claims(page: Page) -> Iterator[str]:
    """At most ten claims in the main line; the others stand under More measurements."""
    main = [cell for name, cells in page.sections.items() if name != "More measurements" for cell in cells]
    count = sum(len(claims_in(cell)) for cell in main if cell.cell_type == "code" and "quiz" not in tags(cell))
    if count > 10:
        yield f"makes {count} claims before and after 'More measurements', at most ten are allowed"


def claims_printed(page: Page) -> Iterator[str]:
    """The line that a claim shows is the one that its stored value and its registered bar make."""
    register = register_of(page.path)
    for cell in page.code:
        for output in cell.outputs:
            entry = output.get("metadata", {}).get("clipnotes", {}).get("claim")
            claim = register.get(entry["id"].partition(".")[2]) if entry else None
            if claim is not None and output.data.get("text/plain") != line(entry, claim):
                yield f"cell {cell.id} shows another line than its claim gives: make execute NAME=..."


# ---------------------------------------------------------------- numbers in prose

MEASURED = ("A toy proof", "Equal to the original", "Results", "On real data", "Look inside", "More measurements",
            "Quiz, summary, what became of it")
FIGURE = re.compile(r"(?<![\w.])([-+−]?\d[\d,]*(?:\.\d+)?)(?:\s?(%)|\s(points?)\b)?(?:\s?<!--\s*(.*?)\s*-->)?")
# Code, formulas, addresses of links, and numbers of figures, chapters, equations and versions are no figures.
NO_FIGURE = (r"`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|\(\d+\.\d+\)|\bv\d+(\.\d+)*"
             r"|\b(figure|table|chapter|equation|section|experiment) \d+(\.\d+)*")


def source_of(words: str, page: Page) -> float | None:
    """What a source in prose stands for: "09.id", "09.id baseline", "study:variant key"; None for paper and set."""
    name, *keys = words.split()
    if name in ("paper", "set"):
        return None
    if ":" in name:
        study, variant, *seed = name.split(":")
        runs = records.load(page.path.stem)
        path = [int(key) if key.isdigit() else key for key in keys]
        if seed:
            return float(runs.values(study, variant, *path)[runs.seeds(study, variant).index(int(seed[0]))])
        return runs.mean(study, variant, *path)
    entries = {entry["id"]: entry for entry in shown(page.notebook, "claim")}
    entry = entries[name]
    places = {"low": lambda: entry["interval"][0], "high": lambda: entry["interval"][1]}
    key = keys[0] if keys else "value"
    return places[key]() if key in places else float(entry[key])


def measured_prose(page: Page) -> Iterator[str]:
    """A share, a number of points or a decimal in prose about results names its source in a comment behind it.

    `82 %<!--09.transf-->` is a claim's value, `<!--09.transf baseline-->` its baseline, low or high an end of its
    interval, `<!--heads:transf accuracy-->` the mean of recorded runs, `<!--heads:transf:0 accuracy-->` one of them,
    `<!--paper-->` a paper's figure, `<!--set-->` a choice, not a measurement. The number must be what its source gives.
    """
    for section in MEASURED:
        for cell in page.sections.get(section, []):
            if cell.cell_type != "markdown":
                continue
            text = re.sub(NO_FIGURE, " ", prose_only(cell.source), flags=re.S | re.I)
            for figure, percent, points, source in FIGURE.findall(text):
                measured = percent or points or "." in figure
                if measured and not source:
                    yield f"cell {cell.id}: {figure}{percent or points} names no source, as <!--09.transf--> behind it"
                if source:
                    yield from wrong_figure(cell, figure, bool(percent or points), source, page)


def wrong_figure(cell: NotebookNode, figure: str, share: bool, source: str, page: Page) -> Iterator[str]:
    """What is wrong with a number in prose and the source that it names."""
    try:
        value = source_of(source, page)
    except (KeyError, ValueError, TypeError, IndexError, FileNotFoundError) as error:
        yield f"cell {cell.id}: the source {source!r} of {figure} leads to nothing ({error})"
        return
    if value is None:
        return
    number, places = float(figure.replace(",", "").replace("−", "-")), len(figure.partition(".")[2])
    gap = min(abs(abs(number) - abs(value) * factor) for factor in ((100, 1) if share else (1, 100)))
    if gap > 0.501 * 10.0**-places:
        yield f"cell {cell.id}: {figure} is written, its source {source} gives {value:.4g}"


# Digits of noise, and seconds of a clock.
UNSETTLED = r"\d\.\d{7,}|(?<![\d.])[1-9]\d*\.\d{5,}|\b\d+(\.\d+)? ?(ms|s|sec|seconds)\b(?! long| film| clip)"


def settled_outputs(page: Page) -> Iterator[str]:
    """No clock time and no digits of noise in a stored output: executing again changes nothing."""
    for cell in page.code:
        for output in cell.outputs:
            text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            if found := re.search(UNSETTLED, text):
                yield f"cell {cell.id} shows {found[0]!r}: round at the source, and keep clock times out"


# ---------------------------------------------------------------- figures


def alternative_text(page: Page) -> Iterator[str]:
    """Each picture has alternative text: 40 characters or more, its own."""
    seen: dict[str, str] = {}
    for cell in page.code:
        if not any(kind in o.get("data", {}) for o in cell.outputs for kind in PICTURES):
            continue
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if len(alt) < 40:
            yield f"cell {cell.id} shows a picture with {len(alt)} characters of mystnb.image.alt, not 40"
        elif alt in seen:
            yield f"cells {seen[alt]} and {cell.id} have the same alternative text"
        seen.setdefault(alt, cell.id)


def live_figure(page: Page) -> Iterator[str]:
    """At least one interactive figure with its state stored; its pictures have alternative text."""
    state = page.notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in page.tagged("interactive"):
        shown = [o.data[WIDGET_VIEW]["model_id"] for o in cell.outputs if WIDGET_VIEW in o.get("data", {})]
        if not shown or not set(shown) <= set(state):
            yield f"cell {cell.id} is tagged interactive, but no widget is stored for it"
    for cell in page.code:
        if any(WIDGET_VIEW in o.get("data", {}) for o in cell.outputs) and "interactive" not in tags(cell):
            yield f"cell {cell.id} shows a widget, but is not tagged interactive"
    if not page.tagged("interactive"):
        yield "has no interactive figure (a cell tagged interactive)"
    if any(model.get("model_name") == "ImageModel" for model in state.values()):
        yield "shows an ipywidgets Image, which has no alternative text: use draw.slider"
    for picture in re.findall(r"<img [^>]*>", json.dumps(state)):
        if not re.search(r'alt=\\"[^\\"]{10,}', picture):
            yield "has a picture in a widget without alternative text"
            break


def widget_tree(id: str, state: dict) -> Iterator[dict]:
    """The states of a stored widget and of all that it is made of, in order."""
    own = state.get(id, {}).get("state", {})
    yield own
    for child in own.get("children", []):
        yield from widget_tree(child.removeprefix("IPY_MODEL_"), state)


FRAME = re.compile(r'<p>(.*?)</p><img class="clipnotes-frame" alt="(.*?)" .*?;base64,([^"]+)">', re.S)


def stored_frames(page: Page) -> Iterator[str]:
    """The pictures and labels of a slider are those that its output carries: none was changed, lost or exchanged."""
    state = page.notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in page.code:
        for output in cell.outputs:
            if WIDGET_VIEW not in output.get("data", {}):
                continue
            parts = list(widget_tree(output.data[WIDGET_VIEW]["model_id"], state))
            shown = [found for part in parts for found in FRAME.findall(part.get("value") or "")] if parts else []
            carries = output.metadata.get("clipnotes", {})
            if [picture_hash(base64.b64decode(data)) for _, _, data in shown] != carries.get("frames", []):
                yield f"cell {cell.id} stores other frames of its slider than it carries: make execute NAME=..."
            told = [html.unescape(text) for text, _, _ in shown]
            if told != carries.get("labels", []) or any(text != alt for text, alt, _ in shown):
                yield f"cell {cell.id} stores other labels of its slider than it carries: make execute NAME=..."
            for part in parts:
                if part.get("description") and part["description"] not in cell.source:
                    yield f"cell {cell.id} does not say what its slider says: {part['description']!r}"


# ---------------------------------------------------------------- prose


def plain_markdown(page: Page) -> Iterator[str]:
    """CommonMark and formulas only: MyST's directives and roles show as noise on Colab and GitHub."""
    for cell in page.prose:
        if found := re.search(r"^(```+|:::+)\s*\{|\{[a-z:-]+\}`|^\([\w-]+\)=$", cell.source, re.M):
            yield f"cell {cell.id} uses MyST syntax: {found[0]!r}"
        if re.search(r"!\[[^\]]*\]\(https?:|<img[^>]+src=.https?:", cell.source):
            yield f"cell {cell.id} shows a picture from another site"


def no_own_machine(page: Page) -> Iterator[str]:
    """No path of a machine, no token."""
    for cell in page.notebook.cells:
        text = json.dumps([cell.source, cell.get("outputs", []), cell.metadata], ensure_ascii=False)
        for word in foreign(text):
            yield f"cell {cell.id} contains {word!r}"


def numbered(page: Page) -> Iterator[str]:
    """Figures and equations are numbered in order: Figure 3.1, Figure 3.2; \\tag{3.1}, \\tag{3.2}."""
    chapter = int(page.path.stem[:2])
    text = "\n".join(cell.source for cell in page.prose)
    for what, pattern in (("figures", r"\*\*Figure (\d+)\.(\d+)"), ("equations", r"\\tag\{(\d+)\.(\d+)\}")):
        found = [(int(a), int(b)) for a, b in re.findall(pattern, text)]
        if found != [(chapter, number) for number in range(1, len(found) + 1)]:
            yield f"does not number its {what} in order: {', '.join(f'{a}.{b}' for a, b in found)}"


def slug(heading: str) -> str:
    """The anchor of a heading, as the book and GitHub make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    """The anchors of a page of the book."""
    if path.suffix == ".ipynb":
        sources = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    else:
        sources = [path.read_text("utf-8")]
    found = {slug(text) for source in sources for _, text in headings(source)}
    return found | {label for source in sources for label in re.findall(r"^\(([\w-]+)\)=$", source, re.M)}


def book_pages() -> set[str]:
    """The pages in _toc.yml, without their endings."""
    return set(re.findall(r"^\s*-?\s*(?:file|root):\s*(\S+)", (ROOT / "_toc.yml").read_text("utf-8"), re.M))


def broken_link(link: str, page: Page) -> str:
    """What is wrong with a link, or nothing. Links to other sites are not followed."""
    if link.startswith("#"):
        known = {slug(text) for _, text in page.headings}
        return "" if link[1:] in known else "leads to no heading of this notebook"
    if link.startswith(BOOK):
        name, _, anchor = link.removeprefix(BOOK).partition("#")
        stem = name.removesuffix(".html") if name not in ("", "index.html") else "book/index"
        source = next(
            (ROOT / f"{stem}{end}" for end in (".md", ".ipynb") if (ROOT / f"{stem}{end}").exists()), None
        )
        if source is None or (stem not in book_pages()):
            return "leads to no page of the book"
        return "" if not anchor or anchor in anchors(source) else "leads to no heading of that page"
    for start in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/", f"{COLAB}/blob/main/"):
        if link.startswith(start):
            target = ROOT / link.removeprefix(start).partition("#")[0]
            return "" if target.exists() or target == page.path else "leads to no file of the repository"
    if link.startswith(("https://", "http://", "mailto:")):
        return ""
    return "is relative: write the book's or the repository's address"


def links_resolve(page: Page) -> Iterator[str]:
    """Every link is absolute, or leads into this notebook; those to the book and the repository exist."""
    for cell in page.prose:
        text = re.sub(r"`[^`\n]*`", "", prose_only(cell.source))
        for link in re.findall(r"\]\(<?([^)\s>]+)>?\)|<(https?://[^>\s]+)>", text):
            target = link[0] or link[1]
            if problem := broken_link(target, page):
                yield f"cell {cell.id}: the link {target} {problem}"


# ---------------------------------------------------------------- exercises and quiz


def quiz_questions(page: Page) -> list[dict]:
    """The questions of the cell tagged quiz, which must be a literal list."""
    for cell in page.tagged("quiz"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.List) and node.elts and all(isinstance(e, ast.Dict) for e in node.elts):
                return ast.literal_eval(node)
    return []


def good_quiz(page: Page) -> Iterator[str]:
    """Five questions, one right answer each; a wrong one's feedback starts with its misconception's name."""
    questions = quiz_questions(page)
    if len(questions) != 5:
        yield f"has {len(questions)} quiz questions, not five (a literal list in a cell tagged quiz)"
    for question in questions:
        text, answers = question["question"], question["answers"]
        if sum(bool(a.get("correct")) for a in answers) != 1 or len(answers) < 3:
            yield f"quiz: {text!r} needs three answers or more, one of them right"
        for answer in answers:
            feedback = answer.get("feedback", "")
            if not answer.get("correct") and not re.match(r"[A-Z][^:.]{4,60}: .{20,}", feedback):
                yield f"quiz: {answer['answer']!r} must name its misconception ('Name: why it is wrong')"
    for tag in re.findall(r"</?[A-Za-z][^>]*>", json.dumps(questions)):
        yield f"quiz: {tag!r} is shown as it stands, since HTML is not read"
    earlier = [q for q in questions if q.get("chapter", page.path.stem) != page.path.stem]
    if int(page.path.stem[:2]) > 1 and not earlier:
        yield 'has no quiz question from an earlier chapter ("chapter": "01_clip")'
    if not any("nbval-ignore-output" in tags(cell) for cell in page.tagged("quiz")):
        yield "needs the tag nbval-ignore-output on its quiz"


def outcomes_tested(page: Page) -> Iterator[str]:
    """3 to 5 outcomes in "At a glance" (**O1** ...), each asked for by an exercise or a quiz question."""
    text = "\n".join(cell.source for cell in page.sections.get("At a glance", []))
    promised = re.findall(r"\*\*(O\d)\*\*", text)
    if promised != [f"O{n}" for n in range(1, len(promised) + 1)] or not 3 <= len(promised) <= 5:
        yield f"promises {len(promised)} outcomes: write 3 to 5, **O1** to **O5**, in order"
    asked = {q.get("outcome") for q in quiz_questions(page)}
    asked |= {
        facts(cells["exercise"]).get("outcome") for cells in page.exercises.values() if "exercise" in cells
    }
    for outcome in promised:
        if outcome not in asked:
            yield f"promises {outcome}, but no exercise and no quiz question asks for it"
    for outcome in sorted(filter(None, asked - set(promised))):
        yield f"asks for {outcome}, which it does not promise"


BLANK = re.compile(r"^ *### BEGIN SOLUTION\n.*?^ *### END SOLUTION$", re.M | re.S)


def is_plain(stub: NotebookNode) -> bool:
    """Does nbgrader leave this stub alone? So for a bug that has to stay, and for a value that is None."""
    return facts(stub).get("kind") == "debug" or not definitions(stub.source)


def whole_exercises(page: Page) -> Iterator[str]:
    """Exercises of all five kinds; each has a stub, a self-check that tells nothing, and a solution."""
    kinds = []
    for name, cells in page.exercises.items():
        for role in {"exercise", "check", "solution"} - set(cells):
            yield f"exercise {name} has no {role} cell (metadata clipnotes.{role})"
        if "exercise" not in cells:
            continue
        told = facts(cells["exercise"])
        kinds.append(told.get("kind"))
        if told.get("kind") not in KINDS:
            yield f"exercise {name} is of kind {told.get('kind')!r}: write {', '.join(KINDS)}"
        if not re.fullmatch(r"O\d", told.get("outcome", "")):
            yield f'exercise {name} must name its outcome: clipnotes.outcome = "O2"'
        if bool(re.search(BLANK, cells["exercise"].source)) == is_plain(cells["exercise"]):
            yield f"the stub of {name} needs ### BEGIN SOLUTION and ### END SOLUTION around its blank (no value or bug)"
        if "check" in cells and f'check.exercise("{page.path.stem[:2]}.{name}", ' not in cells["check"].source:
            yield f'the check cell of {name} is check.exercise("{page.path.stem[:2]}.{name}", ...): no answer, no hint'
    for kind in KINDS:
        if kind not in kinds:
            yield f"has no exercise of the kind {kind}"


STUB = {"grade": False, "solution": True, "locked": False, "task": False, "schema_version": 3}
TEST = {"grade": True, "solution": False, "locked": True, "task": False, "schema_version": 3}


def graded(page: Page) -> Iterator[str]:
    """nbgrader's marks: the stub is to be filled in, the self-check is locked and worth points, the solution is none.

    The stub of a value or of a bug carries no marks: it has to stay when nbgrader clears the solutions.
    """
    for name, cells in page.exercises.items():
        plain = "exercise" in cells and is_plain(cells["exercise"])
        marks = {role: cell.metadata.get("nbgrader", {}) for role, cell in cells.items()}
        expected = {"exercise": {} if plain else STUB | {"grade_id": name},
                    "check": TEST | {"grade_id": f"{name}-check"},
                    "solution": TEST | {"grade_id": f"{name}-solution", "points": 0}}
        for role, wanted in expected.items():
            if role in cells and (bool(wanted) != bool(marks[role]) or not wanted.items() <= marks[role].items()):
                yield f"the {role} cell of exercise {name} needs nbgrader's metadata (see CONTRIBUTING.md)"
        if "check" in cells and not marks["check"].get("points"):
            yield f"the check cell of exercise {name} is worth no points"


def hidden_solutions(page: Page) -> Iterator[str]:
    """A solution is collapsed everywhere, and its names end in _solution."""
    for name, cells in page.exercises.items():
        if not (cell := cells.get("solution")):
            continue
        if not {"solution", "hide-cell"} <= set(tags(cell)):
            yield f"the solution of {name} needs the tags solution and hide-cell"
        if (
            not cell.metadata.get("jupyter", {}).get("source_hidden")
            or cell.metadata.get("cellView") != "form"
        ):
            yield f"the solution of {name} needs jupyter.source_hidden and cellView: form"
        if not re.fullmatch(r"# @title Solution\n### BEGIN HIDDEN TESTS\n.*\n### END HIDDEN TESTS", cell.source, re.S):
            yield f"the solution of {name} must stand between # @title Solution, ### BEGIN and ### END HIDDEN TESTS"
        if not solution_names(cell.source) or any(
            not n.endswith("_solution") for n in bound_names(cell.source)
        ):
            yield f"the solution of {name} may only bind names that end in _solution"


def bound_names(source: str) -> list[str]:
    """The names that a source binds at its top level: functions, classes, variables."""
    found = list(definitions(source))
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        found += [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return found


def solution_names(source: str) -> list[str]:
    """The plain names that a solution answers: loss_solution -> loss."""
    return [name.removesuffix("_solution") for name in bound_names(source) if name.endswith("_solution")]


# ---------------------------------------------------------------- every file

PLACES = r"(?:file://)?/(?:home|Users|root|tmp|private|var/folders)/\w|[A-Za-z]:[\\/]+Users\b"
TOKENS = (r"gh[oprsu]_\w{30,}|github_pat_\w{20,}|glpat-[\w-]{20,}|sk-[\w-]{20,}|hf_\w{30,}|npm_\w{30,}|pypi-[\w-]{30,}"
          r"|(?:AKIA|ASIA)[0-9A-Z]{16}\b|AIza[\w-]{35}\b|xox[abeprs]-[\w-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
          r"|https?://[^\s/:@]+:[^\s/:@]+@")
# At the start of a word: pictures are stored in base64, where any letters meet.
FOREIGN = re.compile(rf"(?:(?<![\w+/.-])|(?<=\\[nrt]))(?:{PLACES}|{TOKENS})")
FROM_ELSEWHERE = ("book/_static/vendor", "tests/golden")


def foreign(text: str) -> list[str]:
    """What names somebody's machine in a text, or opens somebody's account: only the first letters of it."""
    return [match[0][:12] for match in FOREIGN.finditer(text)]


def tracked() -> list[Path]:
    """The files that git knows, and that are there."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if (ROOT / name).is_file()]


def clean_texts(paths: list[Path]) -> Iterator[str]:
    """No text file names a machine or holds a token."""
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # a picture, a font, weights
            continue
        for word in foreign(text):
            yield f"{path.relative_to(ROOT)} contains {word!r}"


def unchanged_files(folder: Path) -> Iterator[str]:
    """What others made lies here as it came: SHA256SUMS names each file, in the format of sha256sum."""
    pairs = [line.split(maxsplit=1) for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines()]
    named = {name: sha256 for sha256, name in pairs}
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")
             if path.is_file() and not path.name.startswith(".") and path.suffix != ".md" and path.name != "SHA256SUMS"}
    again = f"(in {folder.relative_to(ROOT)}: sha256sum FILE >> SHA256SUMS)"
    for name in sorted(named.keys() | found.keys()):
        if name not in found or name not in named:
            yield f"{name} is {'not there' if name in named else f'not in SHA256SUMS {again}'}"
        elif digest(found[name]) != named[name]:
            yield f"{name} was changed: its sha256 is another one than SHA256SUMS says"


RULES: list[Callable[[Page], Iterator[str]]] = [
    template_headings,
    lengths,
    short_cells,
    narrow_lines,
    prose_between,
    one_comprehension,
    names_of_the_field,
    short_idea,
    short_setup,
    stored_form,
    sequential_counts,
    normalised,
    stored_outputs,
    compared_outputs,
    known_tags,
    stable_ids,
    no_drift,
    enough_assertions,
    claims_stand_alone,
    claims_registered,
    few_claims,
    claims_printed,
    measured_prose,
    settled_outputs,
    alternative_text,
    live_figure,
    stored_frames,
    plain_markdown,
    no_own_machine,
    numbered,
    links_resolve,
    good_quiz,
    outcomes_tested,
    whole_exercises,
    graded,
    hidden_solutions,
]


def complaints(page: Page) -> list[str]:
    return [f"{page.path.name} {text}" for rule in RULES for text in rule(page)]


def summary(page: Page) -> str:
    mean = sum(map(lines, page.code)) / max(1, len(page.code))
    return (
        f"{page.path.name}: {words(page.prose)} words, "
        f"{len(page.code)} code cells of {mean:.1f} lines in the mean, "
        f"{len(page.exercises)} exercises"
    )


def main() -> int:
    paths = [Path(name).resolve() for name in sys.argv[1:]] or [TEMPLATE, *chapters()]
    found = []
    for path in paths:
        page = Page(path, read(path))
        print(summary(page))
        found += complaints(page)
    if not sys.argv[1:]:
        found += clean_texts(tracked())
        found += [f"{name}: {text}" for name in FROM_ELSEWHERE for text in unchanged_files(ROOT / name)]
    print("\n".join(found) or "nothing to complain about")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())
