"""Does all of the course work on this GPU? One command of at most ten minutes; the book shows the answer.

    python tools/gpu_check.py                  everything, in nine minutes; writes recordings/gpu.json, book/gpu.md
    python tools/gpu_check.py --minutes 30     with more time, where two cores are all there is
    python tools/gpu_check.py --resume         go on with what was not reached, on the same GPU and commit
    python tools/gpu_check.py --page           write the page from what is recorded
    python tools/gpu_check.py --device cpu --small --out check.json --chapters 09_actionclip    a rehearsal without one

Three parts. The library: each function marked `@same` in recordings/gpu/ gives on the GPU what it gives on the CPU.
The models: each `@model` there, at its official size with random weights, forward and backward in fp32, bf16 and fp16,
with time and peak memory, beside the public class where there is one. The chapters: each notebook from top to bottom
in `tiny` mode, twice: as a reader runs it, and with all its computing on the GPU (tools/on_device.py), claims included.
What fails is reported, and the rest goes on; what the time did not allow is listed as not reached.
Ends with 1 where something failed.
"""

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from bench import commit, load, machine, median
from claims import scale, under_seeds
from clipnotes import records
from clipnotes.check.claims import rounded
from clipnotes.files import atomic_write
from compare import differences
from notebooks import ROOT, chapters, client, code_cells, environment, read, register_of, shown
from pages import table

FOLDER, RECORD, PAGE = ROOT / "recordings" / "gpu", ROOT / "recordings" / "gpu.json", ROOT / "book" / "gpu.md"
EXACT = 1e-3  # what two devices, or two programs on one, may differ in fp32, relative to the size of the values
BOUNDS = {"bf16": (0.05, 0.98), "fp16": (0.01, 0.999)}  # outputs against fp32: relative difference; gradients: cosine
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
T4_MIB = 14_500  # what a T4 of 15 GB leaves to a program
SHARE = 0.45  # of the time, for library and models; the rest is the chapters'
PRELUDE = "import sys; sys.path.insert(0, {tools!r}); import on_device; on_device.everything_on({device!r})"

Item = dict[str, Any]

# ---------------------------------------------------------------- what the files of recordings/gpu/ are written with


@dataclass
class Model:
    """A model at its official size, with random weights, on the CPU.

    run(ours, *inputs) gives the output, one tensor; gradients are those of all weights and inputs that ask for them.
    theirs: the public class with the same weights and run_theirs, if there is one; `public` is its name.
    batch: what a T4 takes, in words. bounds: other bounds than BOUNDS, with a reason in `note`.
    """

    ours: nn.Module
    inputs: tuple
    run: Callable[..., Tensor]
    batch: str
    theirs: nn.Module | None = None
    run_theirs: Callable[..., Tensor] | None = None
    public: str = ""
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""


def model(make: Callable[[bool], Model]) -> Callable[[bool], Model]:
    """Mark a function that makes a `Model`; its argument says whether a small one is enough (a rehearsal on a CPU)."""
    make.kind = "models"
    return make


def same(function: Callable | None = None, *, bound: float = EXACT) -> Callable:
    """Mark a function(device, small) whose tensors are the same on every device, within `bound` of their size."""
    def mark(function: Callable) -> Callable:
        function.kind, function.bound = "library", bound
        return function

    return mark if function is None else mark(function)


def marked(kind: str) -> dict[str, Callable]:
    """FILE:FUNCTION -> function, of all files in recordings/gpu/."""
    return {f"{path.stem}:{name}": function for path in sorted(FOLDER.glob("*.py"))
            for name, function in vars(load(path)).items() if getattr(function, "kind", None) == kind}


# ---------------------------------------------------------------- the library


