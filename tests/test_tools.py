"""What was measured under seeds fits what the notebooks store, and the generated pages are made from both."""

import json
import re

import nbformat
import pytest

import claims
import new
import pages
from clipnotes import records
from clipnotes.check.claims import read_register
from hygiene import RULES, Page
from notebooks import ROOT, TEMPLATE, read, shown

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))

# ---------------------------------------------------------------- what is stored


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_live_claims_were_run_under_seeds_and_hold(path):
    assert claims.complaints(path) == []


@pytest.mark.parametrize("name", ["results.md", "parity.md", "notes_map.md"])
def test_generated_pages_are_up_to_date(name):
    stored = (ROOT / "book" / name).read_text("utf-8")
    assert stored == pages.pages()[name], "run: python tools/pages.py"


REMARKS = json.loads((ROOT / "book" / "notes_remarks.json").read_text("utf-8"))


def test_remarks_are_complete():
    ids = [r["id"] for r in REMARKS]
    assert len(set(ids)) == len(ids) > 100
    for r in REMARKS:
        assert set(r) == {"id", "remark", "chapter", "where", "claims", "verdict"}, r["id"]
        assert r["verdict"] in pages.VERDICTS, r["id"]
        assert r["remark"].isascii() or set(r["remark"]) - {"²", "−"} < set(map(chr, range(128))), r["id"]
        written = r["verdict"] != pages.UNWRITTEN
        assert written == bool(r["where"]), r["id"]
        assert bool(r["claims"]) == (r["verdict"] in ("holds", "corrected")), r["id"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_written_chapter_answers_its_remarks_by_claims_that_exist(path):
    notebook = read(path)
    known = {entry["id"] for entry in shown(notebook, "claim")}
    known |= {f"{path.stem[:2]}.parity"} if shown(notebook, "parity") else set()
    for r in REMARKS:
        if r["chapter"] == path.stem:
            assert r["verdict"] != pages.UNWRITTEN, f"{r['id']} is not answered"
            assert set(r["claims"]) <= known, f"{r['id']} names claims that no chapter makes"


# ---------------------------------------------------------------- the pages


def a_claim(**change):
    claim = dict(
        id="01.loss",
        value=2.5,
        high=4.0,
        kind="live",
        baseline=4.16,
        n=64,
        interval=None,
        lower_is_better=True,
        holds=True,
        seeds=None,
    )
    return claim | change


def test_a_row_of_the_results():
    row = pages.claim_row(a_claim(seeds=dict(values=[2.4, 2.61], holds=[True, True])))
    assert row == [
        "`01.loss`",
        "loss (lower is better)",
        "2.5",
        "≤ 4",
        "4.16",
        "2.4 to 2.61 (2 seeds)",
        "64",
        "",
        "live",
        "holds",
    ]
    shipped = pages.claim_row(a_claim(low=0.5, high=0.5, interval=[0.1, 0.2], paper="76.2", kind="shipped"))
    assert shipped[3:8] == ["0.5", "4.16", "0.1 to 0.2 (95 %)", "64", "76.2"]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "holds"),
        ({"null": True}, "null result"),
        ({"holds": False}, "fails"),
        ({"seeds": dict(values=[1, 2], holds=[True, False])}, "fails"),
    ],
)
def test_verdicts_of_claims(change, verdict):
    assert pages.verdict(a_claim(**change)) == verdict


@pytest.mark.parametrize(
    ("written", "ids", "verdict"),
    [
        ("holds", ["01.yes"], "holds"),
        ("corrected", ["01.yes"], "corrected"),
        ("holds", ["01.no"], "does not hold here"),
        ("holds", ["01.yes", "01.no"], "holds in part"),
        ("holds", ["01.later"], "not measured yet"),
        ("cannot be tested here", [], "cannot be tested here"),
    ],
)
def test_verdicts_of_remarks_follow_the_measurements(written, ids, verdict):
    known = {"01.yes": a_claim(), "01.no": a_claim(null=True)}
    assert pages.remark_verdict(dict(verdict=written, claims=ids), known) == verdict


