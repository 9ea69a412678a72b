"""Claims: registered before, asserted, rounded, shown in one line that carries its figures."""

import math

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from claims import margin, share
from clipnotes import check
from clipnotes.check import claims
from compare import differences
from notebooks import shown

REGISTER = """
[loss]
kind = "live"
high = 4.16
lower_is_better = true
note = "loss of the last step"

[tie]
kind = "shipped"
low = 0.4
high = 0.6
paper = "+3.5"
null = true

[beats]
kind = "recorded"

[quick]
kind = "exact"
high = 0.5
timing = true
"""


@pytest.fixture
def register(tmp_path, monkeypatch):
    (tmp_path / "77_test.toml").write_text(REGISTER, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "77_test.toml"


def test_a_claim_that_holds_prints_one_line(register, capsys):
    check.claim("77.loss", torch.tensor(2.31414), baseline=4.16, n=64)
    assert capsys.readouterr().out == "claim 77.loss: 2.31 (at most 4.16; baseline 4.16; n 64) · holds\n"


def test_a_null_result_says_so(register, capsys):
    check.claim("77.tie", 0.5, baseline=0.55)
    said = "(from 0.4 to 0.6; baseline 0.55; paper +3.5) · null result: the paper's claim does not hold here\n"
    assert capsys.readouterr().out.endswith(said)
    register.write_text(REGISTER.replace('paper = "+3.5"\n', ""), "utf-8")
    claims.read_register.cache_clear()
    check.claim("77.tie", 0.5, baseline=0.55)
    assert capsys.readouterr().out.endswith("baseline 0.55) · null result\n"), "no paper is quoted"


def test_a_claim_about_time_shows_no_value(register, capsys):
    check.claim("77.quick", 0.123)
    assert capsys.readouterr().out == "claim 77.quick: (at most 0.5) · holds\n"


@pytest.mark.parametrize(
    ("id", "value", "baseline", "reason"),
    [
        ("77.loss", 4.5, None, "at most 4.16"),
        ("77.loss", 4.0, 3.9, "baseline 3.9 is not beaten"),
        ("77.tie", 0.7, None, "from 0.4 to 0.6"),
        ("77.tie", math.nan, None, "not a finite number"),
        ("77.beats", 0.5, 0.5, "baseline 0.5 is not beaten"),
        ("77.beats", math.inf, 0.5, "not a finite number"),
    ],
)
def test_a_claim_that_does_not_hold_raises(register, id, value, baseline, reason):
    with pytest.raises(AssertionError, match=f"^claim {id}: .*fails: .*{reason}"):
        check.claim(id, value, baseline=baseline)


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        ("77.other", r"not registered.*77_test.toml needs: \[other\]"),
        ("76.loss", "no register of chapter '76'"),
        ("77.beats", "claims nothing"),
    ],
)
def test_what_is_no_claim_is_refused(register, id, reason):
    with pytest.raises(ValueError, match=reason):
        check.claim(id, 0.5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[a]\nkind = "maybe"', "no kind 'maybe'.*exact, live, shipped, recorded"),
        ('[a]\nkind = "live"\nbar = 1', "no key 'bar'"),
        ('[a]\nkind = "shipped"\ndrifts = "training"', "only a live value that is no time drifts"),
        ('[a]\nkind = "live"\ntiming = true\ndrifts = "training"', "only a live value that is no time drifts"),
        ("[a", "77_test.toml cannot be read"),
    ],
)
def test_a_register_that_is_none_is_refused(register, text, reason):
    register.write_text(text, "utf-8")
    claims.read_register.cache_clear()
    with pytest.raises(ValueError, match=reason):
        check.claim("77.a", 0.5)


def test_values_are_rounded_at_the_source():
    assert claims.rounded(0.123456) == 0.1235
    assert claims.rounded([1 / 3, 3e-8, 12345.6, 7]) == [0.3333, 0.0, 12350.0, 7]


