"""Stored outputs against fresh ones: while nbval runs a notebook, each cell is compared here as well (see conftest.py).

nbval compares the text of the cells that ask for it. This compares all cells: claims by value, kinds of output, text
with its numbers, pictures by a perceptual hash, the pictures of sliders, scripts letter by letter.
"""

import base64
import html
import re
from functools import partial
from typing import Any

from claims import TOLERANCE, margin, same, scale, share
from clipnotes.draw import hash_distance, picture_hash
from notebooks import WIDGET_VIEW, facts, tags

BITS = 24  # of 768 that may differ between two renderings of one picture; other figures are 38 or more apart
GRAIN = 4  # of 768 that differ where pixels differ by a few levels
SLACK = 2  # times as many, where the picture shows a training that drifts from processor to processor
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def kinds(outputs: list[Any]) -> list[str]:
    """What a cell shows, in order: text that is printed, pictures, pages, widgets. Warnings do not count."""
    found: list[str] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stdout" and found[-1:] != ["printed text"]:
                found.append("printed text")
        elif output.output_type == "error":
            found.append("an error")
        else:
            data = output.get("data", {})
            order = (WIDGET_VIEW, "image/png", "text/html", "application/javascript", "text/plain")
            found.append(next((kind for kind in order if kind in data), "another kind"))
    return found


def texts(outputs: list[Any]) -> str:
    """The text that a cell shows: what it prints, tables and lines, without the tags of a page.

    Not the line of a claim: its figures are compared as such, and a line that does not say them is no claim's.
    """
    parts = []
    for output in outputs:
        data = output.get("data", {})
        if carried([output], "claim"):
            continue
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text)
        elif "text/html" in data and "<script" not in _joined(data["text/html"]):
            parts.append(html.unescape(re.sub(r"<[^>]+>", " ", _joined(data["text/html"]))))
        elif not {"image/png", WIDGET_VIEW, "text/html", "application/javascript"} & set(data):
            parts.append(_joined(data.get("text/plain", "")))
    return " ".join(parts)


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def text_differs(old: str, new: str, part: float = TOLERANCE) -> str:
    """The first place where two texts differ, or nothing. Numbers may differ by a unit of their last place, or by a
    part of their size.
    """
    words = [NUMBER.split(text) for text in (old, new)]
    if [w.split() for w in words[0]] != [w.split() for w in words[1]]:
        return f"its text is another: {' '.join(old.split())[:80]!r} is stored, {' '.join(new.split())[:80]!r} comes"
    for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
        places = max(len(text.split("e")[0].partition(".")[2]) for text in (a, b))
        exponent = int(a.lower().partition("e")[2] or 0)
        x, y = (float(text.replace(",", "")) for text in (a, b))
        unit = 10.0 ** (exponent - places) if places or exponent else 0.0
        if abs(x - y) > max(1.01 * unit, part * abs(x)):
            return f"a number is another: {a} is stored, {b} comes"
    return ""


def scripts(outputs: list[Any]) -> list[str]:
    """What runs in the reader's browser: the questions of a quiz, and what asks them."""
    return [_joined(o.data["application/javascript"]) for o in outputs if "application/javascript" in o.get("data", {})]


def pictures(outputs: list[Any]) -> list[str]:
    """The perceptual hash of each picture that a cell shows."""
    found = [_joined(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]
    return [picture_hash(base64.b64decode(picture)) for picture in found]


def carried(outputs: list[Any], kind: str) -> list[Any]:
    """What outputs carry for the pages: claims, parity, cards, the frames of sliders."""
    found = [o.get("metadata", {}).get("clipnotes", {}) for o in outputs]
    return [entry[kind] for entry in found if kind in entry]


def claim_differs(old: dict, new: dict, register: dict[str, dict], seeded: dict[str, dict]) -> str:
    """How a fresh claim differs from the stored one, or nothing. seeded: the live claims under seeds, by id."""
    if old["id"] != new["id"] or old["holds"] != new["holds"] or old["n"] != new["n"]:
        return f"claim {old['id']} is another: {old} is stored, {new} comes"
    claim = register.get(old["id"].partition(".")[2], {})
    for key in ("value", "baseline"):
        if not same(old[key], new[key], margin(old, claim, seeded.get(old["id"]), key)):
            return f"claim {old['id']}: its {key} {old[key]} is stored, {new[key]} comes"
    if (old["interval"] is None) != (new["interval"] is None):
        return f"claim {old['id']}: an interval is stored or comes, but not both"
    wide = max(0.02 * scale(old, claim), margin(old, claim, seeded.get(old["id"])))  # resampled: not as exact
    for a, b in zip(old["interval"] or [], new["interval"] or [], strict=True):
        if not same(a, b, wide):
            return f"claim {old['id']}: its interval {old['interval']} is stored, {new['interval']} comes"
    return ""


def differences(cell: Any, fresh: list[Any], register: dict[str, dict], seeded: dict[str, dict]) -> list[str]:
    """What is stored in a cell and does not come when it is run: one sentence each.

    register: the chapter's claims; seeded: its live ones under seeds, by id. A cell that shows figures or pictures
    of claims that drift from processor to processor names these in its metadata, as in
    `clipnotes: {"drifts": ["09.live_head"]}`.
    """
    stored = cell.get("outputs", [])
    if "nbval-skip" in tags(cell):
        return []
    if cell.source.rstrip().endswith(";"):  # nbval shows the value that the semicolon hides
        fresh = [output for output in fresh if output.output_type != "execute_result"]
    if kinds(stored) != kinds(fresh):
        return [f"it shows {kinds(fresh) or 'nothing'}, but {kinds(stored) or 'nothing'} is stored"]
    found = []
    slack = SLACK if "drifts" in facts(cell) else 1
    rules = {"claim": partial(claim_differs, register=register, seeded=seeded), "parity": _differs, "card": _differs,
             "frames": partial(_frames_differ, slack=slack), "labels": _differs}
    for kind, compare in rules.items():
        old, new = carried(stored, kind), carried(fresh, kind)
        if len(old) != len(new):
            found.append(f"{len(old)} of the kind {kind!r} are stored, {len(new)} come")
        found += [text for pair in zip(old, new, strict=False) if (text := compare(*pair))]
    if scripts(stored) != scripts(fresh):
        found.append("its script is another: a quiz is the same at every run")
    if "nbval-ignore-output" not in tags(cell):
        shares = [share(id, register, seeded) for id in facts(cell).get("drifts", [])]
        found += [text for text in [text_differs(texts(stored), texts(fresh), max([TOLERANCE, *shares]))] if text]
    for place, (a, b) in enumerate(zip(pictures(stored), pictures(fresh), strict=True), 1):
        if hash_distance(a, b) > slack * BITS:
            found.append(f"its picture {place} looks otherwise than the stored one")
    return found


def _differs(old: Any, new: Any) -> str:
    return "" if old == new else f"{old} is stored, {new} comes"


def _frames_differ(old: list[str], new: list[str], slack: int) -> str:
    """The frames of a slider may be much alike: each has to be near its own stored one, and nearest to it."""
    if len(old) != len(new):
        return f"a slider of {len(old)} pictures is stored, one of {len(new)} comes"
    for i, (stored, fresh) in enumerate(zip(old, new, strict=True), 1):
        off = hash_distance(stored, fresh)
        if off > slack * BITS or off > min(hash_distance(other, fresh) for other in old) + slack * GRAIN:
            return f"picture {i} of its slider looks otherwise than the stored one"
    return ""
