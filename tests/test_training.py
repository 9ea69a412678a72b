"""The program that trains the tiny CLIP: killed and resumed it ends with the same bits; it refuses what cannot be."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open

from clipnotes import clip, files, toyworld
from clipnotes.weights import load_weights, save_weights
from fake_gpu import fake_gpu
from notebooks import ROOT
from recordings.tiny import train

SMALL = ["--layers", "1", "--batch", "16", "--names", "8", "--pool-size", "256", "--sizes", "32:0.5,64:0.75,72:1",
         "--precision", "float32"]  # quick on every processor
PROCESSES = multiprocessing.get_context("forkserver")  # one process imports torch, its children begin at once
PROCESSES.set_forkserver_preload(["recordings.tiny.train", "clipnotes.check.claims", "nbclient", "pytest"])
THREADS = torch.get_num_threads()


def killer(function: Callable, count: int) -> Callable:
    """The function, whose `count`-th call is the end of the process."""
    calls = []

    def call(*args, **options):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    return call


def work(argv: list[str], where: str, count: int, threads: int, **environment: str) -> None:
    """In a process of its own: a run that saves after each step, and is killed at a step, write or rename."""
    os.environ.update(environment)
    torch.set_num_threads(threads)
    train.SAVE_SECONDS, train.log_run = -1, lambda *args: None
    owner, name = {"step": (train, "share_gradients"), "write": (files.os, "fsync"), "rename": (files.os, "replace"),
                   "nowhere": (train, "tokenize")}[where]
    setattr(owner, name, killer(getattr(owner, name), count))
    train.main(argv)


def exit_codes(target: Callable, *arguments: object, ranks: int = 1, threads: int = 1) -> list[int]:
    """Run a function in so many processes that find each other; how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = dict(WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    processes = [PROCESSES.Process(target=target, args=(*arguments, threads), kwargs=common | dict(RANK=str(rank)))
                 for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


@pytest.fixture(autouse=True)
def ledger(monkeypatch, tmp_path) -> Path:
    path = tmp_path / "ledger.md"
    path.write_text("# Ledger\n", "utf-8")
    monkeypatch.setattr(train, "LEDGER", path)
    return path


def run(out: Path, images: int, *more: str) -> None:
    train.main(["--out", str(out), "--images", str(images), *SMALL, *more])


def bits(path: Path) -> dict[str, bytes]:
    """Each tensor's bytes."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key).reshape(-1).view(torch.uint8).numpy().tobytes() for key in file.keys()}


# ---------------------------------------------------------------- what it writes


def test_a_short_run_writes_a_model_that_loads(tmp_path, ledger):
    out = tmp_path / "small.safetensors"
    run(out, 48)
    model = clip.load_clip(out)
    assert model.card["images"] == 48 and model.card["generator_hash"] == toyworld.generator_hash()
    images = toyworld.singles(3, seed=1)["images"]
    assert model.encode_image(images).shape == (3, 128)
    assert model.encode_text(["a red dog on the grass"]).shape == (1, 128)
    with pytest.warns(clip.UntrainedTokenWarning, match="zorgle"):
        model.encode_text(["a zorgle"])
    (row,) = ledger.read_text("utf-8").splitlines()[1:]
    assert row.startswith("| tiny/train | small.safetensors | 0 | 48 | 0 | ")
    run(out, 48)  # nothing is left to do: nothing was spent
    assert len(ledger.read_text("utf-8").splitlines()) == 2


def test_every_caption_is_made_of_trained_tokens():
    ids = train.trained_ids()
    texts = train.tokenize(toyworld.pretraining(300, seed=16, size=32)["captions"], train.LENGTH)
    assert torch.isin(texts, torch.cat([ids, torch.tensor([0])])).all()
    assert ids.max() == 49407, "the end token stays the largest id"


def test_a_file_from_another_world_is_refused(tmp_path):
    out = tmp_path / "small.safetensors"
    run(out, 16)
    model = clip.load_clip(out)
    clip.save_clip(model, out, train.trained_ids(), model.card | {"generator_hash": "0123456789ab"})
    with pytest.raises(RuntimeError, match="generator_hash 0123456789ab"):
        clip.load_clip(out)


def test_resnet_trains_too(tmp_path):
    out = tmp_path / "rn.safetensors"
    train.main(["--out", str(out), "--images", "8", "--arch", "rn", "--batch", "4", "--names", "8", "--pool-size",
                "256", "--sizes", "64:1"])
    model = clip.load_clip(out)
    assert not model.config.is_vit and model.encode_image(torch.rand(1, 3, 128, 128)).shape == (1, 128)


def test_the_ledger_loses_no_line(tmp_path, ledger):
    (tmp_path / "x").write_bytes(b"weights")
    writers = [Thread(target=lambda name=name: [train.log_run(name, tmp_path / "x", 1, i, 0) for i in range(20)])
               for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = ledger.read_text("utf-8").splitlines()[1:]
    assert len(rows) == 60 and {row.split()[1] for row in rows} == set("abc")


# ---------------------------------------------------------------- it resumes


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """A run of 10 steps that nothing disturbs; the pool grows in it, and is written round more than once."""
    out = tmp_path_factory.mktemp("unbroken") / "small.safetensors"
    before, train.LEDGER = train.LEDGER, out.with_name("ledger.md")
    train.LEDGER.write_text("", "utf-8")
    run(out, 320)
    train.LEDGER = before
    return out


@pytest.mark.parametrize(("where", "count", "seen"), [("step", 18, 272), ("write", 9, 112), ("rename", 4, 32)])
def test_a_killed_run_ends_with_the_same_bits(unbroken, tmp_path, where, count, seen):
    out = tmp_path / "small.safetensors"
    command = ["--out", str(out), "--images", "320", *SMALL]
    assert exit_codes(work, command, where, count, threads=THREADS) == [-signal.SIGKILL]
    assert not out.exists()
    assert load_weights(out.with_suffix(".state"), train.KIND)[2]["seen"] == seen
    run(out, 320)
    assert bits(out) == bits(unbroken)
    assert bits(out.with_suffix(".state")) == bits(unbroken.with_suffix(".state"))
    assert not list(tmp_path.glob(".*.tmp")), "what the killed one left behind is gone"


def test_a_run_that_was_stopped_goes_on_and_tells(tmp_path):
    out = tmp_path / "small.safetensors"
    run(out, 64, "--minutes", "0")
    assert load_weights(out.with_suffix(".state"), train.KIND)[2]["seen"] == 0
    run(out, 64)
    assert load_weights(out.with_suffix(".state"), train.KIND)[2]["seen"] == 64
    card = clip.load_clip(out).card
    assert card["images"] == 64 and [seen for seen, _ in card["history"]] == [0]
    run(out, 80, "--lr", "0.002")  # longer than planned, and faster: the card tells
    history = clip.load_clip(out).card["history"]
    assert [(seen, options["images"], options["lr"]) for seen, options in history] == [(0, 64, 0.001), (64, 80, 0.002)]


def test_the_pool_is_rendered_again_as_it_was():
    args = train.parse(["--out", "x.safetensors", "--images", "999", *SMALL, "--reuse", "0.7"])
    ids = train.trained_ids()
    for draws in (0, 1, 11, 30):  # 23 new pictures at a time in a pool of 256: 11 times in a round
        pool = train.Pool(args, 32, ids, 0, 1, start=5)
        for _ in range(draws):
            pool.draw(4, 32)
        again = train.Pool(args, 32, ids, 0, 1, start=5, draws=draws)
        assert torch.equal(again.images, pool.images) and torch.equal(again.texts, pool.texts)
        assert (again.step, again.cursor) == (pool.step, pool.cursor)


def test_only_what_is_left_of_a_pool_is_rendered():
    parts = [(1, 0, 4), (2, 4, 4), (3, 0, 3), (4, 3, 3), (5, 0, 3)]
    assert train.visible(parts, 8) == [(2, 4, 4), (4, 3, 3), (5, 0, 3)]


def test_it_trains_and_resumes_on_a_gpu(tmp_path):
    args = train.parse(["--out", str(tmp_path / "x.safetensors"), "--images", "96", *SMALL, "--precision", "bfloat16"])
    with fake_gpu() as gpu:
        first = train.Training(args, device=str(gpu))
        first.step()
        first.save()
        again = train.Training(args, device=str(gpu))
        for training in (first, again):
            training.step()
        assert all(p.device.type == "gpu" for p in again.parameters)
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(first.parameters, again.parameters, strict=True))


# ---------------------------------------------------------------- two ranks


def gradients(path: str, threads: int = 1, **environment: str) -> None:
    """The loss and the gradients of two small towers, of which each rank sees a part of the batch."""
    rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    os.environ.update(environment)
    if world > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    towers = [torch.nn.Linear(6, 5), torch.nn.Linear(7, 5)]
    scale = torch.nn.Parameter(torch.tensor(2.0))
    parts = [torch.randn(8, width).chunk(world)[rank] for width in (6, 7)]
    emb = [F.normalize(tower(x), dim=-1) for tower, x in zip(towers, parts, strict=True)]
    loss = train.gathered_loss(*emb, scale.exp(), world)
    loss.backward()
    parameters = [p for tower in towers for p in tower.parameters()] + [scale]
    train.share_gradients(parameters, world)
    if rank == 0:
        torch.save([loss.detach(), *[p.grad for p in parameters]], path)


def test_two_ranks_make_the_gradient_of_one(tmp_path):
    results = []
    for ranks in (1, 2):
        assert exit_codes(gradients, str(tmp_path / f"{ranks}.pt"), ranks=ranks) == [0] * ranks
        results.append(torch.load(tmp_path / f"{ranks}.pt", weights_only=True))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_two_ranks_that_were_killed_end_with_the_same_bits(tmp_path):
    ends = {"unbroken": [("nowhere", [0, 0])], "killed": [("step", [-signal.SIGKILL] * 2), ("nowhere", [0, 0])]}
    for name, parts in ends.items():
        command = ["--out", str(tmp_path / f"{name}.safetensors"), "--images", "96", *SMALL]
        for where, codes in parts:
            assert exit_codes(work, command, where, 4 if where == "step" else 0, ranks=2) == codes
    for ending in (".safetensors", ".state"):
        assert bits(tmp_path / f"killed{ending}") == bits(tmp_path / f"unbroken{ending}")


# ---------------------------------------------------------------- what is refused


IMPOSSIBLE = {
    "--images 0": "--images is a whole number above 0, not 0",
    "--images -5": "--images is a whole number above 0, not -5",
    "--batch 0": "--batch is a whole number above 0",
    "--layers 0": "--layers is a whole number above 0",
    "--lr nan": "--lr is a number above 0",
    "--lr -1": "--lr is a number above 0",
    "--muon -1": "--muon is 0 or a number above it",
    "--decay 1.5": "--decay is a share of the run, from 0 to 1, not 1.5",
    "--decay -0.1": "--decay is a share of the run",
    "--reuse 0": "--reuse is a number above 0",
    "--reuse inf": "--reuse is a number above 0",
    "--pool-size 100": "--pool-size is at least 256",
    "--pool-size 300 --batch 1024": "--pool-size 300 is too small: 512 new pictures",
    "--seed -1": "--seed is 0 or a whole number above it",
    "--minutes nan": "--minutes is 0 or a number above it",
    "--names 0": "--names is a number from 1 to ",
    "--names 9999": "--names is a number from 1 to ",
    "--sizes 30:1": "--sizes: a side is a multiple of 8 pixels, not 30",
    "--sizes 0:1": "--sizes: a side is a multiple of 8 pixels, not 0",
    "--sizes 40:1 --arch rn": "--sizes: a side is a multiple of 16 pixels, not 40",
    "--sizes 32:0.5": "--sizes: the shares grow, and end with 1",
    "--sizes 32:0.5,64:0.4,96:1": "--sizes: the shares grow, and end with 1",
    "--sizes 32": "--sizes are sides and shares, as in",
    "--sizes 32:a": "--sizes are sides and shares, as in",
    "--out x.pt": "--out is a file that ends in .safetensors",
    "--out {0}/file/x.safetensors": "cannot be written",
    "--out {0}/folder.safetensors": "--out is a file that ends in .safetensors",
    "--warm-start {0}/none.safetensors": "--warm-start: There is no file",
    "--warm-start {0}/file": "--warm-start: ",
    "--warm-start tiny --layers 1": "--warm-start: the model in tiny has another shape than this one",
}


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_the_impossible_is_refused_in_one_sentence(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.Training, "run", lambda self: pytest.fail("it went to work"))
    (tmp_path / "file").write_text("", "utf-8")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(SystemExit) as end:
        train.main(["--out", "x.safetensors", "--images", "99", *words.format(tmp_path).split()])
    said = capsys.readouterr().err.splitlines()[-1:] if end.value.code == 2 else [str(end.value.code)]
    assert len(said) == 1 and IMPOSSIBLE[words] in said[0], said
    assert end.value.code not in (0, None) and not list(tmp_path.glob(".*"))


def test_ranks_share_a_batch(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit):
        train.parse(["--out", "x.safetensors", "--images", "99", "--batch", "256"])
    assert "--batch 256 is no multiple of 3, the number of ranks" in capsys.readouterr().err


def cut(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:-100])


def flip(state: Path) -> None:
    raw = bytearray(state.read_bytes())
    raw[-1000] ^= 1
    state.write_bytes(raw)


def foreign_world(state: Path) -> None:
    tensors, config, card = load_weights(state, train.KIND)
    save_weights(tensors, state, train.KIND, config, card | {"generator_hash": "0123456789ab"})


def other_kind(state: Path) -> None:
    state.write_bytes(state.with_suffix(".safetensors").read_bytes())


SPOILT = {
    "cut": (cut, (), "small.state is damaged"),
    "a bit": (flip, (), "small.state is damaged"),
    "empty": (lambda state: state.write_bytes(b""), (), "small.state is damaged"),
    "a pickle": (lambda state: torch.save({"model": {}}, state), (), "small.state is damaged"),
    "a model": (other_kind, (), "does not hold weights of the kind 'training state', but 'clip'"),
    "another world": (foreign_world, (), "generator_hash 0123456789ab"),
    "other layers": (None, ("--layers", "2"), "is of a run with layers 1, not 2"),
    "other seed": (None, ("--seed", "1"), "is of a run with seed 0, not 1"),
    "other batch": (None, ("--batch", "32", "--reuse", "1"), "is of a run with batch 16, not 32; reuse 2.0, not 1.0"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("begun") / "small.safetensors"
    run(out, 32, "--minutes", "0")
    return out


@pytest.mark.parametrize("what", SPOILT)
def test_a_state_that_does_not_fit_is_refused(what, begun, tmp_path, monkeypatch):
    monkeypatch.setattr(train.Training, "run", lambda self: pytest.fail("it went to work"))
    spoil, words, sentence = SPOILT[what]
    for ending in (".safetensors", ".state"):
        (tmp_path / f"small{ending}").write_bytes(begun.with_suffix(ending).read_bytes())
    state = tmp_path / "small.state"
    if spoil:
        spoil(state)
    before = state.read_bytes()
    with pytest.raises(SystemExit) as end:
        run(tmp_path / "small.safetensors", 32, *words)
    assert sentence in str(end.value.code) and str(end.value.code).startswith("train.py: ")
    assert state.read_bytes() == before, "what does not fit is not overwritten"


# ---------------------------------------------------------------- schedules


def test_learning_rate_warms_up_and_falls_to_zero():
    args = train.parse(["--out", "x.safetensors", "--images", "100000", "--decay", "0.2"])
    rates = [train.rate(seen, args) for seen in (0, 10_000, 50_000, 79_000, 90_000, 100_000)]
    assert rates[0] < 0.05 and rates[2] == 1 and rates[3] == 1 and rates[4] == pytest.approx(0.5) and rates[5] == 0
    args = train.parse(["--out", "x.safetensors", "--images", "100000", "--decay", "0"])
    assert train.rate(99_999, args) == 1, "without decay it holds to the end"


def test_sizes_grow():
    args = train.parse(["--out", "x.safetensors", "--images", "1000", "--sizes", "32:0.5,64:0.9,96:1"])
    assert [train.side_at(s, args) for s in (0, 499, 500, 899, 900, 999, 1000)] == [32, 32, 64, 64, 96, 96, 96]


BARE = """
import runpy, sys
for name in ("open_clip datasets matplotlib ipywidgets transformers tqdm ftfy regex scipy sklearn skimage torchmetrics "
             "torchvision timm").split():
    sys.modules[name] = None  # an import of it fails, as where it is not installed
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_it_starts_anywhere_with_torch_numpy_pillow_and_safetensors_alone(tmp_path):
    """On a bare machine nothing else is there: no network, no other package is asked for."""
    program, words = str(ROOT / "recordings" / "tiny" / "train.py"), ["--out", "m/x.safetensors", "--images", "32"]
    done = subprocess.run([sys.executable, "-c", BARE, program, *words, "--minutes", "0", *SMALL], cwd=tmp_path,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"out": "m/x.safetensors", "images": 0, "minutes": 0.0}
    assert (tmp_path / "m" / "x.safetensors").is_file()