def seeded(function: Callable, device: str, small: bool) -> tuple[list[Tensor], float]:
    """What a function gives under seed 0, on the CPU, and its seconds; a GPU warms up first."""
    for _ in range(2 if device == "cuda" else 1):
        torch.manual_seed(0)
        wait(device)
        began = time.perf_counter()
        found = list(function(device, small))
        wait(device)
        spent = time.perf_counter() - began
    return [value.detach().cpu() for value in found], spent


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def apart(one: Tensor, other: Tensor) -> float:
    """How far two tensors are apart, relative to their size; for whole numbers the share that differs."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if not one.is_floating_point():
        return (one != other).float().mean().item()
    known = ~one.isnan()
    if not torch.equal(known, ~other.isnan()):
        return float("inf")
    one, other = one[known].double(), other[known].double()
    return ((one - other).norm() / one.norm().clamp(min=1e-12)).item() if len(one) else 0.0


def library_item(function: Callable, device: str, small: bool) -> Item:
    (plain, cpu_s), (there, device_s) = seeded(function, "cpu", small), seeded(function, device, small)
    worst = max(apart(a, b) for a, b in zip(plain, there, strict=True))
    return {"ok": worst <= function.bound, "difference": worst, "bound": function.bound, "cpu_s": cpu_s,
            "device_s": device_s, "what": " ".join((function.__doc__ or "").split())}


# ---------------------------------------------------------------- the models


def leaves(module: nn.Module, inputs: Sequence) -> list[Tensor]:
    """What gets a gradient: weights and inputs."""
    return [t for t in (*module.parameters(), *tree_leaves(inputs)) if isinstance(t, Tensor) and t.requires_grad]


def both_ways(run: Callable, module: nn.Module, inputs: Sequence, kind: str, factor: float = 1.0) -> Tensor:
    """Forward and backward in a precision; gradients are left on the leaves, `factor` times as large."""
    for leaf in leaves(module, inputs):
        leaf.grad = None
    device = next(module.parameters()).device.type
    with torch.autocast(device, TYPES[kind], enabled=kind != "fp32"):
        out = run(module, *inputs).float()
    if out.requires_grad:
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        (factor * (out * direction).sum()).backward()
    return out.detach()


def gradients(module: nn.Module, inputs: Sequence) -> list[Tensor]:
    """All gradients, on the CPU: there they take no memory that is measured."""
    return [leaf.grad.float().cpu() for leaf in leaves(module, inputs) if leaf.grad is not None]


def in_precision(case: Model, kind: str) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients. As a GradScaler does, the loss is made smaller while a gradient overflows."""
    for factor in (1.0, 2**-4, 2**-8, 2**-12):
        out = both_ways(case.run, case.ours, case.inputs, kind, factor)
        found = gradients(case.ours, case.inputs)
        if all(part.isfinite().all() for part in found):
            break
    return out, found


def cosine(one: list[Tensor], other: list[Tensor]) -> float | None:
    """Between all gradients and all others; None where nothing has one."""
    def product(a: list[Tensor], b: list[Tensor]) -> float:
        return sum((x.double() * y.double()).sum().item() for x, y in zip(a, b, strict=True))

    return product(one, other) / max((product(one, one) * product(other, other)) ** 0.5, 1e-30) if one else None


def peak(device: str, work: Callable[[], object]) -> float | None:
    """MiB at most in use while something runs; None where nobody counts."""
    if device != "cuda":
        work()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**20


