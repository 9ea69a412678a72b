"""Write the pages that are made from records: book/results.md, book/parity.md, book/notes_map.md.

    python tools/pages.py           write them
    python tools/pages.py --check   fail where one is out of date

Sources: book/records/<chapter>.json (written when a chapter is executed), <chapter>.claims.json (written by
tools/claims.py) and book/notes_remarks.json (one entry a remark of the lecture notes).
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
UNWRITTEN = "chapter not written yet"
UNMEASURED = "not measured yet"
VERDICTS = ("holds", "does not hold here", "corrected", "cannot be tested here", UNWRITTEN)


def read_json(path: Path) -> dict | list:
    return json.loads(path.read_text("utf-8"))


def records(folder: Path = BOOK / "records") -> dict[str, dict]:
    """Chapter -> its record, with the values under seeds put beside each live claim."""
    found = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.json")):
        if path.name.endswith(".claims.json"):
            continue
        record = read_json(path)
        seeded = path.with_suffix(".claims.json")
        values = read_json(seeded)["claims"] if seeded.exists() else {}
        for claim in record["claims"]:
            claim["seeds"] = values.get(claim["id"])
        found[path.stem] = record
    return found


def number(value: float | str | None) -> str:
    """Three digits, integers whole, nothing for nothing."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) < 1e9 and value == int(value) else f"{value:.3g}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


def bar(claim: dict) -> str:
    low, high = number(claim["low"]), number(claim["high"])
    if low and high:
        return low if low == high else f"{low} to {high}"
    return f"≥ {low}" if low else f"≤ {high}" if high else "beats the baseline"


def spread(claim: dict) -> str:
    """The values under seeds, or the 95 % interval."""
    if claim["seeds"]:
        values = claim["seeds"]["values"]
        return f"{number(min(values))} to {number(max(values))} ({len(values)} seeds)"
    return " to ".join(number(v) for v in claim["interval"]) + " (95 %)" if claim.get("interval") else ""


def verdict(claim: dict) -> str:
    if not claim["holds"] or (claim["seeds"] and not all(claim["seeds"]["holds"])):
        return "fails"
    return "null result" if claim["null"] else "holds"


def claim_row(claim: dict) -> list[str]:
    what = claim["note"] or claim["id"].split(".", 1)[1].replace("_", " ")
    better = " (lower is better)" if claim["lower_is_better"] else ""
    return [
        f"`{claim['id']}`",
        what + better,
        number(claim["value"]),
        bar(claim),
        number(claim["baseline"]),
        spread(claim),
        number(claim["n"]),
        number(claim["paper"]),
        claim["kind"],
        verdict(claim),
    ]


def results(found: dict[str, dict]) -> str:
    page = """# Results

Every claim of the course, measured. This page is made from the records that the chapters write when executed.

- **here**: the measured value; **bar**: what was registered before it was run; **baseline**: what a simpler
  method reaches on the same data.
- **spread**: the lowest and highest value under several seeds for what is trained in the notebook, otherwise
  the 95 % interval.
- **kind**: *exact* holds by arithmetic; *live* is trained on the page; *shipped* is measured on weights that
  come with the package; *recorded* was measured by a program in `tools/`.
- **verdict**: *null result* means that what the paper claims does not hold here. It is a result too.
"""
    head = ["claim", "what", "here", "bar", "baseline", "spread", "n", "paper", "kind", "verdict"]
    for chapter, record in found.items():
        if record["claims"]:
            page += f"\n## {chapter}\n\n" + table(head, [claim_row(c) for c in record["claims"]])
    return page if "\n## " in page else page + "\nNo chapter has been executed yet.\n"


def parity(found: dict[str, dict]) -> str:
    page = """# Parity

Each component that the chapters build, compared with the numbers of its official release: random weights,
single precision, on a CPU. Differences are in units of max(1, largest expected value).
"""
    rows = []
    for chapter, record in found.items():
        for entry in record["parity"]:
            oracle = entry["oracle"] or f"no oracle exists: {entry['note']}"
            allowed = "" if entry["tolerance"] is None else f"{entry['tolerance']:.0e}"
            worst = (
                "" if entry["worst"] is None else f"{entry['worst']:.0e}" if entry["worst"] else "0 (exact)"
            )
            rows.append([f"`{entry['id']}`", chapter, oracle, allowed, worst])
    if not rows:
        return page + "\nNo chapter has been executed yet.\n"
    return page + "\n" + table(["component", "chapter", "oracle", "tolerance", "worst difference"], rows)


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
        f"{chapter[:2]}.parity": dict(value=None, null=False, seeds=None, holds=True)
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


def pages(folder: Path = BOOK) -> dict[str, str]:
    """File name -> text of each generated page."""
    found = records(folder / "records")
    return {
        "results.md": results(found),
        "parity.md": parity(found),
        "notes_map.md": notes_map(read_json(folder / "notes_remarks.json"), found),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail where a page is out of date"
    )
    check = parser.parse_args().check
    old = [
        name
        for name, text in pages().items()
        if not (BOOK / name).exists() or (BOOK / name).read_text("utf-8") != text
    ]
    if not check:
        for name in old:
            (BOOK / name).write_text(pages()[name], "utf-8")
    print(f"{'out of date' if check else 'written'}: {', '.join(old) or 'nothing'}")
    return int(check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
