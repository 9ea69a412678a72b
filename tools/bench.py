"""Time ours against a reference, interleaved in one run, on one thread.

    python tools/bench.py                           all but what is slow, a few minutes
    python tools/bench.py 09_actionclip             the benchmarks of one file
    python tools/bench.py 08_clip4clip:scale        one benchmark; the only way to one that is slow
    python tools/bench.py --out results.json        also write the figures, with the machine, as JSON
    python tools/bench.py --record                  store them in recordings/bench/results.json, and write book/bench.md

A benchmark is a function marked `@benchmark` in a file of recordings/bench/; it gives {name: result}, and each result
is a ratio (`versus`) or a rate (`rate`). Both sides of a ratio take turns, so a busy machine slows both; the ratio is
the median over the turns. Ends with 1 where a ratio is above its bar or a rate below it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402  the number of threads has to be set first

from clipnotes import records  # noqa: E402
from clipnotes.check.claims import rounded  # noqa: E402
from clipnotes.files import atomic_write, lock  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "recordings" / "bench"
RECORD, PAGE = FOLDER / "results.json", ROOT / "book" / "bench.md"

Result = dict[str, float | str]
Results = dict[str, Result]

# ---------------------------------------------------------------- measuring


def benchmark(function: Callable | None = None, *, slow: bool = False) -> Callable:
    """Mark a function of recordings/bench/ as a benchmark. A slow one runs only when it is named."""
    def mark(function: Callable) -> Callable:
        function.slow = slow
        return function

    return mark if function is None else mark(function)


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def median(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).median().item()


def versus(
    ours: Callable[[], object], reference: Callable[[], object], turns: int, bar: float | None = None
) -> Result:
    """Seconds of each and the median ratio ours/reference, one warm-up turn not counted."""
    pairs = [(seconds(ours), seconds(reference)) for _ in range(turns + 1)][1:]
    result = {
        "ours_s": median([a for a, _ in pairs]),
        "reference_s": median([b for _, b in pairs]),
        "ratio": median([a / b for a, b in pairs]),
    }
    return result | ({"at_most": bar} if bar else {})


def rate(function: Callable[[], object], count: int, unit: str, turns: int) -> Result:
    """How many a second: `count` in the median time of the turns, one warm-up turn not counted."""
    return {"per_second": count / median([seconds(function) for _ in range(turns + 1)][1:]), "unit": unit}


# ---------------------------------------------------------------- finding


def files() -> dict[str, Path]:
    """Name -> file of benchmarks, in order."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


