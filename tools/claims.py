"""Run the live claims of the chapters under five seeds: what holds once may be luck.

    python tools/claims.py                          every chapter whose record is missing or no longer fits
    python tools/claims.py chapters/01_clip.ipynb   only this one, whatever its record says
    python tools/claims.py --check                  run nothing; fail where a record is missing or does not fit

A chapter is executed once a seed; the values go to recordings/<chapter>/seeds.json. A record fits as long as its value
under seed 0 is the one that the notebook has stored, within a margin (see `margin`): how the code reads does not
matter. A claim that fails under a seed stays in the record and fails the check; any other error stops the run.
"""

import argparse
import math
import sys
from pathlib import Path

from clipnotes import records
from clipnotes.check.claims import failure
from notebooks import ROOT, chapters, client, code_cells, environment, read, register_of, shown

SEEDS = (0, 1, 2, 3, 4)
TOLERANCE = 1e-3  # of a claim's scale
NOISE = 1e-5  # what single precision may leave of a zero: no claim speaks of less


def scale(entry: dict, claim: dict) -> float:
    """The size of what a claim speaks about: the largest of value, baseline and bar."""
    sizes = [entry["value"], entry["baseline"], claim.get("low"), claim.get("high")]
    return max([abs(size) for size in sizes if size is not None and math.isfinite(size)] or [1.0])


def same(one: float | None, other: float | None, margin: float) -> bool:
    """Are two figures equal within a margin?"""
    if one is None or other is None:
        return one is other
    return math.isfinite(one) and abs(one - other) <= margin


def margin(entry: dict, claim: dict, seeded: dict | None, key: str = "value") -> float:
    """How far a claim's value or baseline, run again, may be from the stored one: a thousandth of the claim's scale.

    Where the claim drifts from processor to processor, as far as the figures under seeds lie apart. seeded: these.
    """
    least = max(NOISE, TOLERANCE * scale(entry, claim))
    if not claim.get("drifts") or seeded is None:
        return least
    figures = [figure for figure in seeded[f"{key}s"] if figure is not None]
    return max(least, max(figures, default=0.0) - min(figures, default=0.0))


def share(id: str, register: dict[str, dict], seeded: dict[str, dict]) -> float:
    """By what share of its size a printed figure may differ, where it is as uncertain as this claim."""
    claim, figures = register.get(id.partition(".")[2], {}), seeded.get(id)
    if figures is None:
        return TOLERANCE
    entry = {key: figures[f"{key}s"][0] for key in ("value", "baseline")}
    return max(margin(entry, claim, figures, key) for key in entry) / scale(entry, claim)


def live(path: Path) -> dict[str, dict]:
    """The live claims that are registered for a chapter: id -> claim."""
    claims = register_of(path).items()
    return {f"{path.stem[:2]}.{name}": claim for name, claim in claims if claim["kind"] == "live"}


def run(path: Path, seed: int, timeout: int = 1200) -> dict[str, dict]:
    """Execute a chapter under a seed. Returns its live claims by id; RuntimeError for any other failure."""
    notebook = read(path)
    client(notebook, path.parent, timeout, allow_errors=True).execute(env=environment(seed))
    for cell in code_cells(notebook):
        for output in cell.get("outputs", []):
            if output.output_type == "error" and not output.evalue.startswith("claim "):
                raise RuntimeError(f"{path.name}, cell {cell.id}: {output.ename}: {output.evalue}")
    return {entry["id"]: entry for entry in shown(notebook, "claim") if entry["id"] in live(path)}


def measure(path: Path, seeds: tuple[int, ...] = SEEDS) -> dict:
    """The record of a chapter: for each live claim its values and baselines, and whether it held, one a seed."""
    runs = []
    for seed in seeds:
        print(f"{path.stem}, seed {seed}", flush=True)
        runs.append(run(path, seed))
    missing = [(id, seed) for id in live(path) for seed, found in zip(seeds, runs, strict=True) if id not in found]
    if missing:
        raise RuntimeError(f"{path.name}: claim {missing[0][0]} was not reached under seed {missing[0][1]}.")
    claims = {id: {f"{key}s" if key != "holds" else key: [found[id][key] for found in runs]
                   for key in ("value", "baseline", "holds")} for id in sorted(live(path))}
    return {"seeds": list(seeds), "claims": claims}


def record_of(path: Path) -> Path:
    return ROOT / "recordings" / path.stem / "seeds.json"


def under_seeds(path: Path) -> dict[str, dict]:
    """What is recorded for the live claims of a chapter: id -> values, baselines, holds, one a seed."""
    return records.read(record_of(path))["claims"] if record_of(path).exists() else {}


def complaints(path: Path, stored: Path | None = None) -> list[str]:
    """What is wrong with the record of a chapter; nothing for a chapter without live claims."""
    claims, stored = live(path), stored or record_of(path)
    again = f"run: python tools/claims.py {path.parent.name}/{path.name}"
    if not claims:
        return []
    if not stored.exists():
        return [f"{path.stem} has live claims that were never run under seeds; {again}"]
    record, found = records.read(stored), []
    entries = {entry["id"]: entry for entry in shown(read(path), "claim")}
    for id, claim in claims.items():
        seeded, entry = record["claims"].get(id), entries.get(id)
        if seeded is None or entry is None:
            found.append(f"{id} is registered as live, but was never run" + " under seeds" * (entry is not None)
                         + f"; {again}")
            continue
        if not claim.get("timing") and not same(seeded["values"][0], entry["value"], margin(entry, claim, seeded)):
            found.append(f"{id} is {entry['value']} in the notebook and {seeded['values'][0]} in its record; {again}")
        for seed, value, holds in zip(record["seeds"], seeded["values"], seeded["holds"], strict=True):
            if not holds or (value is not None and failure(claim, value, None)):
                found.append(f"{id} does not hold under seed {seed}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="run nothing, fail where something is wrong")
    options = parser.parse_args()
    paths = [p.resolve() for p in options.paths] or chapters()
    if not options.check:
        for path in paths:
            if live(path) and (options.paths or complaints(path)):
                records.write(record_of(path), measure(path))
    wrong = [line for path in paths for line in complaints(path)]
    print("\n".join(wrong) or "every live claim holds under its seeds")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
