"""What a chapter's recording program stands on: arguments, what is missing, resumption, writing, the probe.

A program declares studies. A run is known by its study, variant, seed, version and recipe (whatever decides it: steps,
numbers of pictures, data seeds); change one of these, and that run is missing, and only it. How the code reads decides
nothing: what it does is told by the program's probe, a few steps and one evaluation from fixed seeds, whose numbers are
stored with the runs and repeated by the tests. Where the probe's numbers move, the runs have to be recorded again.

    python recordings/09_actionclip/record.py                  every run that is missing, in order, then the extras
    python recordings/09_actionclip/record.py heads:transf:0   some runs (STUDY, STUDY:VARIANT or STUDY:VARIANT:SEED)
    python recordings/09_actionclip/record.py --list           what is declared, and what is missing
    python recordings/09_actionclip/record.py --probe          run the probe and compare
    python recordings/09_actionclip/record.py --again          every run, whether it is missing or not
    python recordings/09_actionclip/record.py figure           one of the extras

A program that is stopped goes on with the run it was at.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT / "tools", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch  # noqa: E402  after GOMP_SPINCOUNT is set

from bench import commit  # noqa: E402
from clipnotes import records  # noqa: E402
from clipnotes.check.claims import rounded  # noqa: E402
from clipnotes.files import lock  # noqa: E402
from notebooks import defined  # noqa: E402

TOLERANCE = 1e-3  # of a probe's number, or of 1 where the number is smaller


@dataclass(frozen=True)
class Study:
    """A question and its variants; `measure(variant, seed)` gives the values of a run."""

    name: str
    measure: Callable[[str, int], dict[str, Any]]
    variants: tuple[str, ...]
    seeds: int | Mapping[str, int]
    recipe: dict[str, Any] | Callable[[str], dict[str, Any]]
    version: int

    def runs(self) -> list[dict[str, Any]]:
        """The identity of each run, seed by seed."""
        counts = {v: self.seeds[v] if isinstance(self.seeds, Mapping) else self.seeds for v in self.variants}
        return [dict(study=self.name, variant=variant, seed=seed, version=self.version,
                     recipe=_plain(self.recipe(variant) if callable(self.recipe) else self.recipe))
                for seed in range(max(counts.values())) for variant in self.variants if seed < counts[variant]]


def _plain(value: Any) -> Any:
    """As JSON would give it back: tuples are lists."""
    return json.loads(json.dumps(value))


def identity(run: dict[str, Any]) -> str:
    """A run's identity as text."""
    return json.dumps([run[key] for key in ("study", "variant", "seed", "version", "recipe")], sort_keys=True)


def address(run: dict[str, Any]) -> str:
    """Where a run stands among others: STUDY:VARIANT:SEED."""
    return f"{run['study']}:{run['variant']}:{run['seed']}"


@contextmanager
def portable() -> Iterator[None]:
    """One thread, and float32 where bfloat16 was asked for: that is rounded, and as quick, as the processor likes."""
    threads, begin = torch.get_num_threads(), torch.autocast.__init__

    def without_autocast(self: torch.autocast, *args: Any, **options: Any) -> None:
        begin(self, *args, **options | dict(enabled=False))

    torch.set_num_threads(1)
    try:
        with (patch.object(torch.autocast, "__init__", without_autocast),
              patch.object(torch.Tensor, "bfloat16", torch.Tensor.float)):
            yield
    finally:
        torch.set_num_threads(threads)


