"""The chapters' recordings are of the code as it is: nothing is missing, probes repeat their numbers and see harm."""

import multiprocessing
import os
from itertools import count

import pytest

import mutants
from bench import load
from notebooks import ROOT
from recordings.runner import identity

PROGRAMS = sorted((ROOT / "recordings").glob("[0-9][0-9]_*/record.py"))


@pytest.fixture(scope="module", params=PROGRAMS, ids=lambda path: path.parent.name)
def recorder(request):
    return load(request.param).recorder


def test_nothing_is_missing(recorder):
    assert recorder.missing() == [], f"run: python recordings/{recorder.name}/record.py"
    assert {r["study"] for r in recorder.content()["runs"]} == set(recorder.studies), "a run of no study is stored"


@pytest.mark.parametrize("field", ["study", "variant", "seed", "version", "recipe"])
def test_another_recipe_makes_a_run_missing_and_no_other(recorder, field, monkeypatch):
    content = recorder.content()
    run = content["runs"][-1]
    changed = {"seed": 99, "version": 99, "recipe": run["recipe"] | {next(iter(run["recipe"])): "another"}}
    runs = [*content["runs"][:-1], run | {field: changed.get(field, "another")}]
    monkeypatch.setattr(recorder, "content", lambda: content | {"runs": runs})
    assert [identity(missing) for missing in recorder.missing()] == [identity(run)]


# Studies of data that no probe can have: the meshes are a reader's own.
UNNAMED = {"12_pointclip": {"meshes"}}


def test_the_probe_speaks_for_each_study(recorder):
    named = {key.partition(".")[0] for key in recorder.content()["probe"]}
    assert named == set(recorder.studies) - UNNAMED.get(recorder.name, set())


def test_the_probe_repeats_its_numbers(recorder):
    assert recorder.content()["probe"], f"run: python recordings/{recorder.name}/record.py --store-probe"
    assert recorder.moved() == []


# ---------------------------------------------------------------- what a probe sees, and what not


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A function: edits -> what the probe says in a copy that has them. Each copy is met by a process of its own."""
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(os, "fork"):
        context.set_forkserver_preload(["torch._dynamo", "nbclient", "scipy.stats", "matplotlib.pyplot"])
    folders = (tmp_path_factory.mktemp("copy") for _ in count())
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield lambda *edits: pool.apply(mutants.moved, (str(mutants.copied(next(folders), edits)),))


def test_wording_prints_and_refactoring_pass(judged):
    assert len(mutants.HARMLESS) == 5
    assert judged(*mutants.HARMLESS) == []


@pytest.mark.parametrize("edit", mutants.HARMFUL, ids=lambda edit: f"{edit.what}, {edit.where}")
def test_harm_fails_and_names_what_to_record_again(judged, edit):
    said = judged(edit)
    assert said and all(f"recordings/{mutants.CHAPTER}/record.py --again" in line for line in said)


def test_five_harms_stand_in_the_notebook_and_five_in_the_library():
    assert [edit.where == "notebook" for edit in mutants.HARMFUL].count(True) == 5 == len(mutants.HARMFUL) - 5


def test_the_book_shows_the_edits():
    assert mutants.table() in (ROOT / "book" / "recordings.md").read_text("utf-8")