def timed(device: str, works: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """Milliseconds of each, in turn: the median, one warm-up turn not counted."""
    rows = []
    for _ in range(turns + 1):
        rows.append([])
        for work in works:
            wait(device)
            began = time.perf_counter()
            work()
            wait(device)
            rows[-1].append(1000 * (time.perf_counter() - began))
    return [median(list(column)) for column in zip(*rows[1:], strict=True)]


def placed(values: Any, device: str) -> Any:
    """Inputs on the device; what asks for a gradient asks for it there."""
    return tree_map_only(Tensor, lambda t: t.detach().to(device).requires_grad_(t.requires_grad), values)


def model_item(make: Callable[[bool], Model], device: str, small: bool, turns: int = 3) -> Item:
    kinds = list(TYPES) if device == "cuda" else ["fp32", "bf16"]  # a processor is slow in fp16, or does not know it
    torch.manual_seed(0)
    case = make(small)
    case.inputs = placed(case.inputs, device)
    case.ours.to(device)
    item: Item = {"ok": True, "what": " ".join((make.__doc__ or "").split()), "batch": case.batch, "note": case.note,
                  "weights": sum(p.numel() for p in case.ours.parameters()), "precisions": {}}
    exact, exact_gradients = in_precision(case, "fp32")
    for kind in kinds:
        out, found = in_precision(case, kind)
        mib = peak(device, lambda: both_ways(case.run, case.ours, case.inputs, kind))  # noqa: B023
        row = {"difference": apart(exact, out), "cosine": cosine(exact_gradients, found), "mib": mib}
        most, least = (case.bounds or BOUNDS).get(kind, (0.0 if device == "cpu" else 1e-5, 0.9999))
        row["ok"] = row["difference"] <= most and (row["cosine"] is None or row["cosine"] >= least)
        row["ok"] &= mib is None or mib <= T4_MIB
        item["precisions"][kind] = row | {"bounds": [most, least]}
    del exact_gradients, found
    for leaf in leaves(case.ours, case.inputs):
        leaf.grad = None
    if case.theirs is not None:
        item |= beside(case, exact, device, kinds)
    works = [(case.run, case.ours)] + ([(case.run_theirs, case.theirs)] if case.theirs is not None else [])
    for kind, row in item["precisions"].items():
        spent = timed(device, [lambda w=w: both_ways(*w, case.inputs, kind) for w in works], turns)  # noqa: B023
        row["ms"], row["public_ms"] = spent[0], spent[1] if spent[1:] else None
    item["ok"] &= all(row["ok"] for row in item["precisions"].values())
    return item


def beside(case: Model, exact: Tensor, device: str, kinds: Sequence[str]) -> Item:
    """The public class: equal outputs, and its peak memory, alone on the device."""
    case.ours.cpu()
    case.theirs.to(device)
    theirs, memory = both_ways(case.run_theirs, case.theirs, case.inputs, "fp32"), {}
    for kind in kinds:
        memory[kind] = peak(device, lambda: both_ways(case.run_theirs, case.theirs, case.inputs, kind))  # noqa: B023
    case.ours.to(device)
    gap = apart(exact, theirs)
    return {"public": case.public, "public_difference": gap, "public_mib": memory, "ok": gap <= EXACT}


# ---------------------------------------------------------------- the chapters


def farthest(stored: list[Item], found: list[Item], register: dict[str, Item]) -> tuple[str, float]:
    """The claim whose value differs most from the page's, and by how much, relative to its scale. Not those of time."""
    before = {entry["id"]: entry for entry in stored}
    moved = [("none", 0.0)]
    for entry in found:
        claim, old = register[entry["id"].partition(".")[2]], before.get(entry["id"])
        if old and not claim.get("timing"):
            moved.append((entry["id"], abs(entry["value"] - old["value"]) / scale(old, claim)))
    return max(moved, key=lambda pair: pair[1])


def run_chapter(path: Path, device: str | None, deadline: float) -> Item:
    """A notebook from top to bottom, as far as the time goes; with a device, all its computing is done there."""
    stored, notebook, register, began = read(path), read(path), register_of(path), time.monotonic()
    cells = code_cells(notebook)
    for cell in cells:
        cell.outputs = []
    if device:
        prelude = PRELUDE.format(tools=str(ROOT / "tools"), device=device)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(prelude))
        cells.insert(0, notebook.cells[0])
    running, done = client(notebook, path.parent, allow_errors=True), []
    try:
        with running.setup_kernel(env=environment()):
            for cell in cells:
                left = deadline - time.monotonic()
                if left < 1:
                    break
                running.timeout = int(left) + 1
                running.execute_cell(cell, notebook.cells.index(cell))
                done.append(cell)
    except CellTimeoutError:
        pass  # the time is over
    except DeadKernelError as error:
        cells[len(done)].outputs = [nbformat.v4.new_output("error", ename="DeadKernelError", evalue=str(error))]
        done.append(cells[len(done)])
    failed = [{"cell": cell.id, "error": f"{o.ename}: {o.evalue}"[:300]} for cell in done for o in cell.outputs
              if o.output_type == "error"]
    old = {cell.id: cell for cell in code_cells(stored)}
    differ = [text for cell in done if cell.id in old
              for text in differences(old[cell.id], cell.outputs, register, under_seeds(path))]
    whole = len(done) == len(cells)
    return {"cells": len(cells) - bool(device), "done": len(done) - bool(device), "failed": failed,
            "reached": whole or bool(failed), "ok": whole and not failed,
            "claims": len(shown(notebook, "claim")), "seconds": time.monotonic() - began,
            "claims_failed": [entry["id"] for entry in shown(notebook, "claim") if not entry["holds"]],
            "farthest_claim": farthest(shown(stored, "claim"), shown(notebook, "claim"), register),
            "differ": len(differ), "first_that_differ": differ[:5]}


# ---------------------------------------------------------------- one after the other, written as it goes


def about(device: str) -> Item:
    """What runs: the machine, the GPU, its driver, the commit."""
    found = {"device": device, "machine": machine(), "date": time.strftime("%Y-%m-%d"), "commit": commit()}
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                                capture_output=True, text=True, check=False).stdout.strip().splitlines()
        found |= {"gpu": facts.name, "mib": facts.total_memory // 2**20, "capability": f"{facts.major}.{facts.minor}",
                  "cuda": torch.version.cuda, "driver": driver[0] if driver else "unknown"}
    return found


