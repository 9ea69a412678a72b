"""The records behind the generated pages are fresh, and the pages are what the records make of them."""

import json
from pathlib import Path

import nbformat
import pytest

import claims
import notebooks
import pages

ROOT = Path(__file__).resolve().parent.parent

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
    found = pages.records()
    known = {c["id"] for record in found.values() for c in record["claims"]}
    known |= {f"{chapter[:2]}.parity" for chapter, record in found.items() if record["parity"]}
    for r in REMARKS:
        if r["chapter"] == path.stem:
            assert r["verdict"] != pages.UNWRITTEN, f"{r['id']} is not answered"
            assert set(r["claims"]) <= known, f"{r['id']} names claims that no chapter makes"


# ---------------------------------------------------------------- the pages


def a_claim(**change):
    claim = dict(
        id="01.loss",
        value=2.5,
        low=None,
        high=4.0,
        kind="live",
        baseline=4.16,
        paper=None,
        n=64,
        note="",
        interval=None,
        lower_is_better=True,
        null=False,
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


def test_pages_from_records(tmp_path):
    (tmp_path / "records").mkdir()
    claim = a_claim(note="loss | last step")
    del claim["seeds"]
    parity = [
        dict(id="clip.vit", oracle="openai/CLIP", tolerance=1e-5, worst=2e-7, note=""),
        dict(id="clip.training", oracle=None, tolerance=None, worst=None, note="no code"),
    ]
    (tmp_path / "records" / "01_clip.json").write_text(json.dumps(dict(claims=[claim], parity=parity)))
    claims.write(
        dict(
            chapter="01_clip",
            code="x",
            seeds=[0, 1],
            claims={"01.loss": dict(values=[2.5, 2.7], holds=[True, True])},
        ),
        tmp_path / "records",
    )
    remark = dict(
        id="1.1", remark="It learns.", chapter="01_clip", where="Results", claims=["01.loss"], verdict="holds"
    )
    (tmp_path / "notes_remarks.json").write_text(json.dumps([remark]))
    made = pages.pages(tmp_path)
    assert "| `01.loss` | loss \\| last step (lower is better) | 2.5 |" in made["results.md"]
    assert "2.5 to 2.7 (2 seeds)" in made["results.md"]
    assert "| `clip.vit` | 01_clip | openai/CLIP | 1e-05 | 2e-07 |" in made["parity.md"]
    assert "no oracle exists: no code" in made["parity.md"]
    assert "| 1.1 | It learns. | 01_clip, Results | `01.loss` = 2.5 | holds |" in made["notes_map.md"]


# ---------------------------------------------------------------- claims under seeds


def notebook(*sources, tag=None):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if tag:
        cells[-1].metadata["tags"] = [tag]
    return nbformat.v4.new_notebook(cells=cells)


def test_the_hash_follows_the_code_and_nothing_else():
    base = claims.code_hash(notebook("x = 1", "y = x + 1"))
    assert claims.code_hash(notebook("%matplotlib inline\nx = 1  # one", "y = (x + 1)")) == base
    assert claims.code_hash(notebook("x = 1", "y = x + 1", "z = 3", tag="exercise")) == base
    assert claims.code_hash(notebook("x = 1", "y = x + 2")) != base
    assert claims.code_hash(notebook("x = 1", "y = x + 1", "z = 3")) != base


# What clipnotes.check writes, without the seconds that it takes to import it.
LIVE = """
import json, os, pathlib
seed = int(os.environ["CLIPNOTES_SEED"])
grows = dict(id="01.grows", value=0.5 + seed, kind="live", holds=True)  # check.claim(..., kind="live")
counts = dict(id="01.counts", value=6, kind="exact", holds=True)
only_at_first = dict(id="01.only_at_first", value=seed, kind="live", holds=seed == 0)
record = json.dumps(dict(claims=[grows, counts, only_at_first], parity=[]))
pathlib.Path(os.environ["CLIPNOTES_RECORDS"], "01_clip.json").write_text(record)
assert seed == 0, "claim 01.only_at_first fails"
"""


@pytest.fixture
def chapter(tmp_path):
    path = tmp_path / "01_clip.ipynb"
    nbformat.write(notebook(LIVE), path)
    return path


def test_a_chapter_is_measured_and_its_record_ages(chapter, tmp_path):
    assert "never run" in claims.complaints(chapter, tmp_path)[0]
    record = claims.measure(chapter, seeds=(0, 1))
    assert record["claims"] == {
        "01.grows": dict(values=[0.5, 1.5], holds=[True, True]),
        "01.only_at_first": dict(values=[0, 1], holds=[True, False]),
    }
    claims.write(record, tmp_path)
    assert claims.complaints(chapter, tmp_path) == ["01.only_at_first does not hold under seed 1"]
    nbformat.write(notebook(LIVE + "\n# a comment"), chapter)
    assert len(claims.complaints(chapter, tmp_path)) == 1
    nbformat.write(notebook(LIVE + "\nmore = 1"), chapter)
    assert "has changed" in claims.complaints(chapter, tmp_path)[0]


def test_another_error_stops_the_run(chapter):
    nbformat.write(notebook("1 / 0"), chapter)
    with pytest.raises(RuntimeError, match="01_clip.ipynb, cell .*ZeroDivisionError"):
        claims.run(chapter, 0)


def test_a_chapter_without_live_claims_needs_no_record(chapter, tmp_path):
    nbformat.write(notebook("x = 1"), chapter)
    assert claims.complaints(chapter, tmp_path) == []


def test_runs_are_recorded_once_and_in_order(tmp_path):
    path, order = tmp_path / "runs.json", ("b", "a")

    def place(run):
        return order.index(run["variant"]), run["seed"]

    assert notebooks.recorded_runs(path) == []
    for variant, seed, value in (("a", 1, 1), ("b", 0, 2), ("a", 0, 3), ("a", 1, 4)):
        notebooks.record_run(path, "python x.py", dict(variant=variant, seed=seed, value=value), place)
    assert [run["value"] for run in notebooks.recorded_runs(path)] == [2, 3, 4], "sorted; the older run is replaced"
    assert json.loads(path.read_text())["command"] == "python x.py"
