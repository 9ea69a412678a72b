"""Write the pages that are made from the notebooks: book/results.md, book/parity.md, book/notes_map.md.

    python tools/pages.py           write them
    python tools/pages.py --check   fail where one is out of date

Sources: what the chapters' stored outputs carry (claims, parity), the registered claims (chapters/*.toml), the values
under seeds (recordings/*/seeds.json) and book/notes_remarks.json (one entry a remark of the lecture notes).
"""

import argparse
import json
import sys
from pathlib import Path

from claims import record_of
from clipnotes import records
from clipnotes.check.claims import number as digits
from clipnotes.files import atomic_write
from notebooks import ROOT, chapters, read, register_of, shown

BOOK = ROOT / "book"
UNWRITTEN = "chapter not written yet"
UNMEASURED = "not measured yet"
VERDICTS = ("holds", "does not hold here", "corrected", "cannot be tested here", UNWRITTEN)


def read_json(path: Path) -> dict | list:
    return json.loads(path.read_text("utf-8"))


def measured(notebooks: list[Path]) -> dict[str, dict]:
    """Chapter -> its claims (registered, measured, under seeds) and its parity, as its notebook stores them."""
    found = {}
    for path in notebooks:
        notebook, register = read(path), register_of(path)
        seeded = records.read(record_of(path))["claims"] if record_of(path).exists() else {}
        claims = [register[entry["id"].partition(".")[2]] | entry | {"seeds": seeded.get(entry["id"])}
                  for entry in shown(notebook, "claim")]
        found[path.stem] = dict(claims=claims, parity=_once(shown(notebook, "parity")))
    return found


def _once(entries: list[dict]) -> list[dict]:
    """One entry a component, by name: it may be compared in the text and again in an exercise."""
    return [entry for _, entry in sorted({entry["id"]: entry for entry in reversed(entries)}.items())]


def number(value: float | str | None) -> str:
    """Three digits, integers whole, nothing for nothing."""
    return "" if value is None else value if isinstance(value, str) else digits(value)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def bar(claim: dict) -> str:
    low, high = number(claim.get("low")), number(claim.get("high"))
    if low and high:
        return low if low == high else f"{low} to {high}"
    return f"≥ {low}" if low else f"≤ {high}" if high else "beats the baseline"


def spread(claim: dict) -> str:
    """The values under seeds, or the 95 % interval."""
    values = [value for value in (claim["seeds"] or {}).get("values", []) if value is not None]
    if values:
        return f"{number(min(values))} to {number(max(values))} ({len(values)} seeds)"
    return " to ".join(number(v) for v in claim["interval"]) + " (95 %)" if claim.get("interval") else ""


def verdict(claim: dict) -> str:
    if not claim["holds"] or (claim["seeds"] and not all(claim["seeds"]["holds"])):
        return "fails"
    return "null result" if claim.get("null") else "holds"


def claim_row(claim: dict) -> list[str]:
    what = claim.get("note") or claim["id"].split(".", 1)[1].replace("_", " ")
    what += " (lower is better)" if claim.get("lower_is_better") else ""
    what += f" (changed after the value was seen: {claim['restated']})" if claim.get("restated") else ""
    value = "differs from run to run" if claim.get("timing") else number(claim["value"])
    return [f"`{claim['id']}`", what, value, bar(claim), number(claim["baseline"]), spread(claim), number(claim["n"]),
            number(claim.get("paper")), claim["kind"], verdict(claim)]


