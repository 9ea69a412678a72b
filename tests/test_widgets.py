"""Quizzes, cards and progress bars: escaped, computed, silent in CI."""

import json
import random
import re

import pytest

from clipnotes import check, records
from clipnotes.check import widgets

# ---------------------------------------------------------------- quiz

QUESTION = {
    "question": "How many negatives has a batch of n pairs?",
    "answers": [
        {"answer": "n²−n", "correct": True, "feedback": "Yes."},
        {"answer": "n²−1", "correct": False, "feedback": "Only one positive would be left."},
    ],
}
TRICKS = ["</script><script>document.title = 'broken'</script>", "<!-- <script>", "\"'`\\</style>",
          "<img src=x onerror=\"document.title='broken'\">", "[a link] (javascript:alert(1))\" onclick=\"1"]


@pytest.fixture
def shown():
    """What the cells show, as an IPython shell sees it."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    yield capture_output
    InteractiveShell.clear_instance()


def tricky() -> list[dict]:
    """A quiz each of whose texts tries to be more than text."""
    tricks = [trick.replace("] (", "](") for trick in TRICKS]  # a link that leads elsewhere is no link
    return [{"question": f"Is {trick} text?", "outcome": trick, "answers": [
        {"answer": f"yes, {trick}", "correct": True, "feedback": f"right: {trick}"},
        {"answer": f"no, {trick}", "correct": False, "feedback": f"wrong: {trick}"}]} for trick in tricks]


def pages(shown, questions: list[dict]) -> list[dict]:
    with shown() as captured:
        check.quiz(questions)
    return [output.data for output in captured.outputs]


def test_a_quiz_is_the_same_at_every_run_and_asks_no_other_site(shown):
    random.seed(1)
    before = random.getstate()
    first, again = (pages(shown, [QUESTION]) for _ in range(2))
    assert first == again
    assert random.getstate() == before
    text = json.dumps(first)
    assert "How many negatives" in text and "https://cdn" not in text
    assert {"text/html", "application/javascript"} <= {kind for data in first for kind in data}


def test_no_text_of_a_quiz_ends_its_script(shown):
    plain, full = (pages(shown, questions) for questions in ([QUESTION], tricky()))
    for kind in ("text/html", "application/javascript"):
        texts = ["".join(data.get(kind, "") for data in found) for found in (plain, full)]
        tags = [re.findall(r"</\w*|<!--|<\w+", text) for text in texts]
        assert tags[0] == tags[1], kind  # the library's own script names some; no text adds one
    assert "&lt;/script&gt;" in json.dumps(full)


def test_texts_of_a_quiz_are_shown_as_they_are(shown, browser, tmp_path):
    """In a browser: nothing breaks out, and each answer reads as it was written."""
    body = "".join(data.get("text/html", "") + f"<script>{data.get('application/javascript', '')}</script>"
                   for data in pages(shown, tricky()))
    (tmp_path / "quiz.html").write_text(f"<!doctype html><meta charset=utf-8><title>whole</title>{body}", "utf-8")
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "quiz.html").as_uri())
    page.wait_for_selector(".MCButton")
    for number, trick in enumerate(TRICKS):
        quiz = page.locator(".Quiz").nth(number)
        buttons = quiz.locator(".MCButton").all_inner_texts()
        assert sorted(buttons) == [f"no, {trick}", f"yes, {trick}"]
        quiz.locator(".MCButton[data-correct=false]").click()
        assert quiz.locator(".Feedback.incorrect").inner_text() == f"wrong: {trick}"
    assert page.title() == "whole" and not errors
    assert page.locator("img, .JQLink").count() == 0
    page.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a[0].update(correct=False), "one right answer"),
        (lambda a: a[1].update(correct=True), "one right answer"),
        (lambda a: a.pop(1), "one right answer"),
        (lambda a: a[1].update(feedback=""), "misconception"),
    ],
)
def test_a_quiz_without_sense_is_refused(change, reason):
    question = json.loads(json.dumps(QUESTION))
    change(question["answers"])
    with pytest.raises(ValueError, match=reason):
        check.quiz([question])


# ---------------------------------------------------------------- cards

NOT_RUN = dict(paper="76.2", expectation="about <the> same", how='start("01_clip", mode="full")')
RUN = dict(gpu="T4", date="2026-01-02", commit="abc1234", weights="0f" * 32)


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A folder of recordings of the test's own."""
    (tmp_path / "09_actionclip").mkdir()
    monkeypatch.setattr(widgets, "shared", {"recordings": tmp_path}.get)
    return tmp_path / "09_actionclip" / "full.json"