class Report:
    """What was found so far, in a file that is whole at any time."""

    def __init__(self, path: Path, head: Item, resume: bool):
        self.path, self.content = path, head | {"items": []}
        old = records.read(path) if resume and path.exists() else None
        if old and all(old.get(key) == head.get(key) for key in ("device", "gpu", "commit", "small")):
            self.content["items"] = [item for item in old["items"] if item.get("reached", True)]

    def has(self, part: str, name: str) -> bool:
        return any((item["part"], item["name"]) == (part, name) for item in self.content["items"])

    def add(self, part: str, name: str, work: Callable[[], Item] | None) -> None:
        """Do a piece of work and store what came of it; None is a piece that was not reached."""
        item: Item = {"part": part, "name": name}
        if work is None:
            item["reached"] = False
        else:
            try:
                item |= work()
            except Exception as error:  # whatever it is, the rest goes on
                place = traceback.extract_tb(error.__traceback__)[-1]
                item |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:300],
                         "place": f"{Path(place.filename).name}:{place.lineno}"}
        self.content["items"].append(rounded(item, 3))
        records.write(self.path, self.content)
        print(line(self.content["items"][-1]), flush=True)


def line(item: Item) -> str:
    """One line of what was found."""
    state = "not reached" if not item.get("reached", True) else "ok" if item["ok"] else "FAILED"
    told = [item["error"]] if "error" in item else [f"{f['cell']}: {f['error']}" for f in item.get("failed", [])]
    return f"{item['part']} · {item['name']}: {state}" + (f" ({told[0]})" if told else "")


def check(report: Report, device: str, small: bool, minutes: float, notebooks: Sequence[Path], jobs: int) -> None:
    began = time.monotonic()
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, in convolutions, too
    for part, work in (("library", library_item), ("models", model_item)):
        for name, function in marked(part).items():
            if not report.has(part, name):
                late = time.monotonic() - began > 60 * minutes * SHARE
                report.add(part, name, None if late else lambda: work(function, device, small))  # noqa: B023
            if device == "cuda":
                torch.cuda.empty_cache()
    deadline = began + 60 * minutes - 10
    todo = [(path, where) for where in ("as read", "all on the device") for path in notebooks
            if not report.has("chapters", f"{path.stem}, {where}")]
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(chapter_item, path, device if where != "as read" else None, deadline):
                   f"{path.stem}, {where}" for path, where in todo}
        for future in as_completed(running):
            late = future.exception() is None and future.result() is None
            report.add("chapters", running[future], None if late else future.result)


def chapter_item(path: Path, device: str | None, deadline: float) -> Item | None:
    """None where no time was left to begin."""
    return run_chapter(path, device, deadline) if deadline - time.monotonic() > 20 else None


# ---------------------------------------------------------------- the page


def sure(item: Item) -> str:
    return "ok" if item["ok"] else "**fails**"


def pair(one: float | None, other: float | None, form: str) -> str:
    """Ours, and the public class's behind it."""
    shown = ["–" if v is None else format(v, form) for v in (one, other)]
    return shown[0] if other is None else f"{shown[0]} ({shown[1]})"


def model_rows(item: Item) -> list[list[str]]:
    memory = item.get("public_mib", {})
    return [[item["name"] if kind == "fp32" else "", kind,
             f"{row['difference']:.2g}", "–" if row["cosine"] is None else f"{row['cosine']:.5f}",
             pair(row["ms"], row["public_ms"], ".0f"), pair(row["mib"], memory.get(kind), ".0f"), sure(row)]
            for kind, row in item["precisions"].items()]


def words(item: Item) -> str:
    """What a model of the table is."""
    beside = (f"Public class: {item['public']}, whose output differs by {item['public_difference']:.1g}."
              if "public" in item else "There is no public class of this shape here.")
    return f"**{item['name']}**: {item['what']} {item['batch']}. {beside} {item['note']}".rstrip()


NOT_RUN = """# On a GPU

**Not run here yet.** No GPU was at hand when this page was made. What a run would show: whether the library gives on
a GPU what it gives on a CPU; each model at its official size, forward and backward, in fp32, bf16 and fp16, with time
and peak memory, beside the public class; and every chapter from top to bottom in `tiny` mode, its claims included.

On a machine with a GPU, from the folder of the course:

```bash
make setup
.venv/bin/python tools/gpu_check.py
```

It takes at most ten minutes, writes `recordings/gpu.json` and this page, and says what failed. Batches are chosen for
the 15 GB of a free Colab T4. Without a GPU, the tests run every part at small size, and the library and the models on
a pretended GPU that refuses to mix devices, as a real one does.
"""


