"""The probe page: what a candidate CLIP knows, each figure beside its control. The gate before a long training.

    python recordings/tiny/probe.py [checkpoint] [--names 120] [--n 500] [--page]

`--page` stores the figures of a shipped model beside this program (probe.json, or probe_tiny-rn.json for the other one)
and writes book/probe.md from both; `--short NAME` measures a short run and puts it into short_runs.json, which the page
shows, too.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F

from clipnotes import grammar, records, toyworld
from clipnotes.check.claims import rounded
from clipnotes.clip import CLIP, load_clip
from clipnotes.files import atomic_write, lock
from clipnotes.metrics import topk_accuracy
from clipnotes.prompts import class_embeddings
from recordings.tiny.evaluate import SEED, evaluate, image_embeddings, name_scores, naming
from recordings.tiny.train import chosen_names

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "book" / "probe.md"
SHORT = HERE / "short_runs.json"
RECORDS = {"tiny": HERE / "probe.json", "tiny-rn": HERE / "probe_tiny-rn.json"}


@torch.no_grad()
def patches(model: CLIP, n: int = 300, names: list[str] | None = None, size: int = 96) -> dict:
    """Does the best patch for a name lie on the named thing? The control asks for a name that is not there."""
    rows = {}
    for label, styles in (("training styles", toyworld.TRAIN_STYLES), ("emojitwo", [toyworld.HELD_OUT_STYLE])):
        batch = toyworld.scenes(n, SEED + 20, size, objects=(2, 3), styles=styles, names=names, tints=0.0)
        there = batch["labels"][:, 0]
        absent = there.roll(7)  # another scene's first object
        fine = (absent[:, None] != batch["labels"]).all(1)
        class_emb = class_embeddings(model, [c.name for c in grammar.concepts()], grammar.TEMPLATES[1:4])
        for path in (("tokens", "value") if model.config.is_vit else (None,)):
            side = size if model.config.is_vit else model.config.image_size
            images = F.interpolate(batch["images"], (side, side), mode="bilinear")
            found = torch.cat([model.patch_features(part, path=path) for part in images.split(100)])
            grid = found.shape[1]
            mask = F.adaptive_avg_pool2d((batch["object_map"] == 0).float()[:, None], grid).flatten(1) > 0.5
            seen = mask.any(1) & fine
            best = [(found.flatten(1, 2) @ class_emb[who][:, :, None]).squeeze(-1).argmax(1) for who in (there, absent)]
            hit = [mask[torch.arange(n), b][seen].float().mean().item() for b in best]
            rows[f"{label}, {path or 'pooled'}"] = dict(hit=hit[0], absent_name=hit[1], grid=f"{grid}x{grid}",
                                                        area=mask[seen].float().mean().item(), n=int(seen.sum()))
    return rows


@torch.no_grad()
def forms(model: CLIP, n: int = 500, names: list[str] | None = None) -> dict:
    """Silhouettes, outlines, edges by name; solids by name."""
    chosen = names or chosen_names(None)
    class_emb = class_embeddings(model, chosen, grammar.TEMPLATES[1:6])
    rows = {}
    for kind in ("silhouette", "outline", "edges"):
        kind_emb = class_embeddings(model, chosen, grammar.STYLE_TEMPLATES[kind])
        batch = toyworld.line_art(n, SEED + 30, kind=kind, names=chosen)
        row = name_scores(model, batch, chosen, kind_emb)
        plain = name_scores(model, batch, chosen, class_emb)["top1"]
        rows[kind] = row | dict(photo_prompt_top1=plain, chance=1 / len(chosen))
    batch = toyworld.renders(n, SEED + 31)
    solid = class_embeddings(model, grammar.SOLIDS, grammar.STYLE_TEMPLATES["solid"])
    rows["solids"] = dict(top1=topk_accuracy(image_embeddings(model, batch["images"]) @ solid.T, batch["labels"]),
                          chance=1 / len(grammar.SOLIDS), n=n)
    return rows


@torch.no_grad()
def regions(model: CLIP, n: int = 500) -> dict:
    """Which ground an object stands on, told by the pooled embedding."""
    batch = toyworld.scenes(n, SEED + 40, objects=(1, 1), masks=False)
    below = batch["regions"][:, -1, 0]
    names = list(toyworld.LOWER)
    truth = torch.tensor([names.index(grammar.REGIONS[i]) for i in below.tolist()])
    text = model.encode_text([f"a photo of this object {grammar.ON[r]}" for r in names])
    return {"ground": dict(top1=topk_accuracy(image_embeddings(model, batch["images"]) @ text.T, truth),
                           chance=1 / len(names), n=n)}


@torch.no_grad()
def short_run(model: CLIP, names: int, n: int) -> dict:
    """The few figures by which short runs are compared."""
    chosen, card = chosen_names(names), model.card
    rows, found = naming(model, chosen, n, floor=False), patches(model, names=chosen)
    spots = {path: found[f"training styles, {path}"] for path in ("tokens", "value")}
    return dict(pool=card["pool"], seed=card["seed"], names=names, pictures=card["images"], minutes=card["minutes"],
                noto_top1=rows["noto"]["top1"], emojitwo_top1=rows["emojitwo"]["top1"], n=n,
                **{f"patch_{path}": spot["hit"] for path, spot in spots.items()},
                absent_name=spots["value"]["absent_name"])


def stored(path: Path) -> dict:
    """The tables of a record: name -> row -> figures."""
    return {key: rows for key, rows in records.read(path).items() if key != "digest"} if path.exists() else {}


def store(path: Path, tables: dict) -> None:
    """Put tables into a record; the others in it stay."""
    with lock(path):
        records.write(path, stored(path) | rounded(tables, 6))  # the page shows three digits


def table(rows: dict) -> list[str]:
    """A Markdown table with one row an entry; shares with three digits."""
    keys = list(dict.fromkeys(k for row in rows.values() for k in row))
    lines = ["| | " + " | ".join(k.replace("_", " ") for k in keys) + " |", "|---|" + "---|" * len(keys)]
    for name, row in rows.items():
        cells = [f"{row[k]:.3f}" if isinstance(row.get(k), float) else str(row.get(k, "")) for k in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def cost(card: dict) -> str:
    return f"{card['images']:,} pictures in {card['minutes']:.0f} minutes on two CPU cores, shared with other work"


def markdown() -> str:
    """The probe page of the book, from the records of both models."""
    cards = {name: load_clip(name).card for name in RECORDS}
    found = {name: stored(path) for name, path in RECORDS.items()}
    lines = ["# What the tiny CLIP knows", "",
             "Every later chapter asks the tiny CLIP for something. This page, written by `recordings/tiny/probe.py`, "
             "says what it can give, each figure beside its control: chance, the majority class, the nearest picture "
             "in pixels, a name that is not in the picture. All are shares of one, n says of how many.", "",
             f"The model has seen {cost(cards['tiny'])} (seed {cards['tiny']['seed']}; one run, one seed). How far "
             "seeds differ is shown by the short runs below, and by the three small towers of each kind in chapter 1, "
             "section *Look inside*.", ""]
    for head, rows in found["tiny"].items():
        lines += [f"## {head}", "", *table(rows)]
    lines += ["## Short runs", "", "The same program with a tenth of the budget and 120 names: how far seeds "
              "differ, and the class token against the mean over patches.", "", *table(stored(SHORT))]
    lines += ["## The curve", "", *learning(cards["tiny"])]
    lines += ["## The other one: tiny-rn", "",
              "A small ModifiedResNet with attention pooling, for what papers did with ResNets: chapters 7, 10, 13."
              f" The same program, captions and loss; it has seen {cost(cards['tiny-rn'])} (seed "
              f"{cards['tiny-rn']['seed']}; one run, one seed), at last at 128 px. Pictures of 64 px are enlarged "
              "for it.", ""]
    for head, rows in found["tiny-rn"].items():
        lines += [f"### tiny-rn: {head}", "", *table(rows)]
    lines += ["### tiny-rn: The curve", "", *learning(cards["tiny-rn"])]
    return "\n".join(lines)


def learning(card: dict) -> list[str]:
    """The curve over pictures seen, about a dozen points, and what was changed on the way."""
    curve = card["curve"]
    lines = ["Means over the minute before, on the pictures of training: the loss of a batch of "
             f"{card['batch']} pairs, and how often a picture finds its own caption in its half of the batch.", "",
             "| pictures seen | loss | in-batch top-1 |", "|---|---|---|"]
    picked = sorted({round(i * (len(curve) - 1) / 13) for i in range(14)})
    lines += [f"| {curve[i][0]:,} | {curve[i][1]:.2f} | {curve[i][2]:.2f} |" for i in picked]
    for (_, before), (seen, after) in pairwise(card["history"]):
        changed = [f"{k} {before.get(k)} → {after.get(k)}" for k in sorted({*before, *after})
                   if before.get(k) != after.get(k)]
        lines += ["", f"At {seen:,} pictures the run was resumed with other options: {'; '.join(changed)}."]
    return [*lines, ""]


def show(rows: dict, head: str) -> None:
    """Print a table."""
    print(f"\n{head}")
    for name, row in rows.items():
        cells = [f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
        print(f"  {name:24s} " + "  ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="tiny")
    parser.add_argument("--names", type=int, help="only the names of a short run")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--short", metavar="NAME")
    args = parser.parse_args()
    if args.page and args.checkpoint not in RECORDS:
        parser.error(f"--page is for the models that ship: {', '.join(RECORDS)}.")
    model = load_clip(args.checkpoint)
    if args.short:
        store(SHORT, {args.short: short_run(model, args.names, args.n)})
        return
    names = chosen_names(args.names) if args.names else None
    tables = evaluate(model, args.names, args.n)
    tables |= {"Patches": patches(model, names=names), "Other forms": forms(model, args.n, names),
               "Grounds": regions(model)}
    for head, rows in tables.items():
        show(rows, head)
    if args.page:
        store(RECORDS[args.checkpoint], tables)
        atomic_write(PAGE, markdown())


if __name__ == "__main__":
    main()
