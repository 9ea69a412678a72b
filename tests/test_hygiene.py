"""Every notebook keeps every rule, and every rule can fail: each is broken once on a copy of the template."""

import copy
import hashlib
import json

import pytest

import hygiene
from hygiene import Page, facts, tags
from notebooks import ROOT, TEMPLATE, WIDGET_STATE, chapters, read

NOTEBOOKS = [TEMPLATE, *chapters()]


@pytest.mark.parametrize("rule", hygiene.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rule(path, rule):
    assert list(rule(Page(path, read(path)))) == []


# ---------------------------------------------------------------- each rule, broken


def cell(notebook, id):
    return next(c for c in notebook.cells if c.id == id)


def first(notebook, tag):
    return next(c for c in notebook.cells if tag in tags(c))


def swap(notebook, old, new):
    """Replace text in all sources."""
    for c in notebook.cells:
        c.source = c.source.replace(old, new)


def second_h1(nb):
    nb.cells[1].source = "# Another\n\n" + nb.cells[1].source


def missing_section(nb):
    swap(nb, "## A toy proof\n", "## A toy\n")


def swapped_sections(nb):
    swap(nb, "## Warm-up\n", "## TEMPORARY\n")
    swap(nb, "## Set-up\n", "## Warm-up\n")
    swap(nb, "## TEMPORARY\n", "## Set-up\n")


def long_cell(nb):
    cell(nb, "cosines").source += "\nx = 1" * 20


def all_cells_longer(nb):
    for c in nb.cells:
        if c.cell_type == "code" and "quiz" not in tags(c):
            c.source += "\nx = 1" * 6


def wide_line(nb):
    cell(nb, "cosines").source += "  # " + "x" * 80


def two_cells_in_a_row(nb):
    nb.cells = [c for c in nb.cells if c.id != "cosines-naive-text"]


def two_comprehensions(nb):
    cell(nb, "cosines").source += "\nx = [i for i in range(3)] + [j for j in range(3)]"


def a_comprehension_of_two_loops(nb):
    cell(nb, "cosines").source += "\nx = [i + j for i in range(3) for j in range(3)]"


def a_letter_for_a_thing(nb):
    cell(nb, "cosines").source += "\np = 0.5"


def dialect(nb):
    cell(nb, "cosines").source += "\nlesson_images = 0"


def a_class_in_dialect(nb):
    cell(nb, "cosines").source += "\n\n\nclass Model:\n    def ask(self): ..."


def two_claims_a_cell(nb):
    cell(nb, "toy-loss-claim").source += '\ncheck.claim("00.toy_recall", 1.0)'


def a_claim_without_a_title(nb):
    source = cell(nb, "toy-loss-claim").source
    cell(nb, "toy-loss-claim").source = source.partition("\n")[2]


def a_computed_id(nb):
    swap(nb, '"00.toy_loss"', 'f"00.toy_{1}"')


def a_claim_beside_a_figure(nb):
    cell(nb, "toy-loss-claim").outputs += cell(nb, "toy-curve").outputs


def unregistered_claim(nb):
    swap(nb, '"00.toy_loss"', '"00.toy_lost"')


def claim_left_out(nb):
    nb.cells = [c for c in nb.cells if c.id != "toy-loss-claim"]


def claim_made_twice(nb):
    nb.cells.append(copy.deepcopy(cell(nb, "toy-loss-claim")))


def eleven_claims(nb):
    place = nb.cells.index(cell(nb, "toy-loss-claim"))
    nb.cells[place:place] = [copy.deepcopy(cell(nb, "toy-loss-claim")) for _ in range(9)]


def another_printed_number(nb):
    output = cell(nb, "toy-recall-claim").outputs[0]
    output.data["text/plain"] = output.data["text/plain"].replace(": 1 ", ": 0.5 ").replace(": 0.9", ": 0.4")


def another_value(nb):
    cell(nb, "toy-recall-claim").outputs[0].metadata.clipnotes.claim.value = 0.411


def a_number_without_source(nb):
    cell(nb, "figure-toy").source += " It reaches 93 %."


def a_wrong_number(nb):
    cell(nb, "figure-toy").source += " It reaches 13 %<!--00.toy_recall-->."


def a_source_that_is_none(nb):
    cell(nb, "figure-toy").source += " It reaches 13 %<!--00.nothing-->."


def a_run_that_is_none(nb):
    cell(nb, "figure-toy").source += " It reaches 13 %<!--heads:transf accuracy-->."


def clock_time(nb):
    cell(nb, "cosines-check").outputs[0].text += "took 3.2 s"


def digits_of_noise(nb):
    cell(nb, "cosines-check").outputs[0].text += "0.10000000149"


def long_idea(nb):
    cell(nb, "the-idea").source += " more words" * 200


def long_setup(nb):
    cell(nb, "set-up").source += "\nx = 1" * 5


def another_chapters_setup(nb):
    swap(nb, 'clipnotes.start("00_template")', 'clipnotes.start("01_clip")')


def second_setup(nb):
    extra = copy.deepcopy(cell(nb, "set-up"))
    extra.id = "set-up-again"
    nb.cells.insert(nb.cells.index(cell(nb, "set-up")), extra)


def old_format(nb):
    nb.nbformat_minor = 4


def other_kernel(nb):
    nb.metadata.kernelspec.name = "julia"


def fat_notebook(nb):
    cell(nb, "the-idea").source += "x" * 3_100_000


def cell_run_alone(nb):
    cell(nb, "cosines").execution_count = 99


def memory_address(nb):
    cell(nb, "cosines-check").outputs[0].text += "<object at 0x7f0000000000>"


def random_widgets(nb):
    text = json.dumps(nb.metadata.widgets).replace("widget-0001", "5f3a9c0e7d")
    nb.metadata.widgets = json.loads(text)


def output_lost(nb):
    cell(nb, "cosines-check").outputs = []


def stored_warning(nb):
    cell(nb, "cosines").outputs = [
        hygiene.NotebookNode(output_type="stream", name="stderr", text="UserWarning: something")
    ]


def stored_error(nb):
    cell(nb, "cosines").outputs = [
        hygiene.NotebookNode(output_type="error", ename="E", evalue="", traceback=[])
    ]


def nothing_compared(nb):
    for c in nb.cells:
        c.metadata.tags = [t for t in tags(c) if t != "nbval-check-output"]


def random_id(nb):
    cell(nb, "cosines").id = "3f9a1c7b"


def shouted_id(nb):
    cell(nb, "cosines").id = "Cosines_2"


def same_id_twice(nb):
    cell(nb, "cosines").id = "cosines-naive"


def other_than_the_library(nb):
    swap(nb, "F.cross_entropy(logits.T, labels)\n    ) / 2", "F.cross_entropy(logits.T, labels)\n    ) / 2.0")


def not_in_the_library(nb):
    cell(nb, "clip-loss").source = "def no_such_function():\n    pass"


def lost_library(nb):
    cell(nb, "clip-loss").metadata.tags = ["lib:clipnotes/nothing.py"]


def few_assertions(nb):
    swap(nb, "assert ", "bool ")


def untagged_claim(nb):
    first(nb, "claim").metadata.tags = []


def tagged_without_a_claim(nb):
    cell(nb, "cosines").metadata.tags = ["claim"]


def another_chapters_claim(nb):
    swap(nb, '"00.toy_loss"', '"07.toy_loss"')


def no_alternative_text(nb):
    del cell(nb, "toy-curve").metadata["mystnb"]


def short_alternative_text(nb):
    cell(nb, "toy-curve").metadata.mystnb.image.alt = "a curve"


def same_alternative_text(nb):
    cell(nb, "toy-curve").metadata.mystnb.image.alt = cell(nb, "idea-diagram").metadata.mystnb.image.alt


def no_widget_state(nb):
    del nb.metadata["widgets"]


def no_interactive_figure(nb):
    first(nb, "interactive").metadata.tags = []


def widget_without_alternative_text(nb):
    nb.metadata.widgets = json.loads(json.dumps(nb.metadata.widgets).replace("alt=", "title="))


def untagged_widget(nb):
    first(nb, "interactive").metadata.tags = ["hide-input"]
    cell(nb, "cosines").metadata.tags = ["interactive"]
    cell(nb, "cosines").outputs = first(nb, "hide-input").outputs


def picture_widget(nb):
    nb.metadata.widgets[WIDGET_STATE]["state"]["widget-0001"]["model_name"] = "ImageModel"


def directive(nb):
    cell(nb, "the-idea").source += "\n\n```{note}\nA directive.\n```"


def role(nb):
    cell(nb, "the-idea").source += " See {ref}`here`."


def foreign_picture(nb):
    cell(nb, "the-idea").source += "\n\n![a badge](https://example.org/badge.svg)"


def own_machine(nb):
    cell(nb, "the-idea").source += " The file lies in /home" + "/me/file."


def own_machine_in_an_output(nb):
    cell(nb, "cosines-check").outputs[0].text += "read\n/tmp" + "/x"


def unknown_tag(nb):
    cell(nb, "cosines-check").metadata.tags = ["check", "nbval-skip"]


def a_table_that_is_ignored(nb):
    cell(nb, "cosines-check").metadata.tags = ["check", "nbval-ignore-output"]


def slider(nb):
    """The state of the slider's pictures and their HTML."""
    state = nb.metadata.widgets[WIDGET_STATE]["state"].values()
    return [model["state"] for model in state if "clipnotes-frame" in (model["state"].get("value") or "")]


def exchanged_frames(nb):
    first, *_, last = slider(nb)
    first["value"], last["value"] = last["value"], first["value"]


def lost_frame(nb):
    slider(nb)[0]["value"] = "<p>nothing</p>"


def another_label(nb):
    frame = slider(nb)[0]
    frame["value"] = frame["value"].replace("<p>", "<p>not ")


def another_reading(nb):
    frame = slider(nb)[0]
    frame["value"] = frame["value"].replace('alt="', 'alt="not ')


def another_description(nb):
    for model in nb.metadata.widgets[WIDGET_STATE]["state"].values():
        if model["model_name"] == "IntSliderModel":
            model["state"]["description"] = "temperature of the room"

def figure_left_out(nb):
    swap(nb, "**Figure 0.2.**", "**Figure 0.5.**")


def equation_of_another_chapter(nb):
    swap(nb, "\\tag{0.2}", "\\tag{3.2}")


def dead_page(nb):
    cell(nb, "the-idea").source += f" [gone]({hygiene.BOOK}book/gone.html)"


def dead_heading(nb):
    cell(nb, "the-idea").source += f" [gone]({hygiene.BOOK}book/notation.html#gone)"


def dead_file(nb):
    cell(nb, "the-idea").source += f" [gone]({hygiene.REPOSITORY}/blob/main/gone.py)"


def dead_anchor(nb):
    cell(nb, "the-idea").source += " [gone](#gone)"


def relative_link(nb):
    cell(nb, "the-idea").source += " [notation](../notation.md)"


def four_questions(nb):
    quiz = first(nb, "quiz")
    quiz.source = quiz.source[: quiz.source.rindex('    {"question"')] + "])\n"


def unnamed_misconception(nb):
    swap(nb, '"Counting one row: each of', '"Each of')


def two_right_answers(nb):
    quiz = first(nb, "quiz")
    quiz.source = quiz.source.replace('"9,999", "correct": False', '"9,999", "correct": True')


def html_in_the_quiz(nb):
    swap(nb, '"9,999"', '"<b>9,999</b>"')


def quiz_compared(nb):
    first(nb, "quiz").metadata.tags = ["quiz"]


def untested_outcome(nb):
    swap(nb, '"outcome": "O3"', '"outcome": "O1"')
    for c in nb.cells:
        if facts(c).get("outcome") == "O3":
            c.metadata.clipnotes.outcome = "O1"


def two_outcomes(nb):
    swap(nb, "3. **O3** recognise", "3. recognise")


def no_solution(nb):
    nb.cells = [c for c in nb.cells if facts(c).get("solution") != "ranks"]


def stub_without_a_blank(nb):
    swap(nb, "    ### BEGIN SOLUTION\n", "")


def answer_in_plain_sight(nb):
    cell(nb, "ranks-check").source = 'check.expect(lambda: ranks(table), [1, 3, 2], "count", name="ranks")'


def kind_left_out(nb):
    cell(nb, "ranks-stub").metadata.clipnotes.kind = "change"


def exercise_without_outcome(nb):
    del cell(nb, "ranks-stub").metadata.clipnotes["outcome"]


def ungraded(nb):
    del cell(nb, "ranks-check").metadata["nbgrader"]


def worthless_check(nb):
    cell(nb, "ranks-check").metadata.nbgrader.points = 0


def unlocked_check(nb):
    cell(nb, "ranks-check").metadata.nbgrader.locked = False


def open_solution(nb):
    cell(nb, "ranks-solution").metadata.tags = ["solution"]


def bug_that_nbgrader_clears(nb):
    cell(nb, "row-lengths-stub").metadata.nbgrader = dict(cell(nb, "ranks-stub").metadata.nbgrader)


def solution_that_nbgrader_keeps(nb):
    swap(nb, "### BEGIN HIDDEN TESTS\n", "")


def solution_worth_points(nb):
    cell(nb, "ranks-solution").metadata.nbgrader.points = 1


def untitled_solution(nb):
    cell(nb, "ranks-solution").source = cell(nb, "ranks-solution").source.replace("# @title Solution\n", "")


def solution_in_the_open(nb):
    cell(nb, "ranks-solution").source = cell(nb, "ranks-solution").source.replace("ranks_solution", "ranks")


def solution_unfolded_on_colab(nb):
    del cell(nb, "ranks-solution").metadata["cellView"]


BROKEN = {
    "template_headings": [second_h1, missing_section, swapped_sections],
    "short_cells": [long_cell, all_cells_longer],
    "narrow_lines": [wide_line],
    "prose_between": [two_cells_in_a_row],
    "one_comprehension": [two_comprehensions, a_comprehension_of_two_loops],
    "names_of_the_field": [a_letter_for_a_thing, dialect, a_class_in_dialect],
    "short_idea": [long_idea],
    "short_setup": [long_setup, another_chapters_setup, second_setup],
    "stored_form": [old_format, other_kernel, fat_notebook],
    "sequential_counts": [cell_run_alone],
    "normalised": [memory_address, random_widgets, cell_run_alone],
    "stored_outputs": [output_lost, stored_warning, stored_error],
    "compared_outputs": [nothing_compared],
    "known_tags": [unknown_tag, a_table_that_is_ignored],
    "stable_ids": [random_id, shouted_id, same_id_twice],
    "no_drift": [other_than_the_library, not_in_the_library, lost_library],
    "enough_assertions": [few_assertions],
    "claims_stand_alone": [untagged_claim, tagged_without_a_claim, two_claims_a_cell, a_claim_without_a_title,
                           a_computed_id, a_claim_beside_a_figure],
    "claims_registered": [another_chapters_claim, unregistered_claim, claim_left_out, claim_made_twice],
    "few_claims": [eleven_claims],
    "claims_printed": [another_printed_number, another_value],
    "measured_prose": [a_number_without_source, a_wrong_number, a_source_that_is_none, a_run_that_is_none],
    "settled_outputs": [clock_time, digits_of_noise],
    "alternative_text": [no_alternative_text, short_alternative_text, same_alternative_text],
    "live_figure": [no_widget_state, no_interactive_figure, widget_without_alternative_text, picture_widget,
                    untagged_widget],
    "stored_frames": [exchanged_frames, lost_frame, another_label, another_reading, another_description],
    "plain_markdown": [directive, role, foreign_picture],
    "no_own_machine": [own_machine, own_machine_in_an_output],
    "numbered": [figure_left_out, equation_of_another_chapter],
    "links_resolve": [dead_page, dead_heading, dead_file, dead_anchor, relative_link],
    "good_quiz": [four_questions, unnamed_misconception, two_right_answers, html_in_the_quiz, quiz_compared],
    "outcomes_tested": [untested_outcome, two_outcomes],
    "whole_exercises": [no_solution, stub_without_a_blank, answer_in_plain_sight, kind_left_out,
                        exercise_without_outcome],
    "graded": [ungraded, worthless_check, unlocked_check, bug_that_nbgrader_clears, solution_worth_points],
    "hidden_solutions": [open_solution, untitled_solution, solution_in_the_open, solution_unfolded_on_colab,
                         solution_that_nbgrader_keeps],
}
CASES = [(rule, damage) for rule, damages in BROKEN.items() for damage in damages]


@pytest.mark.parametrize(("rule", "damage"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_rule_sees_the_damage(rule, damage):
    notebook = read(TEMPLATE)
    damage(notebook)
    assert list(getattr(hygiene, rule)(Page(TEMPLATE, notebook))) != []


def test_length_is_asked_of_chapters():
    notebook = read(TEMPLATE)
    found = list(hygiene.lengths(Page(TEMPLATE.with_name("02_lseg.ipynb"), notebook)))
    assert any("words" in complaint for complaint in found)
    notebook.cells = notebook.cells[:20]
    found = list(hygiene.lengths(Page(TEMPLATE.with_name("02_lseg.ipynb"), notebook)))
    assert any("code cells" in complaint for complaint in found)


def test_every_rule_is_broken_somewhere():
    assert set(BROKEN) | {"lengths"} == {rule.__name__ for rule in hygiene.RULES}


# ---------------------------------------------------------------- every file


def test_no_text_names_a_machine_or_holds_a_token():
    paths = hygiene.tracked()
    assert len(paths) > 200
    assert list(hygiene.clean_texts(paths)) == []


# Written in two parts: this file is read by the rule, too.
OPEN = ["/home" + "/me/x", "/Users" + "/me", "/root" + "/x", "/tmp" + "/x", "C:\\" + "Users\\me", "C:/" + "Users/me",
        "file:///home" + "/me", "text\\n/home" + "/me", "ghp" + "_" + "a1" * 18, "github" + "_pat_" + "a" * 22,
        "sk" + "-proj-" + "a1" * 12, "hf" + "_" + "aB" * 17, "AKIA" + "ABCDEFGH12345678", "AIza" + "x" * 35,
        "xoxb" + "-1234567890", "-----BEGIN RSA " + "PRIVATE KEY-----", "https://me:pass" + "word@example.org/x"]
CLOSED = ["a home/me", "https://example.org/home/me", "iVBORw0KGgo/tmp" + "/x+root" + "/y", "task-" + "a1" * 12,
          "a hf_ b", "sk-learn", "https://example.org:80/a@b", "D:\\n", "$HOME/x", "~/x", "the folder tmp/x"]


@pytest.mark.parametrize("text", OPEN)
def test_places_and_tokens_are_found(text):
    for before in ("", "see ", '"', "path=", "("):
        assert len(hygiene.foreign(before + text)) == 1


@pytest.mark.parametrize("text", CLOSED)
def test_other_words_are_no_places_and_no_tokens(text):
    assert hygiene.foreign(text) == []


def test_only_the_beginning_of_a_token_is_shown():
    assert hygiene.foreign("ghp" + "_" + "a1" * 18) == ["ghp" + "_a1a1a1a1"]


@pytest.mark.parametrize("name", hygiene.FROM_ELSEWHERE)
def test_files_from_elsewhere_are_as_they_came(name):
    assert list(hygiene.unchanged_files(ROOT / name)) == []


def test_a_file_that_is_changed_lost_or_new_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(hygiene, "ROOT", tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name, "utf-8")
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b", "lost")}
    (tmp_path / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()), "utf-8")
    (tmp_path / "b").write_text("B", "utf-8")
    changed, new, lost = hygiene.unchanged_files(tmp_path)
    assert changed.startswith("b was changed") and new.startswith("c is not in SHA256SUMS")
    assert lost == "lost is not there"


# ---------------------------------------------------------------- the pages beside the notebooks


def test_every_chapter_is_in_the_book():
    assert {f"chapters/{path.stem}" for path in chapters()} <= hygiene.book_pages()


def test_pages_of_the_book_exist():
    missing = [
        name
        for name in hygiene.book_pages()
        if not any((ROOT / f"{name}{end}").exists() for end in (".md", ".ipynb"))
    ]
    assert missing == []