LOSS = dict(id="01.loss", value=2.5, baseline=4.16, interval=None, n=64, holds=True)
GROWS = dict(id="01.grows", value=0.5, baseline=None, interval=[0.1, 0.9], n=None, holds=True)
PARITY = [dict(id="clip.vit", oracle="openai/CLIP", tolerance=1e-5, note=""),
          dict(id="clip.training", oracle=None, tolerance=None, note="no code")]
REGISTER = """
[loss]
kind = "live"
high = 4.0
lower_is_better = true
note = "loss | last step"

[grows]
kind = "live"
low = 0.4
restated = "the first bar stood on one seed"
"""


def notebook_with(claimed, parity=()):
    outputs = [nbformat.v4.new_output("display_data", {"text/plain": "x"}, metadata={"clipnotes": {kind: entry}})
               for kind, entries in (("claim", claimed), ("parity", parity)) for entry in entries]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A chapter of two live claims, and its values under two seeds."""
    path = tmp_path / "01_clip.ipynb"
    nbformat.write(notebook_with([LOSS, GROWS], PARITY), path)
    path.with_suffix(".toml").write_text(REGISTER, "utf-8")
    monkeypatch.setattr(pages, "record_of", lambda path: tmp_path / "seeds.json")
    seeded = {"01.loss": dict(values=[2.5, 2.7], baselines=[4.16, 4.16], holds=[True, True]),
              "01.grows": dict(values=[0.5, 0.6], baselines=[None, None], holds=[True, True])}
    records.write(tmp_path / "seeds.json", dict(seeds=[0, 1], claims=seeded))
    return path


def test_pages_from_notebooks(chapter, tmp_path):
    remark = dict(id="1.1", remark="It learns.", chapter="01_clip", where="Results", claims=["01.loss"])
    remark |= dict(verdict="holds")
    (tmp_path / "remarks.json").write_text(json.dumps([remark]), "utf-8")
    made = pages.pages([chapter], tmp_path / "remarks.json")
    assert "| `01.loss` | loss \\| last step (lower is better) | 2.5 | ≤ 4 | 4.16 |" in made["results.md"]
    assert "2.5 to 2.7 (2 seeds)" in made["results.md"]
    assert "(changed after the value was seen: the first bar stood on one seed" in made["results.md"]
    assert "| `clip.vit` | 01_clip | openai/CLIP | 1e-05 |" in made["parity.md"]
    assert "no oracle exists: no code" in made["parity.md"]
    assert "| 1.1 | It learns. | 01_clip, Results | `01.loss` = 2.5 | holds |" in made["notes_map.md"]


# ---------------------------------------------------------------- claims under seeds


def altered(path, id, key, values):
    """The record of the values under seeds with one list replaced, digest and all."""
    content = records.read(path)
    content["claims"][id][key] = values
    records.write(path, content)


def test_a_record_fits_as_long_as_its_first_value_is_the_stored_one(chapter, tmp_path):
    record = tmp_path / "seeds.json"
    assert "never run" in claims.complaints(chapter, tmp_path / "nothing.json")[0]
    assert claims.complaints(chapter, record) == []
    altered(record, "01.loss", "values", [2.5019, 2.7])
    assert claims.complaints(chapter, record) == [], "within a thousandth of 4.16"
    altered(record, "01.loss", "values", [2.55, 2.7])
    assert "is 2.5 in the notebook and 2.55 in its record" in claims.complaints(chapter, record)[0]
    altered(record, "01.loss", "values", [2.5, 4.1])
    assert claims.complaints(chapter, record) == ["01.loss does not hold under seed 1"], "the bar is read again"
    altered(record, "01.loss", "values", [2.5, 2.7])
    altered(record, "01.loss", "holds", [True, False])
    assert claims.complaints(chapter, record) == ["01.loss does not hold under seed 1"]


def test_a_live_claim_that_was_never_run_is_named(chapter, tmp_path):
    chapter.with_suffix(".toml").write_text(REGISTER + '\n[more]\nkind = "live"\nlow = 0\n', "utf-8")
    read_register.cache_clear()
    assert "01.more is registered as live, but was never run" in claims.complaints(chapter, tmp_path / "seeds.json")[0]
    nbformat.write(notebook_with([GROWS]), chapter)
    assert "01.loss is registered as live, but was never run" in claims.complaints(chapter, tmp_path / "seeds.json")[0]


LIVE = """
import os
from IPython.display import display
seed = int(os.environ["CLIPNOTES_SEED"])
def shown(id, value, holds=True):  # what check.claim shows, without the seconds that it takes to import it
    entry = dict(id=id, value=value, baseline=None, interval=None, n=None, holds=holds)
    display({"text/plain": id}, raw=True, metadata={"clipnotes": {"claim": entry}})
