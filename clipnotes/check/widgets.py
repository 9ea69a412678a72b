"""What a chapter shows beside its figures: quizzes, cards of what was run, progress bars."""

import html
import json
import os
import random
import re
import sys
from collections.abc import Iterable
from typing import Any

from clipnotes import records
from clipnotes.check.claims import shown
from clipnotes.files import shared

# ---------------------------------------------------------------- quiz


def _checked(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for q in questions:
        right = [a for a in q["answers"] if a.get("correct")]
        if len(right) != 1 or len(q["answers"]) < 2:
            raise ValueError(f"{q['question']!r} needs one right answer and at least one wrong one.")
        if not all(a.get("feedback") for a in q["answers"]):
            raise ValueError(
                f"Each answer of {q['question']!r} needs feedback: a wrong one names its misconception."
            )
    return [{"type": "multiple_choice", **q} for q in questions]


def escaped(value: Any) -> Any:
    """The same with every text escaped: it is shown as HTML, and stands in a script, which no "</" may end.

    Of [words](address) the quiz makes a link: only where the address is one of the web.
    """
    if isinstance(value, str):
        return re.sub(r"\]\((?!https?://)", "] (", html.escape(value))
    if isinstance(value, dict):
        return {escaped(key): escaped(item) for key, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, (list, tuple)) else value


def quiz(questions: list[dict[str, Any]]) -> None:
    """Show multiple-choice questions that also work in the static page, offline.

    questions: dicts {"question": text, "answers": [{"answer": text, "correct": bool, "feedback": text},
    ...]}; one answer is right and each has feedback, or ValueError is raised. A text is shown as it is: HTML
    in it is not read, $mathematics$ is. Tag the cell nbval-ignore-output.
    """
    from IPython.display import display
    from IPython.utils.capture import capture_output
    from jupyterquiz import display_quiz

    questions = _checked(questions)
    state = random.getstate()
    random.seed(json.dumps(questions))  # the quiz draws its element's id: the same at every run
    try:
        with capture_output() as captured:
            display_quiz(escaped(questions), colors={"--jq-multiple-choice-bg": "#1f5a96"})
    finally:
        random.setstate(state)
    for output in captured.outputs:  # the script would fetch MathJax from another site where a page has none
        plain = "a quiz: open the page or the notebook to answer it"
        data = {
            k: v.replace("https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-svg.js", "")
            for k, v in output.data.items()
        }
        display({**data, "text/plain": plain}, raw=True)


# ---------------------------------------------------------------- cards

_CARDS = {  # status -> title, colour, the facts that it needs
    "run": ("Run by us", "#2f855a", ("gpu", "date", "commit", "weights")),
    "stand-in": ("Run on a stand-in of the same shape, so not a result", "#b7791f", ("stand_in", "shape")),
    "not-run": ("Not run by us", "#718096", ("paper", "expectation", "how")),
}


def _recorded(id: str) -> dict[str, Any] | None:
    """What a run in full mode has recorded under this id, in recordings/NN_*/full.json, or None."""
    folder = shared("recordings")
    files = sorted(folder.glob(f"{id.partition('.')[0]}_*/full.json")) if folder else []
    return next((content[id] for content in map(records.read, files) if id in content), None)


def card(id: str, **facts: str) -> None:
    """Show under a `full` cell how far it was run. The status is computed, not written.

    id: chapter's number, dot, name: "09.ucf101". Run by us: recordings/NN_*/full.json, whose digest is right,
    has an entry of this id with gpu, date, commit and weights, their sha256. Else, where stand_in and shape
    are given, run on a stand-in. Else not run: needs paper (its figure), expectation (ours) and how (to run
    it). More facts are welcome.
    Raises ValueError for another id or a missing fact, RuntimeError for a record that was changed by hand.
    """
    if not re.fullmatch(r"\d\d\.\w+", id):
        raise ValueError(f"{id!r} is no card. An id looks like '09.ucf101'.")
    if written := [fact for fact in _CARDS["run"][2] if fact in facts]:
        raise ValueError(f"The card {id} takes {', '.join(written)} from the record of a run alone.")
    run = _recorded(id)
    status = "run" if run is not None else "stand-in" if {"stand_in", "shape"} <= set(facts) else "not-run"
    title, colour, needed = _CARDS[status]
    facts = (run or {}) | facts
    if missing := [fact for fact in needed if not facts.get(fact)]:
        raise ValueError(f"The card {id} ({title.lower()}) also needs: {', '.join(missing)}.")
    if status == "run" and not re.fullmatch("[0-9a-f]{64}", facts["weights"]):
        raise ValueError(f"The record of {id} names the weights by {facts['weights']!r}, which is no sha256.")
    rows = [(name.replace("_", "-"), str(value)) for name, value in facts.items()]
    items = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(value)}</li>" for name, value in rows)
    style = f"border-left: 0.4em solid {colour}; padding: 0.3em 1em; margin: 0.5em 0;"
    page = f'<div class="clipnotes-card" style="{style}"><b>{title}</b><ul>{items}</ul></div>'
    text = "; ".join([title, *(f"{name}: {value}" for name, value in rows)])
    shown("card", {"id": id, "status": status}, text, page)


# ---------------------------------------------------------------- progress


def progress(iterable: Iterable | None, desc: str, total: int | None = None) -> Iterable:
    """A progress bar around an iterable; silent in CI and wherever nobody watches."""
    from tqdm.auto import tqdm

    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    watched = sys.stderr.isatty() or hasattr(shell, "kernel")
    return tqdm(
        iterable, desc=desc, total=total, leave=False, disable=bool(os.environ.get("CI")) or not watched
    )
