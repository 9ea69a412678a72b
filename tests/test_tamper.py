"""What is published is tampered with, one kind at a time, and a check of `make test` sees it.

Each kind changes one file of a copy of the repository: nothing is mended behind it, and nothing else is changed. Its
check is one that runs in any case: a rule of tools/hygiene.py, a test of tests/, or the comparison of stored with fresh
outputs (tools/compare.py, where the stored outputs of the untouched notebook play the fresh ones). UNSEEN names what
no check can see, and why.
"""

import base64
import gzip
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

import bench
import claims
import compare
import hygiene
import pages
import test_bench
import test_book
import test_gpu_check
import test_makefile
import test_recordings
import test_records
import test_setup_colab
import test_tiny
import test_tokenizer
import test_tools
import test_toyworld
import test_weights
from clipnotes import records
from clipnotes.check import claims as judged
from clipnotes.toyworld import training
from hygiene import Page
from notebooks import WIDGET_STATE, code_cells, defined, facts, read, register_of, tags

ROOT = Path(__file__).resolve().parent.parent
CLIP, FILMS = "chapters/01_clip.ipynb", "chapters/08_clip4clip.ipynb"
BARS, RUNS, SEEDS = "chapters/01_clip.toml", "recordings/08_clip4clip/runs.json", "recordings/01_clip/seeds.json"
LSEG, MODEL = "recordings/02_lseg/lseg.safetensors", "clipnotes/data/tiny.safetensors"
LEAST = 0.95  # of all kinds are seen


@dataclass
class Kind:
    """A kind of tampering: the file, what is done to it, and the check that sees it."""

    name: str
    file: str
    change: Callable  # of a notebook in place; of a text or bytes to others
    check: Callable[[Path], list[str]] | None
    why: str = ""  # no check sees it


# ---------------------------------------------------------------- the copy


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of all that git knows; whatever path of the repository a module holds is now that of the copy."""
    root = tmp_path_factory.mktemp("copy").resolve()
    for path in hygiene.tracked():
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])  # what is loaded from the copy may add to it
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None) or "/"
            if not Path(file).is_relative_to(ROOT) or "site-packages" in file or module is sys.modules[__name__]:
                continue
            for name, value in list(vars(module).items()):
                if isinstance(value, Path) and value.is_relative_to(ROOT):
                    patch.setattr(module, name, root / value.relative_to(ROOT))
        yield root


@contextmanager
def changed(path: Path, change: Callable):
    """A file with a change, and as it was again."""
    before = path.read_bytes()
    if path.suffix == ".ipynb":
        notebook = read(path)
        change(notebook)
        after = (nbformat.writes(notebook) + "\n").encode()
    else:
        after = change(before.decode("utf-8") if is_text(path) else before)
        after = after.encode("utf-8") if isinstance(after, str) else after
    assert after != before, "nothing was changed"
    try:
        path.write_bytes(after)
        forget()
        yield
    finally:
        path.write_bytes(before)
        forget()


def is_text(path: Path) -> bool:
    return path.suffix not in (".safetensors", ".gz", ".webp", ".woff", ".woff2")


def forget() -> None:
    """What the library keeps in memory of the files."""
    judged.read_register.cache_clear()
    training.generator_hash.cache_clear()


# ---------------------------------------------------------------- the checks


@cache
def rule(name: str) -> Callable[[Path], list[str]]:
    """A rule of tools/hygiene.py for a notebook, or for the notebook beside a register."""

    def check(path: Path) -> list[str]:
        notebook = path.with_suffix(".ipynb")
        return list(getattr(hygiene, name)(Page(notebook, read(notebook))))

    return check


def passes(test: Callable, *arguments) -> Callable[[Path], list[str]]:
    """A test of tests/: its complaint, or none. An argument that is a function gets the file."""

    def check(path: Path) -> list[str]:
        try:
            test(*(argument(path) if isinstance(argument, FunctionType) else argument for argument in arguments))
        except Exception as error:  # as a test fails by any
            return [f"{type(error).__name__}: {error}"]
        return []

    return check


def root_of(path: Path) -> Path:
    """The root of the copy."""
    return next(parent for parent in path.parents if (parent / "pyproject.toml").exists())


def executed(path: Path) -> list[str]:
    """What nbval says, were the notebook to show what its original stores."""
    original = ROOT / path.relative_to(root_of(path))
    fresh = {cell.id: cell.outputs for cell in code_cells(read(original))}
    return [text for cell in code_cells(read(path)) for text in
            compare.differences(cell, fresh[cell.id], register_of(path), claims.under_seeds(path))]


def claim_again(path: Path) -> list[str]:
    """Chapter 8's claim `little`, made again from the record, against the stored one."""
    notebook = ROOT / FILMS
    cell = cell_of(read(notebook), "little-claim")
    with pytest.MonkeyPatch.context() as patch:
        shown = []
        patch.setattr(judged, "shown", lambda kind, entry, text: shown.append(new_output(
            "display_data", {"text/plain": text}, metadata={"clipnotes": {kind: entry}})))
        try:
            exec(cell.source, defined(notebook).space | {"runs": records.Runs(records.read(path))})
        except AssertionError as error:
            return [str(error)]
    return compare.differences(cell, [nbformat.from_dict(o) for o in shown], register_of(notebook), {})