def test_in_a_notebook_the_output_carries_the_figures(register):
    sources = ["from clipnotes import check", "check.claim('77.loss', 1 / 3, interval=(0.1, 0.5), n=7)",
               "check.claim('77.tie', 0.9)"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, allow_errors=True, resources={"metadata": {"path": str(register.parent)}}).execute()
    first, second = shown(notebook, "claim")
    assert first == dict(id="77.loss", value=0.3333, baseline=None, interval=[0.1, 0.5], n=7, holds=True)
    assert second["holds"] is False, "a claim that fails is shown before it raises"
    assert cells[1].outputs[0].data["text/plain"] == claims.line(first, claims.registered("77.loss"))
    assert cells[2].outputs[-1].ename == "AssertionError"


# ---------------------------------------------------------------- run again on another processor

DRIFTING = {"gain": dict(kind="live", low=0.3, drifts="training"), "still": dict(kind="live", low=0.3)}
SEEDED = {f"77.{name}": dict(values=[0.5, 0.56, 0.52], baselines=[0.2, 0.21, None]) for name in DRIFTING}


def cell_of(name, value=0.5, baseline=0.2, table=None):
    """A cell that makes a claim, or that shows a table of its value."""
    entry = dict(id=f"77.{name}", value=value, baseline=baseline, interval=None, n=9, holds=True)
    told = nbformat.v4.new_output("display_data", {"text/plain": table or f"claim 77.{name}: {value}"},
                                  metadata={} if table else {"clipnotes": {"claim": entry}})
    return nbformat.v4.new_code_cell("x", outputs=[told], metadata={"clipnotes": {"drifts": [f"77.{name}"]}})


def differ(stored, fresh):
    return differences(stored, fresh.outputs, DRIFTING, SEEDED)


def test_a_value_that_drifts_may_move_as_far_as_its_seeds_lie_apart():
    assert margin(dict(value=0.5, baseline=0.2), DRIFTING["gain"], SEEDED["77.gain"]) == pytest.approx(0.06)
    assert differ(cell_of("gain"), cell_of("gain", 0.559)) == []
    assert "value 0.5 is stored, 0.561 comes" in differ(cell_of("gain"), cell_of("gain", 0.561))[0]
    assert differ(cell_of("gain"), cell_of("gain", baseline=0.209)) == []
    assert "baseline 0.2 is stored, 0.22 comes" in differ(cell_of("gain"), cell_of("gain", baseline=0.22))[0]


def test_other_values_may_move_by_a_thousandth_of_their_scale():
    assert differ(cell_of("still"), cell_of("still", 0.5004)) == []
    assert "value 0.5 is stored, 0.502 comes" in differ(cell_of("still"), cell_of("still", 0.502))[0]


def test_what_single_precision_leaves_of_a_zero_is_no_other_value():
    tiny = dict(value=0.0, baseline=None)
    assert margin(tiny, dict(kind="exact", high=1e-4), None) == 1e-5


def test_a_drifting_value_without_seeds_has_no_wider_margin():
    assert margin(dict(value=0.5, baseline=None), DRIFTING["gain"], None) == pytest.approx(0.0005)
    assert share("77.gain", DRIFTING, {}) == pytest.approx(0.001)


def test_a_table_of_drifting_values_moves_by_the_same_share():
    assert differ(cell_of("gain", table="dogs 50.00 %"), cell_of("gain", table="dogs 55.90 %")) == []
    assert "50.00 is stored, 56.50 comes" in differ(cell_of("gain", table="dogs 50.00 %"),
                                                    cell_of("gain", table="dogs 56.50 %"))[0]
    assert "52.00 comes" in differ(cell_of("still", table="dogs 50.00 %"), cell_of("still", table="dogs 52.00 %"))[0]
    assert "text is another" in differ(cell_of("gain", table="dogs 50.00"), cell_of("gain", table="cats 50.00"))[0]
