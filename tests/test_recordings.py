"""The chapters' recordings are of the code as it is: nothing is missing, and each probe repeats its numbers."""

import pytest

from bench import load
from notebooks import ROOT

PROGRAMS = sorted((ROOT / "recordings").glob("[0-9][0-9]_*/record.py"))


@pytest.fixture(scope="module", params=PROGRAMS, ids=lambda path: path.parent.name)
def recorder(request):
    return load(request.param).recorder


def test_nothing_is_missing(recorder):
    assert recorder.missing() == [], f"run: python recordings/{recorder.name}/record.py"
    assert {r["study"] for r in recorder.content()["runs"]} == set(recorder.studies), "a run of no study is stored"


def test_the_probe_repeats_its_numbers(recorder):
    assert recorder.content()["probe"], f"run: python recordings/{recorder.name}/record.py --store-probe"
    assert recorder.moved() == []
