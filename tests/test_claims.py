"""Claims: registered before, asserted, rounded, shown in one line that carries its figures."""

import math

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from clipnotes import check
from clipnotes.check import claims
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
    assert "from 0.4 to 0.6; baseline 0.55; paper +3.5) · null result" in capsys.readouterr().out


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