def load(path: Path) -> ModuleType:
    """A program of recordings/ as a module; their names begin with a digit, so `import` cannot name them."""
    for folder in (ROOT, ROOT / "tools"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    spec = spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def benchmarks(name: str) -> dict[str, Callable[[], Results]]:
    """Name -> benchmark, of one file."""
    return {key: value for key, value in vars(load(files()[name])).items() if hasattr(value, "slow")}


def wanted(words: list[str]) -> list[tuple[str, str, Callable[[], Results]]]:
    """File, name and function of what some words name; of all that is not slow, if there are none."""
    found = []
    for word in words or files():
        file, _, name = word.partition(":")
        if file not in files():
            raise ValueError(f"There is no file {file!r} in recordings/bench; write some of: {', '.join(files())}.")
        here = benchmarks(file)
        if name and name not in here:
            raise ValueError(f"There is no benchmark {word!r}; {file} has {', '.join(here)}.")
        found += [(file, key, run) for key, run in here.items() if key == name or not (name or run.slow)]
    return found


# ---------------------------------------------------------------- showing


def line(name: str, result: Result) -> tuple[str, bool]:
    """What to print, and whether the bar is met."""
    if "per_second" in result:
        good = result["per_second"] >= result.get("at_least", 0)
        bar = f" (at least {result['at_least']:.0f})" if "at_least" in result else ""
        text = f"{name}: {result['per_second']:.0f} {result['unit']} a second{bar}"
    else:
        good = "at_most" not in result or result["ratio"] <= result["at_most"]
        allowed = f" (at most {result['at_most']})" if "at_most" in result else ""
        text = (
            f"{name}: {result['ours_s']:.3f} s, reference {result['reference_s']:.3f} s, "
            f"ratio {result['ratio']:.2f}{allowed}"
        )
    return text + ("" if good else "  MISSED"), good


def machine() -> str:
    """What the figures are measured on."""
    processor, about = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if about.exists():
        names = [row.split(":")[1].strip() for row in about.read_text("utf-8").splitlines() if "model name" in row]
        processor = names[0] if names else processor
    return (f"{processor}, {os.cpu_count()} cores, threads: {torch.get_num_threads()}, torch {torch.__version__}, "
            f"Python {platform.python_version()}")


def commit() -> str:
    """The commit that is checked out, with a plus where files differ from it."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


def row(name: str, result: Result) -> str:
    """A result as a line of the page's tables."""
    good = "" if line(name, result)[1] else " **missed**"
    if "per_second" in result:
        bar = f"at least {result['at_least']:,.0f}" if "at_least" in result else ""
        figures = ["", "", f"{rounded(result['per_second'], 3):,.0f} {result['unit']} a second"]
    else:
        bar = f"at most {result['at_most']}" if "at_most" in result else ""
        figures = [f"{result[key]:.3g}" for key in ("ours_s", "reference_s", "ratio")]
    return "| " + " | ".join([name, *figures, bar + good]) + " |"


def page(content: dict[str, Any]) -> str:
    """book/bench.md, from what was recorded."""
    parts = ["# Benchmarks", "Generated by `python tools/bench.py --record`; `make bench` shows the same for your "
             "machine. Ours and the reference take turns in one run, on one thread; the ratio is the median over the "
             "turns. Seconds and rates are those of the machine that is named: only ratios travel."]
    for file, entries in content["files"].items():
        parts += [f"## Chapter {int(file[:2])}" if int(file[:2]) else "## The library",
                  "; ".join(dict.fromkeys(entry["machine"] + ", " + entry["date"] for entry in entries.values())) + "."]
        for entry in entries.values():
            rows = [row(name, result) for name, result in entry["results"].items()]
            head = "| what | ours, s | reference, s | ratio, or rate | bar |\n| --- | --- | --- | --- | --- |"
            parts += [entry["about"], "\n".join([head, *rows])]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- storing


def entry(about: str, results: Results) -> dict[str, Any]:
    """What is stored of one benchmark."""
    return {"about": about, "machine": machine(), "date": time.strftime("%Y-%m-%d"), "results": rounded(results)}


def store(found: dict[str, dict[str, Results]]) -> None:
    """Put the results of some benchmarks in the place of their older ones, and write the page."""
    with lock(RECORD):
        content = records.read(RECORD) if RECORD.exists() else {"files": {}}
        for file, some in found.items():
            here, old = benchmarks(file), content["files"].get(file, {})
            new = {name: entry(" ".join((here[name].__doc__ or "").split()), results) for name, results in some.items()}
            content["files"][file] = {name: (old | new)[name] for name in here if name in old | new}
        content["files"] = {file: content["files"][file] for file in files() if file in content["files"]}
        records.write(RECORD, content)
    atomic_write(PAGE, page(content))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="FILE[:BENCHMARK]", help=f"of {', '.join(files())}")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--record", action="store_true", help="store the figures, and write the book's page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        todo = wanted(options.names)
    except ValueError as error:
        parser.error(str(error))
    found: dict[str, dict[str, Results]] = {}
    good = True
    for file, name, run in todo:
        results = found.setdefault(file, {})[name] = run()
        for what, result in results.items():
            text, met = line(what, result)
            print(text, flush=True)
            good &= met
    if options.out:
        content = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "results": found}
        atomic_write(options.out, json.dumps(content, indent=1) + "\n")
    if options.record:
        store(found)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