class Recorder:
    """The recordings of a chapter: its studies, extras and probe, and the file that holds what they gave."""

    def __init__(self, chapter: str, path: Path | None = None):
        self.name, self.path = chapter, path or ROOT / "recordings" / chapter / "runs.json"
        self.studies: dict[str, Study] = {}
        self.extras: dict[str, Callable[[], Any]] = {}
        self._probe: Callable[[], dict[str, float]] | None = None

    @cached_property
    def chapter(self) -> SimpleNamespace:
        """What the chapter's notebook defines: the only source of its method."""
        return defined(ROOT / "chapters" / f"{self.name}.ipynb")

    # ---------------------------------------------------------------- declarations

    def study(self, *, variants: Sequence[str], recipe: dict[str, Any] | Callable[[str], dict[str, Any]],
              seeds: int | Mapping[str, int] = 3, version: int = 1) -> Callable[[Callable], Callable]:
        """Declare the function below as a study: measure(variant, seed) -> values."""
        def declare(measure: Callable[[str, int], dict[str, Any]]) -> Callable:
            self.studies[measure.__name__] = Study(measure.__name__, measure, tuple(variants), seeds, recipe, version)
            return measure

        return declare

    def extra(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """Declare a function whose result is stored beside the runs, under its name."""
        self.extras[make.__name__] = make
        return make

    def probe(self, measure: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
        """Declare the probe: a few steps and one evaluation of what the studies do, in under five seconds.

        Its keys begin with the study that they speak for: "heads.loss", "heads.accuracy".
        """
        self._probe = measure
        return measure

    # ---------------------------------------------------------------- what stands, what is missing

    def content(self) -> dict[str, Any]:
        return records.read(self.path) if self.path.exists() else dict(probe={}, runs=[], extra={})

    def declared(self) -> list[dict[str, Any]]:
        return [run for study in self.studies.values() for run in study.runs()]

    def missing(self) -> list[dict[str, Any]]:
        """The declared runs that are not recorded with just this recipe and version."""
        done = {identity(run) for run in self.content()["runs"]}
        return [run for run in self.declared() if identity(run) not in done]

    def probed(self) -> dict[str, float]:
        """The probe's numbers, measured now."""
        if self._probe is None:
            raise ValueError(f"recordings/{self.name}/record.py has no probe: write one (see recordings/runner.py).")
        with portable():
            return {key: rounded(float(value), 6) for key, value in self._probe().items()}

    def moved(self) -> list[str]:
        """What the probe says of the stored runs: one sentence a number that is not what it was.

        RuntimeError where the probe does not get to its end.
        """
        again = f"python recordings/{self.name}/record.py --again"
        stored = self.content().get("probe", {})
        try:
            now = self.probed()
        except Exception as error:
            raise RuntimeError(f"The probe of {self.name} ends with {type(error).__name__}: {error} "
                               f"Find the change, or record all again: {again}") from error
        found = []
        for key in sorted(stored.keys() | now.keys()):
            old, new = stored.get(key), now.get(key)
            if old is None or new is None or not abs(new - old) <= TOLERANCE * max(1.0, abs(old)):
                study = key.split(".")[0]
                found.append(f"{key} was {old}, and is {new}: the code of the study {study!r} gives other numbers than "
                             f"when it was recorded. Find the change, or record again: {again} {study}")
        return found

    # ---------------------------------------------------------------- recording

    def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Read, change and write the file while no other process does."""
        with lock(self.path):
            content = self.content()
            change(content)
            records.write(self.path, content)

    def _put(self, run: dict[str, Any]) -> None:
        """Put a run in its place, instead of an older one of the same study, variant and seed."""
        def change(content: dict[str, Any]) -> None:
            places = {address(r): place for place, r in enumerate(self.declared())}
            kept = [r for r in content["runs"] if address(r) != address(run)]
            content["runs"] = sorted([*kept, run], key=lambda r: places.get(address(r), len(places)))

        self._change(change)

    def record(self, run: dict[str, Any]) -> dict[str, Any]:
        """Measure one run and store it."""
        started = time.process_time()
        values = self.studies[run["study"]].measure(run["variant"], run["seed"])
        minutes = rounded((time.process_time() - started) / 60, 2)
        run = run | dict(minutes=minutes, commit=commit(), machine=_machine(), values=_plain(values))
        self._put(run)
        return run

    def record_extra(self, name: str) -> None:
        value = _plain(self.extras[name]())
        self._change(lambda content: content.setdefault("extra", {}).update({name: value}))

    def store_probe(self) -> None:
        numbers = self.probed()
        self._change(lambda content: content.update(probe=numbers))

    # ---------------------------------------------------------------- the program

    def wanted(self, asked: Sequence[str]) -> list[dict[str, Any]]:
        """The runs that some words name. ValueError where a word names none."""
        found = []
        for word in asked:
            fits = [run for run in self.declared()
                    if word in (run["study"], f"{run['study']}:{run['variant']}", address(run))]
            if not fits:
                raise ValueError(f"There is no run {word!r}. Studies: {', '.join(self.studies)}; --list shows all.")
            found += fits
        return found

    def main(self, argv: Sequence[str] | None = None) -> int:
        """What the command line asks for; see this module's docstring."""
        parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__,
                                         formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("runs", nargs="*", metavar="STUDY:VARIANT:SEED", help="some runs, or the name of an extra")
        for flag, text in (("--list", "say what is declared and missing"), ("--probe", "run the probe and compare"),
                           ("--again", "record what stands, too"), ("--store-probe", "store the probe's numbers")):
            parser.add_argument(flag, action="store_true", help=text)
        args = parser.parse_args(argv)
        torch.set_num_threads(1)
        if args.list:
            missing = {identity(run) for run in self.missing()}
            for run in self.declared():
                print(address(run) + " (missing)" * (identity(run) in missing))
            return 0
        if args.probe:
            moved = self.moved()
            print("\n".join(moved) or "the probe's numbers are what they were")
            return min(len(moved), 1)
        if args.store_probe:
            self.store_probe()
            return 0
        try:
            self._work(args.runs, args.again)
        except ValueError as error:
            parser.error(str(error))
        return 0

    def _work(self, asked: Sequence[str], again: bool) -> None:
        extras = [word for word in asked if word in self.extras]
        words = [word for word in asked if word not in self.extras]
        whole = not asked
        runs = self.wanted(words) if words else [] if extras else self.declared() if again else self.missing()
        for run in runs:
            print(f"{address(run)} ...", end=" ", flush=True)
            done = self.record(run)
            short = {k: v for k, v in done["values"].items() if isinstance(v, (int, float))}
            print(short, f"{done['minutes']} minutes", flush=True)
        for name in extras or (list(self.extras) if whole else []):
            self.record_extra(name)
        if whole and (again or not self.content().get("probe")):
            self.store_probe()


def _machine() -> str:
    return f"{platform.machine()}, torch {torch.__version__.split('+')[0]}"