def results(found: dict[str, dict]) -> str:
    page = """# Results

Every claim of the course, measured. This page is made from what the chapters store when they are executed, and from
the bars in `chapters/*.toml`, which were registered before.

- **here**: the measured value; **bar**: what was registered before it was run (what was changed afterwards says
  so); **baseline**: what a simpler method reaches on the same data.
- **spread**: the lowest and highest value under several seeds for what is trained in the notebook, otherwise
  the 95 % interval.
- **kind**: *exact* holds by arithmetic; *live* is trained on the page; *shipped* is measured on weights that
  come with the package; *recorded* was measured by a program in `recordings/`.
- **verdict**: *null result* means that what the paper claims, or where none is quoted what was hoped for, does not hold
  here. It is a result too.
"""
    head = ["claim", "what", "here", "bar", "baseline", "spread", "n", "paper", "kind", "verdict"]
    for chapter, entries in found.items():
        if entries["claims"]:
            page += f"\n## {chapter}\n\n" + table(head, [claim_row(c) for c in entries["claims"]])
    return page if "\n## " in page else page + "\nNo chapter has been executed yet.\n"


def parity(found: dict[str, dict]) -> str:
    page = """# Parity

Each component that the chapters build, compared with the numbers of its official release: random weights,
single precision, on a CPU. Differences are in units of max(1, largest expected value), and at most what the last
column says.
"""
    rows = []
    for chapter, entries in found.items():
        for entry in entries["parity"]:
            oracle = entry["oracle"] or f"no oracle exists: {entry['note']}"
            tolerance = entry["tolerance"]
            allowed = "" if tolerance is None else f"{tolerance:.0e}" if tolerance else "exact"
            rows.append([f"`{entry['id']}`", chapter, oracle, allowed])
    if not rows:
        return page + "\nNo chapter has been executed yet.\n"
    return page + "\n" + table(["component", "chapter", "oracle", "at most"], rows)


def remark_verdict(remark: dict, claims: dict[str, dict]) -> str:
    """What is written in the source, unless the measurement says otherwise."""
    if remark["verdict"] not in ("holds", "corrected"):
        return remark["verdict"]
    verdicts = {verdict(claims[i]) if i in claims else "unknown" for i in remark["claims"]}
    if "unknown" in verdicts:
        return UNMEASURED
    if verdicts & {"fails", "null result"}:
        return "does not hold here" if len(verdicts) == 1 else "holds in part"
    return remark["verdict"]


def notes_map(remarks: list[dict], found: dict[str, dict]) -> str:
    # a parity entry is only written where the comparison has passed
    claims = {
        f"{chapter[:2]}.parity": dict(value=None, seeds=None, holds=True)
        for chapter, record in found.items()
        if record["parity"]
    }
    claims |= {c["id"]: c for record in found.values() for c in record["claims"]}
    rows = []
    for remark in remarks:
        values = [
            f"`{i}`"
            + (f" = {number(claims[i]['value'])}" if i in claims and claims[i]["value"] is not None else "")
            for i in remark["claims"]
        ]
        where = ", ".join(filter(None, [remark["chapter"], remark["where"]]))
        rows.append(
            [remark["id"], remark["remark"], where, ", ".join(values), remark_verdict(remark, claims)]
        )
    answered = sum(row[-1] not in (UNWRITTEN, UNMEASURED) for row in rows)
    return f"""# The lecture notes, remark by remark

The course follows a set of Chinese lecture notes on CLIP and its descendants. Each of their {len(remarks)}
remarks has one row: a paraphrase, where the course answers it, the claims that were measured, and what came
out. Answered so far: {answered}. *Corrected* means that the notes have a slip; *does not hold here* is a
measured result of our small world, not a judgement of the paper.

""" + table(["no.", "remark", "where", "claims", "verdict"], rows)


def pages(notebooks: list[Path] | None = None, remarks: Path = BOOK / "notes_remarks.json") -> dict[str, str]:
    """File name -> text of each generated page."""
    found = measured(chapters() if notebooks is None else notebooks)
    return {"results.md": results(found), "parity.md": parity(found),
            "notes_map.md": notes_map(read_json(remarks), found)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail where a page is out of date"
    )
    check = parser.parse_args().check
    made = pages()
    old = [name for name in made if not (BOOK / name).exists() or (BOOK / name).read_text("utf-8") != made[name]]
    for name in [] if check else old:
        atomic_write(BOOK / name, made[name])
    print(f"{'out of date' if check else 'written'}: {', '.join(old) or 'nothing'}")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