def card(shown, *given, **facts):
    with shown() as captured:
        check.card(*given, **facts)
    (output,) = captured.outputs
    return output


def test_a_card_says_how_far_it_was_run(shown, recordings):
    first = card(shown, "09.ucf101", **NOT_RUN)
    second = card(shown, "09.ucf101", stand_in="random weights", shape="ViT-B/32", **NOT_RUN)
    records.write(recordings, {"09.ucf101": RUN, "09.other": RUN})
    third = card(shown, "09.ucf101", stand_in="random weights", shape="ViT-B/32", **NOT_RUN)
    fourth = card(shown, "09.missing", **NOT_RUN)
    entries = [output.metadata["clipnotes"]["card"] for output in (first, second, third, fourth)]
    assert [entry["status"] for entry in entries] == ["not-run", "stand-in", "run", "not-run"]
    assert entries[0] == {"id": "09.ucf101", "status": "not-run"}
    assert first.data["text/plain"].startswith("Not run by us; paper: 76.2; ")
    assert second.data["text/plain"].startswith("Run on a stand-in of the same shape, so not a result; stand-in: ")
    run = f"Run by us; gpu: T4; date: 2026-01-02; commit: abc1234; weights: {'0f' * 32}; "
    assert third.data["text/plain"].startswith(run)
    assert "about &lt;the&gt; same" in first.data["text/html"] and "<the>" not in first.data["text/html"]


def test_nobody_can_write_that_a_card_was_run(recordings):
    for fact, value in RUN.items():
        with pytest.raises(ValueError, match=f"09.ucf101 takes {fact} from the record of a run alone"):
            check.card("09.ucf101", **NOT_RUN, **{fact: value})
    with pytest.raises(TypeError):
        check.card("09.ucf101", "run", **NOT_RUN)


def test_a_record_that_was_changed_by_hand_is_refused(recordings):
    records.write(recordings, {"09.ucf101": RUN})
    recordings.write_text(recordings.read_text("utf-8").replace("T4", "H100"), "utf-8")
    with pytest.raises(RuntimeError, match="changed by hand"):
        check.card("09.ucf101", **NOT_RUN)


def test_a_record_without_its_facts_is_refused(recordings):
    records.write(recordings, {"09.ucf101": {k: v for k, v in RUN.items() if k != "commit"}})
    with pytest.raises(ValueError, match="also needs: commit"):
        check.card("09.ucf101", **NOT_RUN)
    records.write(recordings, {"09.ucf101": RUN | {"weights": "1234"}})
    with pytest.raises(ValueError, match="'1234', which is no sha256"):
        check.card("09.ucf101", **NOT_RUN)


def test_a_card_without_its_facts_is_refused(recordings):
    with pytest.raises(ValueError, match=r"09.ucf101 \(not run by us\) also needs: expectation, how"):
        check.card("09.ucf101", paper="76.2", stand_in="half a stand-in")
    for id in ("ucf101", "9.ucf101", "run", "09.<b>"):
        with pytest.raises(ValueError, match="is no card"):
            check.card(id, **NOT_RUN)


def test_outside_of_a_notebook_a_card_is_printed(recordings, capsys):
    check.card("09.ucf101", **NOT_RUN)
    assert capsys.readouterr().out.startswith("Not run by us; paper: 76.2; ")


# ---------------------------------------------------------------- progress


def test_progress_is_silent_in_ci(monkeypatch, capsys):
    monkeypatch.setenv("CI", "1")
    assert list(check.progress(range(3), "counting")) == [0, 1, 2]
    monkeypatch.delenv("CI")
    assert list(check.progress(iter("ab"), "counting", total=2)) == ["a", "b"]
    assert capsys.readouterr().err == ""
