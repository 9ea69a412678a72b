"""Run the live claims of the chapters under five seeds: what holds once may be luck.

    python tools/claims.py                          every chapter whose record is missing or stale
    python tools/claims.py chapters/01_clip.ipynb   only this one, whatever its record says
    python tools/claims.py --check                  run nothing; fail where a record is missing or stale

A chapter is executed once a seed. The values go to book/records/<chapter>.claims.json together with a hash of
the chapter's code, which makes the record stale when the code changes. A claim that fails under a seed is
kept in the record and fails the check; any other error stops the run.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

from nbformat import NotebookNode

from notebooks import ROOT, chapters, client, code_cells, environment, read, tags, write_json

RECORDS = ROOT / "book" / "records"
SEEDS = (0, 1, 2, 3, 4)
# Cells that no claim can depend on: they may change without a new run.
FREE = {"exercise", "solution", "full", "interactive", "nbval-skip"}


def normal_form(source: str) -> str:
    """The syntax tree of a cell without comments, spacing and magics, as text."""
    source = re.sub(r"(?m)^\s*[%!].*$", "", source)
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:
        return source


def code_hash(notebook: NotebookNode) -> str:
    """A hash of the code that claims may depend on."""
    forms = [normal_form(c.source) for c in code_cells(notebook) if not FREE & set(tags(c))]
    return hashlib.sha256("\n".join(forms).encode()).hexdigest()[:16]


def has_live_claims(notebook: NotebookNode) -> bool:
    return any(re.search(r"""kind\s*=\s*["']live["']""", c.source) for c in code_cells(notebook))


def run(path: Path, seed: int, timeout: int = 1200) -> dict[str, dict]:
    """Execute a chapter under a seed. Returns its live claims by id; RuntimeError for any other failure."""
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder:
        seeded = environment(Path(folder)) | {"CLIPNOTES_SEED": str(seed)}
        client(notebook, path.parent, timeout, allow_errors=True).execute(env=seeded)
        for cell in code_cells(notebook):
            for output in cell.get("outputs", []):
                if output.output_type == "error" and not output.evalue.startswith("claim "):
                    raise RuntimeError(f"{path.name}, cell {cell.id}: {output.ename}: {output.evalue}")
        record = Path(folder) / f"{path.stem}.json"
        claims = json.loads(record.read_text("utf-8"))["claims"] if record.exists() else []
    return {c["id"]: c for c in claims if c["kind"] == "live"}


def measure(path: Path, seeds: tuple[int, ...] = SEEDS) -> dict:
    """The record of a chapter: for each live claim its values and whether it held, one a seed."""
    runs = []
    for seed in seeds:
        print(f"{path.stem}, seed {seed}", flush=True)
        runs.append(run(path, seed))
    ids = sorted(set().union(*runs))
    if missing := [(i, s) for i in ids for s, found in zip(seeds, runs, strict=True) if i not in found]:
        raise RuntimeError(f"{path.name}: claim {missing[0][0]} was not reached under seed {missing[0][1]}.")
    claims = {
        i: {"values": [r[i]["value"] for r in runs], "holds": [r[i]["holds"] for r in runs]} for i in ids
    }
    return {"chapter": path.stem, "code": code_hash(read(path)), "seeds": list(seeds), "claims": claims}


def complaints(path: Path, folder: Path = RECORDS) -> list[str]:
    """What is wrong with the record of a chapter; nothing for a chapter without live claims."""
    notebook = read(path)
    if not has_live_claims(notebook):
        return []
    stored = folder / f"{path.stem}.claims.json"
    again = f"run: python tools/claims.py {path.parent.name}/{path.name}"
    if not stored.exists():
        return [f"{path.stem} has live claims that were never run under seeds; {again}"]
    record = json.loads(stored.read_text("utf-8"))
    if record["code"] != code_hash(notebook):
        return [f"the code of {path.stem} has changed since its claims were run under seeds; {again}"]
    return [
        f"{id} does not hold under seed {seed}"
        for id, claim in record["claims"].items()
        for seed, holds in zip(record["seeds"], claim["holds"], strict=True)
        if not holds
    ]


def write(record: dict, folder: Path = RECORDS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['chapter']}.claims.json"
    write_json(path, record)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="run nothing, fail where something is wrong")
    options = parser.parse_args()
    paths = [p.resolve() for p in options.paths] or chapters()
    if not options.check:
        for path in paths:
            if has_live_claims(read(path)) and (options.paths or complaints(path)):
                write(measure(path))
    wrong = [line for path in paths for line in complaints(path)]
    print("\n".join(wrong) or "every live claim holds under its seeds")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