shown("01.grows", 0.5 + seed)
shown("01.counts", 6)
shown("01.loss", seed, seed == 0)
assert seed == 0, "claim 01.loss fails"
"""


def test_a_chapter_is_measured_under_seeds(chapter):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LIVE)]), chapter)
    measured = claims.measure(chapter, seeds=(0, 1))
    assert measured["claims"] == {
        "01.grows": dict(values=[0.5, 1.5], baselines=[None, None], holds=[True, True]),
        "01.loss": dict(values=[0, 1], baselines=[None, None], holds=[True, False]),
    }


def test_another_error_stops_the_run(chapter):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), chapter)
    with pytest.raises(RuntimeError, match="01_clip.ipynb, cell .*ZeroDivisionError"):
        claims.run(chapter, 0)


def test_a_chapter_without_live_claims_needs_no_record(chapter, tmp_path):
    chapter.with_suffix(".toml").unlink()
    assert claims.complaints(chapter, tmp_path / "nothing.json") == []


# ---------------------------------------------------------------- a new chapter


def test_a_new_chapter_is_its_own_files_and_two_lines(tmp_path, monkeypatch, capsys):
    """What `make new` writes; the template as a chapter keeps the rules that need no run."""
    tree = tmp_path / "tree"
    for name in ("_toc.yml", "book/index.md", "clipnotes/check/exercises/ch00.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text("utf-8")
        text = re.sub(r'  - caption: "Part 3.*?(?=  - caption)', "", text, flags=re.DOTALL)  # as before chapter 4
        text = re.sub(r"4\. \[ViLD\]\([^)]*\)", "4. ViLD [planned]{.planned}", text)
        (tree / name).write_text(text, "utf-8")
    before = {path: path.read_text("utf-8") for path in tree.rglob("*") if path.is_file()}
    monkeypatch.setattr(new, "ROOT", tree)
    monkeypatch.setattr("sys.argv", ["new.py", "04_vild", "ViLD: names without boxes"])
    assert new.main() == 0
    written = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and path not in before}
    assert written == {"chapters/04_vild.ipynb", "chapters/04_vild.toml", "recordings/04_vild/record.py",
                       "clipnotes/check/parity/vild.py", "clipnotes/check/exercises/ch04.py",
                       "tests/chapters/test_04_vild.py"}
    changed = {path.name for path in before if path.read_text("utf-8") != before[path]}
    assert changed == {"_toc.yml", "index.md"}
    contents = (tree / "_toc.yml").read_text("utf-8")
    assert contents.index("chapters/03_groupvit") < contents.index("Boxes") < contents.index("chapters/04_vild")
    assert contents.index("chapters/04_vild") < contents.index("chapters/07_clipasso")
    assert "4. [ViLD](../chapters/04_vild.ipynb)" in (tree / "book/index.md").read_text("utf-8")
    assert new.main() == 1 and "exists" in capsys.readouterr().out
    page = Page(tree / "chapters" / "04_vild.ipynb", read(tree / "chapters" / "04_vild.ipynb"))
    assert page.notebook.cells[0].source.startswith("# 4 · ViLD: names without boxes\n")
    for rule in RULES:
        if rule.__name__ in ("claims_stand_alone", "claims_registered", "few_claims", "graded", "hidden_solutions",
                             "whole_exercises", "numbered", "template_headings", "short_setup", "short_cells"):
            assert list(rule(page)) == [], rule.__name__


def test_a_bad_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["new.py", "vild"])
    assert new.main() == 2 and "two digits" in capsys.readouterr().out


def test_the_template_stays_the_source(monkeypatch):
    assert new.from_template("04_vild", "x").cells[0].source.startswith("# 4 · x")
    assert read(TEMPLATE).cells[0].source.startswith("# 0 · ")
