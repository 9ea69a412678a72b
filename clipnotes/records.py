"""What was recorded: long runs, measured by a chapter's program in recordings/ and read by its notebook.

    runs = records.load("09_actionclip")
    runs.values("heads", "transf", "accuracy")       # one number a seed
    runs.paired("heads", "transf", "mean", "hits")   # the difference case by case, and its 95 % interval

A file holds `runs` (each with study, variant, seed, version, its recipe, and values), `probe`, `extra`, and a digest of
all of it, so that a figure that was changed by hand is refused.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from clipnotes.files import atomic_write, shared
from clipnotes.metrics import bootstrap


def digest(content: dict[str, Any]) -> str:
    """sha256 over all of a record but its digest."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read(path: str | Path) -> dict[str, Any]:
    """A recorded file. Raises RuntimeError where its digest is not that of what it holds, or it cannot be read."""
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
        whole = content["digest"] == digest(content)
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"{path.name} in {path.parent.name} is damaged: install the package again, "
                           "or record again.") from error
    if not whole:
        raise RuntimeError(f"{path.name} in {path.parent.name} was changed by hand: its digest is another one. "
                           "Record again.")
    return content


def write(path: str | Path, content: dict[str, Any]) -> None:
    """Write a record with its digest: one line a run, so that a new run changes one line."""
    content = {"digest": digest(content)} | {k: v for k, v in content.items() if k != "digest"}
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            parts.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    atomic_write(path, "{\n" + ",\n".join(parts) + "\n}\n")


def load(chapter: str) -> "Runs":
    """The recorded runs of a chapter, by its file name: "09_actionclip". FileNotFoundError where there are none."""
    path = shared(f"recordings/{chapter}/runs.json")
    if path is None:
        raise FileNotFoundError(f"Nothing is recorded for {chapter!r}: run python recordings/{chapter}/record.py.")
    return Runs(read(path))


def _cases(value: Any) -> np.ndarray:
    """What a run stored case by case: a string of 0 and 1, or a list of numbers."""
    return np.array([float(v) for v in value])


def _deeper(value: Any, keys: tuple[str | int, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value


class Runs:
    """Recorded runs. A study compares variants; each variant was run under some seeds; a run has values."""

    def __init__(self, content: dict[str, Any]):
        self.rows, self.extra = content["runs"], content.get("extra", {})

    def __getitem__(self, name: str) -> Any:
        """What the program stored beside the runs: `runs["figure"]`."""
        return self.extra[name]

    def _of(self, study: str, variant: str) -> dict[int, dict[str, Any]]:
        found = {row["seed"]: row["values"] for row in self.rows if (row["study"], row["variant"]) == (study, variant)}
        if not found:
            studies = list(dict.fromkeys(row["study"] for row in self.rows))
            known = f"variants of {study!r}: {self.variants(study)}" if study in studies else f"studies: {studies}"
            raise KeyError(f"There is no run {study}:{variant}; {known}.")
        return dict(sorted(found.items()))

    def variants(self, study: str) -> list[str]:
        """The variants of a study, in the order of the program."""
        return list(dict.fromkeys(row["variant"] for row in self.rows if row["study"] == study))

    def seeds(self, study: str, variant: str) -> list[int]:
        return list(self._of(study, variant))

    def one(self, study: str, variant: str, seed: int = 0) -> dict[str, Any]:
        """All values of one run."""
        return self._of(study, variant)[seed]

    def values(self, study: str, variant: str, *keys: str | int) -> list[Any]:
        """One value a seed, in the order of the seeds; more keys lead deeper into it."""
        return [_deeper(value, keys) for value in self._of(study, variant).values()]

    def mean(self, study: str, variant: str, *keys: str | int) -> float:
        """The mean over seeds."""
        return float(np.mean(self.values(study, variant, *keys)))

    def paired(self, study: str, one: str, other: str, *keys: str | int) -> tuple[float, tuple[float, float]]:
        """`one` minus `other`, case by case under the seeds that both have: the mean and its 95 % interval over cases.

        keys lead to what each run stored case by case, on the same cases.
        """
        first, second = self._of(study, one), self._of(study, other)
        gaps = [_cases(_deeper(first[seed], keys)) - _cases(_deeper(second[seed], keys))
                for seed in first if seed in second]
        gap = np.mean(gaps, 0)
        return float(gap.mean()), bootstrap(gap)
