"""Chapter 9's recordings: ActionCLIP on films of the toy world, end to end and on frozen frames.

    python tools/ch09_actionclip.py                       everything that is not recorded yet, in order
    python tools/ch09_actionclip.py inside:shift:0        some runs, STUDY:VARIANT:SEED
    python tools/ch09_actionclip.py figure                the shipped model's answers for the first figure

The definitions are those of chapters/09_actionclip.ipynb. Studies:
inside  the image tower learns: with the shift, without it, with it from random weights, with it and three actions left
        out of training (HELD, chosen before any run); a mean over frames behind each
heads   frozen frames: what stands behind the tower
losses  frozen frames: KL or cross-entropy while labels repeat in the batch (16 films, 16 / repeats labels)
data    frozen frames: sixteen prompts, one prompt, or a one-hot head, by films per action
coarse  frozen frames: trained on coarse labels, asked for fine ones
new     frozen frames: HELD and a new verb, from 0 to 16 films each, beside a linear probe
Each run goes into clipnotes/data/ch09_actionclip.json; inside:shift:0 also becomes ch09_shift.safetensors there.
A program that is stopped goes on with the run it was at.
"""

import argparse
import ast
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch import Tensor

from clipnotes import grammar, metrics
from clipnotes.clip import CLIP, load_clip
from clipnotes.toyworld import films
from clipnotes.weights import save_weights, stored, toy_world
from notebooks import ROOT, code_cells, defined, read, record_run, recorded_runs, write_json
from recordings.tiny.train import log_run

NOTEBOOK = ROOT / "chapters" / "09_actionclip.ipynb"
BUILD, OUT = ROOT / "build" / "ch09", ROOT / "clipnotes" / "data" / "ch09_actionclip.json"
SHIPPED = OUT.with_name("ch09_shift.safetensors")
TRAIN, TEST, NEW, FILMS, TESTED = 91_000_000, 92_000_000, 93_000_000, 6000, 540
HELD = ("an object shrinks", "a red object turns blue", "an object moves right")
ZORGLE = "the zorgle of an object"
HARD = ("moves left", "moves right", "spins left", "spins right")  # shown three times as often in training
SHOTS, PER_ACTION, REPEATS = (0, 1, 2, 4, 8, 16), (0, 4, 32, 200), (1, 4, 8)
RUNS = {"inside": ("shift", "none", "random", "held"),
        "heads": ("mean", "conv1d", "conv1d_released", "lstm", "transf_small", "transf"),
        "losses": tuple(f"{loss}_{r}" for r in REPEATS for loss in ("kl", "ce")),
        "data": tuple(f"{kind}_{n}" for n in PER_ACTION for kind in ("sixteen", "one", "onehot")),
        "coarse": ("transf",), "new": ("transf",)}
DECIDES = ("label_texts", "actions", "action_labels", "segments", "lesson", "kl_loss", "cross_entropy", "sixteen",
           "prompt_ids", "vote", "shift", "shift_tokens", "frame_vectors", "Mean", "Conv1D", "Conv1DReleased", "LSTM",
           "Transf", "ActionCLIP", "OneHot", "action_clip", "fit", "any_films", "pair_accuracy", "zorgles")