def page(content: Item | None) -> str:
    """book/gpu.md, from what was recorded."""
    if content is None:
        return NOT_RUN
    items = [item for item in content["items"] if item.get("reached", True)]
    broken = [item for item in items if "error" in item]
    library, models, read_on = ([item for item in items if item["part"] == part and "error" not in item]
                                for part in ("library", "models", "chapters"))
    late = [f"{item['part']} · {item['name']}" for item in content["items"] if not item.get("reached", True)]
    failed = [item for item in items if not item["ok"]]
    parts = ["# On a GPU",
             "Generated by `python tools/gpu_check.py`. What ran: "
             f"{content.get('gpu', 'no GPU: ' + content['device'])}, {content.get('mib', 0):,} MiB, driver "
             f"{content.get('driver', '–')}, CUDA {content.get('cuda', '–')}; {content['machine']}; "
             f"commit {content['commit']}, {content['date']}.",
             f"{len(items) - len(failed)} of {len(items)} checks are as they should be."
             + (f" Not reached in the time given: {', '.join(late)}." if late else "")]
    if failed:
        parts += ["## What fails", "\n".join(f"- {line(item)}" for item in failed)]
    parts += ["## The library, against the CPU",
              f"The same seeds on both devices. The worst relative difference, and what is allowed (fp32: {EXACT:g}; "
              "convolutions without TF32).",
              table(["what", "difference", "allowed", "CPU s", "GPU s", ""],
                    ([item["what"], f"{item['difference']:.2g}", f"{item['bound']:g}", f"{item['cpu_s']:.2g}",
                      f"{item['device_s']:.2g}", sure(item)] for item in library)),
              "## The models, at their official sizes",
              "Random weights, forward and backward. Half precisions by autocast, against fp32: relative difference of "
              "the output and cosine of all gradients; allowed are "
              + "; ".join(f"{kind}: {most:g} and {least:g}" for kind, (most, least) in BOUNDS.items())
              + ". Milliseconds and peak MiB, the public class's in brackets; at most "
              f"{T4_MIB:,} MiB, so that a T4 takes it.",
              table(["model", "precision", "difference", "cosine", "ms", "MiB", ""],
                    (row for m in models for row in model_rows(m))),
              "\n".join(f"- {words(item)}" for item in models),
              "## The chapters, from top to bottom in `tiny` mode",
              "As a reader runs them (in `tiny` mode a chapter computes on the CPU, so its numbers are the page's), "
              "and with all computing on the GPU, where numbers may differ in the last digits. How many outputs differ "
              "from the page's, and which claim does most, relative to its scale.",
              table(["chapter", "seconds", "cells", "claims", "outputs that differ", "farthest claim", ""],
                    ([item["name"], f"{item['seconds']:.0f}", f"{item['done']} of {item['cells']}",
                      f"{item['claims'] - len(item['claims_failed'])} of {item['claims']} hold",
                      str(item["differ"]), f"{item['farthest_claim'][0]} {item['farthest_claim'][1]:.1g}", sure(item)]
                     for item in sorted(read_on, key=lambda item: item["name"])))]
    if broken:
        parts += ["## What broke", "\n".join(f"- {line(item)} ({item['place']})" for item in broken)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write_page() -> None:
    atomic_write(PAGE, page(records.read(RECORD) if RECORD.exists() else None))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small models, for a rehearsal")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--chapters", nargs="*", metavar="NAME", help="only these, such as 09_actionclip")
    parser.add_argument("--jobs", type=int, default=max(1, min(8, (os.cpu_count() or 2) // 2)), help="chapters at once")
    parser.add_argument("--out", type=Path, help="where the figures go, if not to recordings/gpu.json")
    parser.add_argument("--resume", action="store_true", help="keep what stands for this GPU and commit")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args(argv)
    if options.page:
        write_page()
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("There is no GPU here. A rehearsal: --device cpu --small --out check.json --chapters")
    if options.device == "cpu" and options.out is None:
        parser.error("What a CPU gives is no record of a GPU: say where it goes, with --out.")
    known = {path.stem: path for path in chapters()}
    if unknown := [name for name in options.chapters or () if name not in known]:
        parser.error(f"There is no chapter {unknown[0]!r}; there are {', '.join(known)}.")
    notebooks = [known[name] for name in (known if options.chapters is None else options.chapters)]
    report = Report(options.out or RECORD, about(options.device) | {"small": options.small}, options.resume)
    check(report, options.device, options.small, options.minutes, notebooks, options.jobs)
    if options.out is None:
        write_page()
    return int(not all(item.get("ok", False) for item in report.content["items"]))


if __name__ == "__main__":
    sys.exit(main())