def clean(path: Path) -> list[str]:
    return list(hygiene.clean_texts([path]))


def as_it_came(path: Path) -> list[str]:
    folder = next(parent for parent in path.parents if (parent / "SHA256SUMS").exists())
    return list(hygiene.unchanged_files(folder))


@cache
def page_of(name: str) -> Callable[[Path], list[str]]:
    return passes(test_tools.test_generated_pages_are_up_to_date, name)


def remarks(path: Path) -> list[str]:
    """The page of the notes' remarks, made from these remarks."""
    made = pages.pages(remarks=path)["notes_map.md"]
    return [] if made == path.with_name("notes_map.md").read_text("utf-8") else ["notes_map.md is another"]


def policy(path: Path) -> list[str]:
    """The policy of the page that the book's extension makes."""
    context: dict = {}
    bench.load(path).add_policy(None, "", "", context, None)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "book").mkdir()
        (Path(folder) / "book" / "index.html").write_text(context["metatags"], "utf-8")
        return passes(test_book.test_the_policy_is_in_the_page, Path(folder))(path)


def set_up(path: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        source = cell_of(read(path), "set-up").source
        return passes(test_setup_colab.test_the_version_of_the_notebook_is_installed, source, Path(folder))(path)


def vocabulary(path: Path) -> list[str]:
    import open_clip

    ours, theirs = test_tokenizer.tokenizer.Tokenizer(), open_clip.SimpleTokenizer()
    return passes(test_tokenizer.test_vocabulary_equals_open_clips, ours, theirs)(path)


def recorder(path: Path):
    return bench.load(path.with_name("record.py")).recorder


WEIGHTS = passes(test_weights.test_what_ships_is_whole_and_listed_by_kind)
DIGESTS = passes(test_records.test_every_recorded_file_carries_its_digest)
LIVE = passes(test_tools.test_live_claims_were_run_under_seeds_and_hold, lambda path: root_of(path) / CLIP)
NOTHING_MISSING = passes(test_recordings.test_nothing_is_missing, recorder)
PINNED = passes(test_makefile.test_actions_are_pinned_by_commit)
WAITS = passes(test_makefile.test_publishing_waits_for_the_tests)
LOWEST = passes(test_setup_colab.test_the_lowest_versions_are_the_lower_bounds)
REQUIRED = passes(test_setup_colab.test_requirements_are_pinned_and_suit_the_package)
WORLD = passes(test_toyworld.test_the_world_is_near_the_one_that_models_were_trained_in)
SHEETS = passes(test_toyworld.test_sprite_sheets_are_the_recorded_ones)
LANDING = passes(test_book.test_landing_figure_is_what_the_model_says)
BENCH_PAGE = passes(test_bench.test_the_page_is_made_from_the_record)
GPU_PAGE = passes(test_gpu_check.test_the_page_is_made_from_the_record_and_says_where_nothing_ran)
PROBE_PAGE = passes(test_tiny.test_the_page_shows_what_is_stored)


@cache
def untouched(check: Callable, path: Path) -> list[str]:
    """What a check says before anything was changed."""
    return check(path)


# ---------------------------------------------------------------- what is done to a notebook


def cell_of(notebook: NotebookNode, id: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if cell.id == id)


def source(id: str, old: str, new: str) -> Callable:
    def change(notebook):
        cell = cell_of(notebook, id)
        assert old in cell.source, f"{id} has no {old!r}"
        cell.source = cell.source.replace(old, new, 1)

    return change


def add(id: str, text: str) -> Callable:
    def change(notebook):
        cell_of(notebook, id).source += text

    return change


def claim(id: str, **values) -> Callable:
    """Other figures in what a claim's output carries; `text`: in its line, too."""
    text = values.pop("text", None)

    def change(notebook):
        (output,) = cell_of(notebook, id).outputs
        output.metadata.clipnotes.claim.update(values)
        if text:
            output.data["text/plain"] = re.sub(*text, output.data["text/plain"], count=1)

    return change


def shown_text(id: str, kind: str, pattern: str, new: str) -> Callable:
    """Another text in an output: kind is "stdout" or a type as text/html."""

    def change(notebook):
        for output in cell_of(notebook, id).outputs:
            text = output.get("text", "") if kind == "stdout" else output.data.get(kind, "")
            if re.search(pattern, text):
                holder, key = (output, "text") if kind == "stdout" else (output.data, kind)
                holder[key] = re.sub(pattern, new, text, count=1)
                return
        raise AssertionError(f"{id} shows no {pattern}")

    return change


def carried(id: str, kind: str, **values) -> Callable:
    def change(notebook):
        found = [o.metadata.clipnotes for o in cell_of(notebook, id).outputs if kind in o.metadata.get("clipnotes", {})]
        found[0][kind].update(values)

    return change


def without_output(id: str) -> Callable:
    def change(notebook):
        cell_of(notebook, id).outputs = []

    return change


def exchanged(one: str, other: str) -> Callable:
    def change(notebook):
        a, b = cell_of(notebook, one), cell_of(notebook, other)
        a.outputs[0].data, b.outputs[0].data = b.outputs[0].data, a.outputs[0].data

    return change


def retag(id: str, remove: str = "", add: str = "") -> Callable:
    def change(notebook):
        cell = cell_of(notebook, id)
        cell.metadata.tags = [tag for tag in tags(cell) if tag != remove] + [tag for tag in [add] if tag]

    return change


def both(*changes: Callable) -> Callable:
    def change(notebook):
        for one in changes:
            one(notebook)

    return change


def frames(notebook: NotebookNode) -> list[dict]:
    """The states of a slider's pictures."""
    states = [model["state"] for model in notebook.metadata.widgets[WIDGET_STATE]["state"].values()]
    return [state for state in states if "clipnotes-frame" in (state.get("value") or "")]


def exchange_frames(notebook):
    first, second = frames(notebook)[:2]
    first["value"], second["value"] = second["value"], first["value"]


def paint_a_frame(notebook):
    """A black bar across one frame."""
    frame = frames(notebook)[0]
    data = re.search(r"base64,([^\"]+)", frame["value"])[1]
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    image.paste((0, 0, 0), (0, image.height // 3, image.width, image.height // 2))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP")
    frame["value"] = frame["value"].replace(data, base64.b64encode(buffer.getvalue()).decode())


def another_digit(notebook):
    """A dark spot of the size of a digit in a figure."""
    data = cell_of(notebook, "live-curve").outputs[0].data
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    x, y = image.width // 2, image.height // 2
    image.paste(image.getpixel((0, 0)), (x, y, x + 6, y + 9))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data["image/png"] = base64.b64encode(buffer.getvalue()).decode()


def relabel(notebook):
    frame = frames(notebook)[0]
    frame["value"] = frame["value"].replace("<p>", "<p>not ").replace('alt="', 'alt="not ')


def exchange_frames_and_hashes(notebook):
    """So that the notebook agrees with itself."""
    exchange_frames(notebook)
    for key in ("frames", "labels"):
        output = next(o for c in code_cells(notebook) for o in c.outputs
                      if key in o.get("metadata", {}).get("clipnotes", {}))
        values = output.metadata.clipnotes[key]
        values[0], values[1] = values[1], values[0]


def another_slider(notebook):
    for model in notebook.metadata.widgets[WIDGET_STATE]["state"].values():
        if model["model_name"] == "IntSliderModel":
            model["state"]["description"] = "temperature"


def lose_widgets(notebook):
    del notebook.metadata["widgets"]


def lose_alt(notebook):
    del cell_of(notebook, "live-curve").metadata["mystnb"]


def another_alt(notebook):
    image = cell_of(notebook, "live-curve").metadata.mystnb.image
    image.alt = "Three bars of equal height, one for each artist, and a dashed line above them."


def show_a_solution(notebook):
    cell = next(cell for cell in notebook.cells if "solution" in facts(cell))
    cell.metadata.tags = ["solution"]


def answer_in_the_check(notebook):
    cell_of(notebook, "negatives-check").source = 'check.expect(negatives, 240, "8 groups of 6", name="negatives")'


def swap_answers(notebook):
    """The right and a wrong answer of the quiz that is shown."""
    script = next(o.data for o in cell_of(notebook, "quiz").outputs if "application/javascript" in o.data)
    text = script["application/javascript"]
    assert '"correct": true' in text
    text = text.replace('"correct": true', "?", 1).replace('"correct": false', '"correct": true', 1)
    script["application/javascript"] = text.replace("?", '"correct": false', 1)


def run_alone(notebook):
    cell_of(notebook, "live-fit").execution_count = 99


# ---------------------------------------------------------------- what is done to other files


def swap(old: str, new: str) -> Callable[[str], str]:
    """The first match of a pattern becomes another text."""

    def change(text):
        assert re.search(old, text), f"there is no {old!r}"
        return re.sub(old, new, text, count=1)

    return change


def after(text: str) -> Callable[[str], str]:
    return lambda before: f"{before}\n{text}\n"


def in_json(text: str) -> Callable[[str], str]:
    return lambda before: before.rstrip().removesuffix("}") + f', "note": {json.dumps(text)}}}\n'


def record(change: Callable, renew: bool = False) -> Callable[[str], str]:
    """A recorded file with a change; renew: with a digest that fits."""

    def changed(text):
        content = json.loads(text)
        change(content)
        if renew:
            content["digest"] = records.digest(content)
        return json.dumps(content)

    return changed


def value(content):
    content["runs"][0]["values"]["text_to_film"]["R@1"] = 0.9


def hits(content):
    row = next(row for row in content["runs"] if row["variant"] == "mean_100")
    row["values"]["hits"] = "1" * len(row["values"]["hits"])


def recipe(content):
    content["runs"][1]["recipe"]["steps"] = 3000


def lose_a_run(content):
    content["runs"].pop()


def seed_value(content):
    content["claims"]["01.live_loss"]["values"][0] = 1.5


def last_seed_value(content):
    content["claims"]["01.live_loss"]["values"][4] = 1.5


def flip(place: int) -> Callable[[bytes], bytes]:
    """One bit."""

    def change(data):
        data = bytearray(data)
        data[place] ^= 1
        return bytes(data)

    return change


def rewritten(change: Callable) -> Callable[[bytes], bytes]:
    """A file of weights with something changed, and the digest as it was."""

    def changed(data):
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(data)
            file.flush()
            with safe_open(file.name, "pt") as opened:
                metadata, tensors = opened.metadata(), {key: opened.get_tensor(key) for key in opened.keys()}
        change(metadata, tensors)
        return save(tensors, metadata)

    return changed


def card(metadata, tensors):
    metadata["card"] = json.dumps(json.loads(metadata["card"]) | {"minutes": 1})


def dtype(metadata, tensors):
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].float()


def rename(metadata, tensors):
    tensors["other"] = tensors.pop(sorted(tensors)[0])


def config(metadata, tensors):
    metadata["config"] = metadata["config"].replace("}", ', "more": 1}', 1)


def other_merges(data: bytes) -> bytes:
    lines = gzip.decompress(data).decode().split("\n")
    lines[5], lines[6] = lines[6], lines[5]
    return gzip.compress("\n".join(lines).encode())


def other_landing_picture(text: str) -> str:
    head, _, body = text.partition("=")
    content = json.loads(body.strip().rstrip(";"))
    content["images"][0], content["images"][1] = content["images"][1], content["images"][0]
    return f"{head}= {json.dumps(content)};\n"


# Written in two parts: this file is read by the rule, too.
GITHUB, OPENAI = "ghp" + "_" + "a1" * 18, "sk" + "-" + "a1" * 20
HUGGING, AMAZON = "hf" + "_" + "aB" * 17, "AKIA" + "Q7" * 8
HOME, USERS, WINDOWS, TEMPORARY = "/home" + "/ann/x", "/Users" + "/ann/x", "C:" + "\\Users\\ann", "/tmp" + "/run1/x"

TABLE = {  # file -> kinds: name, what is done to it, the check that sees it
    CLIP: [
        ("a claim's printed number", claim("zero-shot-claim", text=(r": 0\.\d+", ": 0.99")), rule("claims_printed")),
        ("a claim's value", claim("zero-shot-claim", value=0.99), rule("claims_printed")),
        ("its value and its line", claim("zero-shot-claim", value=0.99, text=(r": 0\.\d+", ": 0.99")), executed),
        ("a claim's value and the page", claim("live-loss-claim", value=1.5, text=(r": [\d.]+", ": 1.5")), LIVE),
        ("a claim's baseline", claim("zero-shot-claim", baseline=0.5), rule("claims_printed")),
        ("a claim's n", claim("zero-shot-claim", n=5000), rule("claims_printed")),
        ("a claim's interval", claim("zero-shot-claim", interval=[0.72, 0.74]), executed),
        ("a claim's interval, against the page", claim("zero-shot-claim", interval=[0.72, 0.74]),
         page_of("results.md")),
        ("a claim that fails", claim("zero-shot-claim", holds=False), rule("claims_printed")),
        ("a null result called a success", claim("counting-claim", text=("null result.*", "holds")),
         rule("claims_printed")),
        ("a claim left out", without_output("zero-shot-claim"), rule("stored_outputs")),
        ("the tag of a claim", retag("zero-shot-claim", "claim"), rule("claims_stand_alone")),
        ("another claim's id", source("zero-shot-claim", "01.zero_shot", "01.zero_short"), rule("claims_registered")),
        ("a figure removed", without_output("live-curve"), executed),
        ("two figures exchanged", exchanged("live-curve", "linear-probe-figure"), executed),
        ("a figure's alternative text", lose_alt, rule("alternative_text")),
        ("two frames of a slider exchanged", exchange_frames, rule("stored_frames")),
        ("one frame painted over", paint_a_frame, rule("stored_frames")),
        ("a frame's label", relabel, rule("stored_frames")),
        ("frames, labels and their hashes exchanged", exchange_frames_and_hashes, executed),
        ("what a slider says it moves", another_slider, rule("stored_frames")),
        ("all sliders lost", lose_widgets, rule("live_figure")),
        ("a number of a table", shown_text("live-table", "text/html", r"(?<=>)0?\.?\d+\.?\d*(?=</td>)", "0.99"),
         executed),
        ("a word of a table", shown_text("model-card", "text/html", "pictures seen", "photos seen"), executed),
        ("a printed number", shown_text("loss-naive-check", "stdout", r"\d\.\d+", "0.001"), executed),
        ("a printed number, its comparison dropped",
         both(retag("loss-naive-check", "nbval-check-output"),
              shown_text("loss-naive-check", "stdout", r"\d\.\d+", "0.001")),
         executed),
        ("an exercise that is solved", shown_text("negatives-check", "stdout", "not attempted", "correct"), executed),
        ("a line of parity", shown_text("parity-towers", "text/plain", "1e-5", "1e-9"), executed),
        ("the oracle of parity", carried("parity-towers", "parity", oracle="openai/CLIP at 0000000"), executed),
        ("the tolerance of parity", carried("parity-towers", "parity", tolerance=1e-9), page_of("parity.md")),
        ("the right answer of the quiz that is shown", swap_answers, executed),
        ("a tag that skips a cell", retag("live-table", add="nbval-skip"), rule("known_tags")),
        ("a tag that ignores an output", retag("live-table", add="nbval-ignore-output"), rule("known_tags")),
        ("a cell run alone", run_alone, rule("sequential_counts")),
        ("a number in prose without a source", add("neighbours", " It finds 93 % of them."), rule("measured_prose")),
        ("a number in prose that is not its source's", add("neighbours", " It names 93 %<!--01.zero_shot-->."),
         rule("measured_prose")),
        ("the source of a number in prose", add("neighbours", " It names 73 %<!--01.zero_shoot-->."),
         rule("measured_prose")),
        ("a cell that the library holds", source("clip-loss", "logits.T, labels", "logits, labels"),
         rule("no_drift")),
        ("a link to no page", source("at-a-glance", "book/notation.html", "book/notion.html"), rule("links_resolve")),
        ("the version that is installed", source("set-up", "@v0.1.0", "@main"), set_up),
        ("an answer in a self-check", answer_in_the_check, rule("whole_exercises")),
        ("a solution that is open", show_a_solution, rule("hidden_solutions")),
        ("two right answers", source("quiz", '"correct": False', '"correct": True'), rule("good_quiz")),
        ("an answer without feedback", source("quiz", "Flat means finished: it only", "It only"), rule("good_quiz")),
        ("HTML in the quiz", source("quiz", '"It guesses."', '"<b>It guesses.</b>"'), rule("good_quiz")),
        ("a token in a notebook", add("neighbours", f" {GITHUB}"), clean),
        ("a path in a notebook's output", shown_text("loss-naive-check", "stdout", "$", f"\n{HOME}"), clean),
    ],
    FILMS: [
        ("a card that says run", carried("msr-vtt-card", "card", status="run"), executed),
        ("a card that reads run", shown_text("msr-vtt-card", "text/html", "Not run by us", "Run by us"), executed),
    ],
    BARS: [
        ("a bar", swap("low = 0.6", "low = 0.3"), rule("claims_printed")),
        ("a claim's kind", swap('kind = "shipped"', 'kind = "exact"'), page_of("results.md")),
        ("a null result", swap("null = true\n", ""), rule("claims_printed")),
        ("a paper's figure", swap("63.2 %", "43.2 %"), rule("claims_printed")),
        ("what a claim measures", swap("a training artist", "any artist"), page_of("results.md")),
        ("a claim struck out", swap(r"(?s)\[zero_shot\].*?\n\n", ""), rule("claims_registered")),
        ("a home in a register", after(f'# see {HOME}'), clean),
    ],
    "chapters/02_lseg.toml": [
        ("that a bar was changed", swap("restated = .*\n", ""), page_of("results.md")),
    ],
    RUNS: [
        ("a run's value", record(value), DIGESTS),
        ("a run's value and the digest", record(hits, renew=True), claim_again),
        ("a run's recipe", record(recipe), DIGESTS),
        ("a run's recipe and the digest", record(recipe, renew=True), NOTHING_MISSING),
        ("a run left out, and the digest", record(lose_a_run, renew=True), NOTHING_MISSING),
        ("a digest", swap('"digest": ".', '"digest": "x'), DIGESTS),
        ("a probe's value", record(lambda content: content["probe"].update({"heads.mean_loss": 2.0})), DIGESTS),
    ],
    SEEDS: [
        ("a value under a seed", record(seed_value), DIGESTS),
        ("a value under seed 0 and the digest", record(seed_value, renew=True), LIVE),
        ("a value under another seed and the digest", record(last_seed_value, renew=True), page_of("results.md")),
        ("a home in a record", in_json(HOME), clean),
    ],
    "recordings/bench/results.json": [
        ("a time of the benchmarks", swap(r'"ours_s": [\d.]+', '"ours_s": 0.0001'), DIGESTS),
    ],
    "book/results.md": [
        ("a number on the page Results", swap(r"\| 0\.\d+ \|", "| 0.99 |"), page_of("results.md")),
    ],
    "book/parity.md": [
        ("a tolerance on the page Parity", swap("1e-05", "1e-09"), page_of("parity.md")),
    ],
    "book/notes_map.md": [
        ("a verdict on the notes' map", swap(r"\| corrected \|", "| holds |"), page_of("notes_map.md")),
    ],
    "book/notes_remarks.json": [
        ("a verdict on a remark", swap('"corrected"', '"holds"'), remarks),
        ("the claim that answers a remark", swap('"01.zero_shot"', '"01.more_negatives"'), remarks),
    ],
    "book/bench.md": [
        ("a number on the benchmarks' page", swap(r"\d+\.\d\d", "0.01"), BENCH_PAGE),
    ],
    "book/gpu.md": [
        ("the page of the GPU", after("All chapters ran on a T4."), GPU_PAGE),
    ],
    "book/probe.md": [
        ("a number on the probe's page", swap(r"\b\d\d\b", "99"), PROBE_PAGE),
    ],
    "book/_static/landing-data.js": [
        ("a cosine of the landing page", swap(r"\[\[0\.\d+", "[[0.9"), LANDING),
        ("two pictures of the landing page", other_landing_picture, LANDING),
    ],
    "tools/pages.py": [
        ("a GitHub token in a program", after(f'TOKEN = "{GITHUB}"'), clean),
    ],
    "tests/test_draw.py": [
        ("an OpenAI key in a test", after(f'KEY = "{OPENAI}"'), clean),
    ],
    "book/start.md": [
        ("a Hugging Face token in a page", after(f"    HF_TOKEN={HUGGING}"), clean),
    ],
    ".github/workflows/tests.yml": [
        ("an Amazon key in a workflow", after(f"# {AMAZON}"), clean),
    ],
    "README.md": [
        ("a Mac's home in a page", after(f"See {USERS}."), clean),
    ],
    "tools/new.py": [
        ("a Windows home in a program", after(f'# {WINDOWS}'), clean),
    ],
    "Makefile": [
        ("a temporary folder in the Makefile", after(f"# {TEMPORARY}"), clean),
    ],
    LSEG: [
        ("a bit of weights", flip(-100), WEIGHTS),
        ("a card of weights", rewritten(card), WEIGHTS),
        ("a type of weights", rewritten(dtype), WEIGHTS),
        ("a name of weights", rewritten(rename), WEIGHTS),
        ("a configuration of weights", rewritten(config), WEIGHTS),
    ],
    MODEL: [
        ("a bit of the model", flip(-100), WEIGHTS),
    ],
    "clipnotes/data/world.json": [
        ("a thumbnail of the world, by much", swap(r"0\.\d+", "0.0001"), WORLD),
        ("a thumbnail of the world, by little", swap(r"(0\.\d\d\d)\d", r"\g<1>9"), WEIGHTS),
    ],
    "clipnotes/data/sprites.noto.webp": [
        ("a sheet of sprites", flip(-100), SHEETS),
    ],
    "clipnotes/data/bpe_simple_vocab_16e6.txt.gz": [
        ("the tokenizer's table", other_merges, vocabulary),
    ],
    "tests/golden/clip_loss.safetensors": [
        ("the last bit of an official number", flip(-4), as_it_came),
    ],
    "tests/golden/clip_vit.safetensors": [
        ("a constant of an official file",
         rewritten(lambda metadata, tensors: metadata.update(config=metadata["config"].replace("3", "4"))),
         as_it_came),
    ],
    "book/_static/vendor/html-manager/embed.js": [
        ("a script of others", after("fetch('//example.org')"), as_it_came),
    ],
    "book/_static/vendor/mathjax/output/chtml/fonts/woff-v2/MathJax_Zero.woff": [
        ("a font of others", flip(-4), as_it_came),
    ],
    ".github/workflows/publish.yml": [
        ("an action by its tag", swap(r"checkout@\w+  # v4.2.2", "checkout@v4"), PINNED),
        ("publishing before the tests", swap("    needs: tests\n", ""), WAITS),
    ],
    "tools/bookext.py": [
        ("the page's policy", swap("connect-src 'self'", "connect-src *"), policy),
        ("a policy without forms", swap("form-action 'self'; ", ""), policy),
    ],
    "pyproject.toml": [
        ("a lower bound", swap(r'"numpy>=[\d.]+"', '"numpy>=1.0"'), LOWEST),
    ],
    "requirements.txt": [
        ("a pinned version", swap("(?m)^numpy==", "numpy>="), REQUIRED),
    ],
}
KINDS = [Kind(name, file, change, check) for file, rows in TABLE.items() for name, change, check in rows]

UNSEEN = [
    Kind("a sentence that says the opposite", CLIP, source("summary", "list can be", "list cannot be"), None,
         "Only a reader understands a sentence. What can be counted in it names its source, and is checked."),
    Kind("a paper's figure in prose", "chapters/03_groupvit.ipynb",
         source("oracle-table-text", "20 points<!--paper-->", "30 points<!--paper-->"), None,
         "The paper is not here. Its figures beside ours are registered, and stand on the page Results."),
    Kind("an alternative text that is not true", CLIP, another_alt, None,
         "Whether a text fits its picture only an eye can tell."),
    Kind("a digit inside a picture", CLIP, another_digit, None,
         "Pictures are compared by a coarse hash, since another processor moves a curve by a pixel. What a figure "
         "shows stands in a claim or a table, too."),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_tampering_is_seen(kind, copy):
    path = copy / kind.file
    assert untouched(kind.check, path) == [], "there is something to see without tampering"
    with changed(path, kind.change):
        assert kind.check(path) != []


@pytest.mark.parametrize("kind", UNSEEN, ids=lambda kind: kind.name)
def test_what_no_check_sees_is_named(kind, copy):
    """One that is seen after all belongs to KINDS, with its check."""
    path = copy / kind.file
    assert kind.why
    with changed(path, kind.change):
        page = Page(path, read(path))
        assert [text for check in hygiene.RULES for text in check(page)] + executed(path) == []


def test_nearly_all_kinds_are_seen():
    names = [kind.name for kind in KINDS + UNSEEN]
    assert len(set(names)) == len(names) >= 50
    assert len(KINDS) >= LEAST * len(names)