def code_hash() -> str:
    """What decides the figures: this program, without its text, and the notebook's definitions."""
    parts = [ast.dump(ast.parse(Path(__file__).read_text()))]
    for cell in code_cells(read(NOTEBOOK)):
        parts += [ast.dump(node) for node in ast.parse(cell.source).body if getattr(node, "name", "") in DECIDES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


# ---------------------------------------------------------------- films, once


def once(name: str, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What `make` gives, made once and kept under build/."""
    path = BUILD / f"{name}.pt"
    if not path.exists():
        torch.save(make(), path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
    return torch.load(path, weights_only=True)


@cache
def frames(split: str) -> tuple[Tensor, Tensor]:
    """Films as bytes N×8×3×32×32 and their actions."""
    often = [e for e in films.EVENTS for _ in range(3 if e in HARD else 1)]
    return once(split, {"train": lambda: chapter.lesson(FILMS, TRAIN, events=often),
                        "test": lambda: chapter.lesson(TESTED, TEST),
                        "new": lambda: chapter.lesson(TESTED, NEW)}[split])


@cache
def vectors(split: str) -> tuple[Tensor, Tensor]:
    """The same films as frozen frame vectors N×8×128, and their actions."""
    def make() -> tuple[Tensor, Tensor]:
        pictures, labels = zorgle(split) if split.startswith("zorgle") else frames(split)
        return frozen_vectors(pictures), labels

    return once(f"{split}_vectors", make)


@torch.no_grad()
def frozen_vectors(pictures: Tensor) -> Tensor:
    clip = load_clip("tiny")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.cat([chapter.frame_vectors(clip.visual, clip.standardise(part / 255), 0).float()
                          for part in pictures.split(50)])


def zorgle(split: str) -> tuple[Tensor, Tensor]:
    """Films of the new verb; their label comes after all others."""
    n, seed = (32, NEW + 50_000) if split == "zorgle_train" else (100, NEW + 60_000)
    return chapter.zorgles(n, seed), torch.full((n,), len(chapter.actions()))


# ---------------------------------------------------------------- training


def muon_and_adamw(model) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of blocks, AdamW for all else that learns."""
    tower, head = list(model.clip.visual.parameters()), list(model.head.parameters())
    blocks = [*model.clip.visual.transformer.parameters(),
              *(p for name, p in model.head.named_parameters() if "position" not in name)]
    matrices = [p for p in blocks if p.ndim == 2 and p.requires_grad]
    taken, groups = {id(p) for p in matrices}, []
    for mine, rate in ((tower, 1.5e-3), (head, 3e-3), (list(model.parameters()), 1e-3)):
        fresh = [p for p in mine if p.requires_grad and id(p) not in taken]
        taken |= {id(p) for p in fresh}
        groups += [dict(params=fresh, lr=rate)] if fresh else []
    adamw = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
    return [adamw, *([torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")]
                     if matrices else [])]


def fit(model, *given, **options) -> list[float]:
    return chapter.fit(model.train(), *given, optimizers=muon_and_adamw(model), **options)


def judged(model, x: Tensor, labels: Tensor, ids: Tensor) -> dict:
    """Accuracy among all actions, the hits film by film, and action or reverse."""
    hits = (model.eval().ask(x, ids).argmax(1) == labels).int()
    pairs = chapter.pair_accuracy(model, x, labels, ids)
    return dict(accuracy=round(hits.float().mean().item(), 4), hits="".join(map(str, hits.tolist())),
                pairs={k: round(v, 4) for k, v in pairs.items()})


def names_kept(model, x: Tensor) -> float:
    """Do the films' names still come out? The name of each test film among 20 names, every film's own with it."""
    batch = [films.films(min(500, TESTED - i), TEST + i, 16) for i in range(0, TESTED, 500)]  # only for its labels
    label = torch.cat([b["labels"] for b in batch])
    g, concepts = torch.Generator().manual_seed(0), grammar.concepts()
    pool, hits = label.unique(), []
    texts = [f"a photo of {grammar.article(concepts[i].name)}" for i in pool.tolist()]
    scores = model.ask(x, chapter.prompt_ids(texts, ("{}",)))
    place = {int(i): k for k, i in enumerate(pool)}
    for row, own in zip(scores, label.tolist(), strict=True):
        rivals = torch.randperm(len(pool), generator=g)[:19]
        hits.append(bool((row[place[own]] >= row[rivals]).all()))
    return round(sum(hits) / len(hits), 4)


def inside(variant: str, seed: int) -> dict:
    clip, started = load_clip("tiny"), time.time()
    if variant == "random":
        torch.manual_seed(seed)
        clip = CLIP(clip.config)
    model = chapter.action_clip("mean", 0 if variant == "none" else 8, False, clip, bf16=True).train()
    (x, labels), ids = frames("train"), chapter.prompt_ids(chapter.actions())
    if variant == "held":
        kept = ~torch.isin(labels, held())
        x, labels = x[kept], labels[kept]
    curve = fit(model, x, labels, ids, 160, seed)
    model.bf16 = False
    row = judged(model, *frames("test"), ids) | dict(curve=[round(v, 3) for v in curve[::4]])
    row["names"] = names_kept(model, frames("test")[0])
    if variant == "held":
        row |= new_only(model, *frames("test"), ids)
    if (variant, seed) == ("shift", 0):
        ship(model, (time.time() - started) / 60)
    return row


def heads(variant: str, seed: int) -> dict:
    torch.manual_seed(seed)
    model, ids = chapter.action_clip(variant), chapter.prompt_ids(chapter.actions())
    fit(model, *vectors("train"), ids, 160, seed)
    return judged(model, *vectors("test"), ids) | dict(names=names_kept(model, vectors("test")[0]))


def losses(variant: str, seed: int) -> dict:
    """Batches of 16 films with 16 / repeats labels, each as often as the others."""
    torch.manual_seed(seed)
    kind, repeats = variant.split("_")
    model, ids = chapter.action_clip("transf"), chapter.prompt_ids(chapter.actions())

    def choose(labels: Tensor, batch: int, g: torch.Generator) -> Tensor:
        some = torch.randperm(len(ids), generator=g)[: batch // int(repeats)]
        return torch.cat([rows[torch.randint(len(rows), (int(repeats),), generator=g)]
                          for rows in ((labels == k).nonzero()[:, 0] for k in some)])

    loss = chapter.kl_loss if kind == "kl" else chapter.cross_entropy
    curve = fit(model, *vectors("train"), ids, 120, seed, batch=16, loss=loss, choose=choose)
    return judged(model, *vectors("test"), ids) | dict(last_loss=round(sum(curve[-25:]) / 25, 4))


def first_of_each(labels: Tensor, count: int, seed: int) -> Tensor:
    """The places of `count` films of each label, drawn by the seed."""
    g = torch.Generator().manual_seed(seed)
    return torch.cat([(rows := (labels == k).nonzero()[:, 0])[torch.randperm(len(rows), generator=g)[:count]]
                      for k in labels.unique()])


def data(variant: str, seed: int) -> dict:
    torch.manual_seed(seed)
    kind, count = variant.split("_")[0], int(variant.split("_")[1])
    (x, labels), test = vectors("train"), vectors("test")
    rows = first_of_each(labels, count, seed)
    if kind == "onehot":
        model = chapter.OneHot(load_clip("tiny"), chapter.make_head("transf"), len(chapter.actions()))
        ids, loss = torch.arange(len(chapter.actions()))[:, None, None], model.loss
    else:
        model, loss = chapter.action_clip("transf"), chapter.kl_loss
        ids = chapter.prompt_ids(chapter.actions(), None if kind == "sixteen" else ("{}",))
    if count:
        fit(model, x[rows], labels[rows], ids, 80, seed, loss=loss)
    hits = model.eval().ask(test[0], ids).argmax(1) == test[1]
    return dict(accuracy=round(hits.float().mean().item(), 4))


# ---------------------------------------------------------------- new actions, finer labels


def held() -> Tensor:
    return torch.tensor([chapter.actions().index(text) for text in HELD])


def new_only(model, x: Tensor, labels: Tensor, ids: Tensor) -> dict:
    """Films of the left-out actions: named among all 17, and among the left-out ones alone; who is blamed instead."""
    rows = torch.isin(labels, held())
    answer = model.ask(x[rows], ids)
    among = held()[answer[:, held()].argmax(1)]
    taken = answer.argmax(1)
    return dict(
        new_all=round((taken == labels[rows]).float().mean().item(), 4),
        new_among=round((among == labels[rows]).float().mean().item(), 4),
        new_by_action={chapter.actions()[k]: [round((a[labels[rows] == k] == k).float().mean().item(), 4)
                                              for a in (taken, among)] for k in held().tolist()},
        instead={chapter.actions()[k]: chapter.actions()[taken[labels[rows] == k].mode().values.item()]
                 for k in held().tolist()})


def new(variant: str, seed: int) -> dict:
    """A model that never saw HELD, nor the new verb, and what a few films of each change."""
    torch.manual_seed(seed)
    (x, labels), (test_x, test_y) = vectors("train"), vectors("test")
    texts = (*chapter.actions(), ZORGLE)
    ids, kept = chapter.prompt_ids(texts), ~torch.isin(labels, held())
    x, labels = x[kept], labels[kept]
    base = chapter.action_clip(variant)
    fit(base, x, labels, ids, 160, seed)
    (pool, pool_y), (zorgle_x, zorgle_y) = vectors("new"), vectors("zorgle_train")
    pool, pool_y = torch.cat([pool, zorgle_x]), torch.cat([pool_y, zorgle_y])
    wanted = torch.cat([held(), zorgle_y[:1]])
    test_x, test_y = (torch.cat(pair) for pair in zip((test_x, test_y), vectors("zorgle_test"), strict=True))
    found = new_only(base, *vectors("test"), chapter.prompt_ids(chapter.actions()))
    found |= dict(shots=list(SHOTS), model=[], probe=[], old_model=[], old_probe=[], zorgle_model=[], zorgle_probe=[])
    start = {k: v.clone() for k, v in base.state_dict().items()}
    fresh = torch.isin(test_y, wanted)
    few = torch.isin(pool_y, wanted)
    few_x, few_y = pool[few], pool_y[few]
    for count in SHOTS:
        rows = first_of_each(few_y, count, seed) if count else torch.empty(0, dtype=torch.long)
        base.load_state_dict(start)
        if count:
            together, both = torch.cat([x, few_x[rows]]), torch.cat([labels, few_y[rows]])

            def half(_, batch: int, g: torch.Generator, n: int = len(x), new: int = len(rows)) -> Tensor:
                return torch.cat([torch.randint(n, (batch // 2,), generator=g),
                                  n + torch.randint(new, (batch // 2,), generator=g)])

            fit(base, together, both, ids, 40, seed, choose=half)
        answers = {"model": base.eval().ask(test_x, ids).argmax(1)}
        old = first_of_each(labels, 64, seed)
        given = torch.cat([x[old], few_x[rows]]).flatten(1), torch.cat([labels[old], few_y[rows]])
        answers["probe"] = metrics.linear_probe(*given, test_x.flatten(1))
        for who, answer in answers.items():
            hit = (answer == test_y).float()
            for key, mine in ((who, fresh), (f"old_{who}", ~fresh), (f"zorgle_{who}", test_y == wanted[-1])):
                found[key].append(round(hit[mine].mean().item(), 4))
    return found


def coarse(variant: str, seed: int) -> dict:
    """Labels that only say moves, spins, bounces; then the fine texts are asked of films of each group."""
    torch.manual_seed(seed)
    groups = chapter.coarse_labels()
    (x, labels), (test_x, test_y) = vectors("train"), vectors("test")
    texts = list(dict.fromkeys(groups.values()))
    merged = torch.tensor([texts.index(groups[a]) for a in chapter.actions()])
    model, fine = chapter.action_clip(variant), chapter.prompt_ids(chapter.actions())
    before = chapter.fine_accuracy(model, test_x, test_y, fine)
    fit(model, x, merged[labels], chapter.prompt_ids(texts), 160, seed)
    hits = model.eval().ask(test_x, chapter.prompt_ids(texts)).argmax(1) == merged[test_y]
    return dict(accuracy=round(hits.float().mean().item(), 4), before=before,
                after=chapter.fine_accuracy(model, test_x, test_y, fine))


# ---------------------------------------------------------------- records


def ship(model, minutes: float) -> None:
    """Everything that learnt: both towers and the temperature. The word vectors are the tiny CLIP's."""
    tensors = {k: v for k, v in model.clip.state_dict().items() if k != "token_embedding.weight"}
    card = dict(program="tools/ch09_actionclip.py", run="inside:shift:0", films=FILMS, seen=160 * 48) | toy_world()
    save_weights(stored(tensors), SHIPPED, "actionclip", dict(head="mean", div=8), card)
    log_run("ch09_actionclip", SHIPPED, minutes, 160 * 48, 0)


def figure() -> None:
    """The shipped model's answers to the films of the chapter's first figure go into the record."""
    model, ids = chapter.load_shift(), chapter.prompt_ids(chapter.actions())
    content, answers = json.loads(OUT.read_text()), []
    for batch in chapter.postcard_films():
        sure, best = model.ask(chapter.half_size(batch["frames"]), ids)[0].max(0)
        answers.append([chapter.actions()[best], round(sure.item(), 3)])
    write_json(OUT, content | dict(figure=answers), indent=None)


def place(run: dict) -> tuple[int, int, int]:
    """Where a run stands in the JSON file."""
    return list(RUNS).index(run["study"]), RUNS[run["study"]].index(run["variant"]), run["seed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="STUDY:VARIANT:SEED")
    given = parser.parse_args().runs
    torch.set_num_threads(1)
    BUILD.mkdir(parents=True, exist_ok=True)
    every = [f"{s}:{v}:{seed}" for s in RUNS for seed in range(3) for v in RUNS[s]]
    done = {f"{r['study']}:{r['variant']}:{r['seed']}" for r in recorded_runs(OUT)}
    if given == ["figure"]:
        return figure()
    for run in given or [r for r in every if r not in done]:
        study, variant, seed = run.split(":")
        started = time.time()
        row = dict(study=study, variant=variant, seed=int(seed))
        row |= STUDIES[study](variant, int(seed))
        row |= dict(minutes=round((time.time() - started) / 60, 2), code=code_hash())
        record_run(OUT, "python tools/ch09_actionclip.py", row, place, indent=None)
        print({k: v for k, v in row.items() if k not in ("hits", "curve")}, flush=True)


STUDIES = dict(inside=inside, heads=heads, losses=losses, data=data, coarse=coarse, new=new)
chapter = defined(NOTEBOOK)

if __name__ == "__main__":
    main()
