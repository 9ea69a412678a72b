"""Claims: a measured figure against the bar that was registered before its value was known.

A chapter's claims are registered in one file beside its notebook, `chapters/09_actionclip.toml`:

    [transf_over_mean]          # in the notebook: check.claim("09.transf_over_mean", gain, interval=interval)
    kind = "recorded"           # one of KINDS
    low = 0.3                   # the bar: low, high or both; without either the baseline has to be beaten
    note = "accuracy with the transformer minus that with the mean"

More keys: high; paper, the paper's figure as a number or words; null = true, a null result: what the paper, or
without `paper` we, expected does not hold here; lower_is_better = true; timing = true, a ratio of processor times,
which differs from run to run; drifts = "why", where another processor's rounding moves a live value, so that, run
again, it may be as far from the stored one as the values under seeds lie apart (all else: a thousandth of its scale);
restated = "why the bar or one of these keys was changed after the value was seen".
"""

import math
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from clipnotes.files import shared

KINDS = ("exact", "live", "shipped", "recorded")
KEYS = ("kind", "low", "high", "note", "paper", "null", "lower_is_better", "timing", "drifts", "restated")
DIGITS = 4  # a stored value is rounded to so many significant digits


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """A number with so many significant digits; each number of a list or a dict, too. Noise below 1e-6 is nothing."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if not abs(value) < 1e-6 else 0.0
    if isinstance(value, dict):
        return {key: rounded(v, digits) for key, v in value.items()}
    return [rounded(v, digits) for v in value] if isinstance(value, (list, tuple)) else value


@cache
def read_register(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> what was registered for it. Raises ValueError where the file is not as this module's docstring says."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path.name} cannot be read: {error}.") from error
    for name, claim in found.items():
        if unknown := [key for key in claim if key not in KEYS]:
            raise ValueError(f"{path.name}, [{name}]: there is no key {unknown[0]!r}. "
                             f"Write some of: {', '.join(KEYS)}.")
        if claim.get("kind") not in KINDS:
            raise ValueError(f"{path.name}, [{name}]: there is no kind {claim.get('kind')!r}. "
                             f"Write one of: {', '.join(KINDS)}.")
        if "drifts" in claim and (claim["kind"] != "live" or claim.get("timing")):
            raise ValueError(f"{path.name}, [{name}]: only a live value that is no time drifts, as far as its "
                             "seeds lie apart. Leave out drifts.")
    return found


def register_of(number: str) -> Path:
    """The file in which the claims of a chapter are registered: beside the notebook that runs, or with the library."""
    folders = [Path.cwd(), shared("chapters")]
    for folder in filter(None, folders):
        if found := sorted(folder.glob(f"{number}_*.toml")):
            return found[0]
    raise ValueError(f"There is no register of chapter {number!r}, chapters/{number}_*.toml. "
                     "An id looks like '01.loss_below_ln_n'.")


def registered(id: str) -> dict[str, Any]:
    """What was registered for a claim."""
    number, _, name = id.partition(".")
    path = register_of(number)
    claim = read_register(path).get(name)
    if claim is None:
        raise ValueError(f'{id} is not registered. Before it is measured, {path.name} needs: [{name}], '
                         'kind = "...", low or high, note = "...".')
    return claim


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) < 1e9 and value == int(value) else f"{value:.3g}"


def bar(claim: dict[str, Any]) -> str:
    """The registered bar in words."""
    low, high = claim.get("low"), claim.get("high")
    if low is not None and high is not None:
        return f"from {number(low)} to {number(high)}"
    if low is not None:
        return f"at least {number(low)}"
    return "" if high is None else f"at most {number(high)}"


def failure(claim: dict[str, Any], value: float, baseline: float | None) -> str:
    """Why a value does not meet its claim, or nothing."""
    low, high = claim.get("low", -math.inf), claim.get("high", math.inf)
    if not math.isfinite(value):
        return "the value is not a finite number"
    if not low <= value <= high:
        return f"the claim asks for {bar(claim)}"
    beaten = baseline is None or (value < baseline if claim.get("lower_is_better") else value > baseline)
    return "" if beaten or claim.get("null") else f"the baseline {number(baseline)} is not beaten"


def line(entry: dict[str, Any], claim: dict[str, Any]) -> str:
    """The one line that a claim shows; `entry` as `claim` stores it."""
    facts = [bar(claim)] + [f"{name} {number(v) if isinstance(v, (int, float)) else v}" for name, v in (
        ("baseline", entry["baseline"]), ("paper", claim.get("paper")), ("n", entry["n"])) if v is not None]
    value = "" if claim.get("timing") else f" {number(entry['value'])}"
    text = f"claim {entry['id']}:{value} ({'; '.join(filter(None, facts))})"
    if not entry["holds"]:
        return f"{text} · fails"
    if not claim.get("null"):
        return f"{text} · holds"
    return f"{text} · null result" + (": the paper's claim does not hold here" if claim.get("paper") else "")


def claim(id: str, value: float, *, baseline: float | None = None, interval: tuple[float, float] | None = None,
          n: int | None = None) -> None:
    """Assert that a measured figure is as it was registered, and show it in one line.

    id: chapter's number, dot, name: "01.loss_below_ln_n". value: a number or a tensor of one. baseline: what a simpler
    method reaches; it must be beaten, unless the claim is registered as a null result. interval: 95 % interval of the
    value. n: how many cases.
    Raises AssertionError where the claim fails, ValueError where it is not registered or claims nothing.
    """
    claim = registered(id)
    value, baseline = float(value), None if baseline is None else float(baseline)
    if "low" not in claim and "high" not in claim and (baseline is None or claim.get("null")):
        raise ValueError(f"{id} claims nothing. "
                         "Register low or high, or give a baseline (for a null result low or high).")
    reason = failure(claim, value, baseline)
    interval = None if interval is None else [float(v) for v in interval]
    entry = dict(id=id, value=value, baseline=baseline, interval=interval, n=n, holds=not reason)
    if claim.get("timing"):
        entry["value"] = None
    entry = rounded(entry)
    shown("claim", entry, line(entry, claim))
    assert not reason, f"claim {id}: {number(value)} fails: {reason}."


def shown(kind: str, entry: dict[str, Any], text: str, page: str = "") -> None:
    """Show a line; in a notebook with `entry`, from which the pages are made, and as HTML where `page` is given."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        print(text)
        return
    from IPython.display import display

    data = {"text/html": page, "text/plain": text} if page else {"text/plain": text}
    display(data, raw=True, metadata={"clipnotes": {kind: entry}})
