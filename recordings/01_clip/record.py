"""Chapter 1's three equal towers: trained by captions (CLIP), by labels, by pictures alone (SimCLR).

The same pictures, the same image tower, the same number of steps, three seeds. Seed 0 ships beside this program as
{clip,supervised,pictures}.safetensors: the tensors of a VisionTransformer under their names without prefix, and
`classes`, K×D unit vectors (not for "pictures"). See recordings/runner.py for the command line.
"""

import sys
import time
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes import grammar, toyworld
from clipnotes.clip import CLIP, CLIPConfig, clip_loss
from clipnotes.prompts import class_embeddings
from clipnotes.tokenizer import tokenize
from clipnotes.weights import load_weights, save_weights, stored, toy_world
from recordings.runner import Recorder
from recordings.tiny.train import log_run

SIZE, NAMES, BATCH, IMAGES, PICTURES = 32, 24, 128, 60_000, 12_000
TRAIN, TEST = 80_000_010, 80_000_000
SHAPE = CLIPConfig(128, SIZE, 3, 128, 8, 40, 49408, 128, 2, pool="avg", vision_heads=2, text_heads=2)

recorder = Recorder("01_clip")


def chosen_names() -> list[str]:
    """A fixed random choice among the concepts that the held-out artist has drawn."""
    everything = toyworld.names(style=toyworld.HELD_OUT_STYLE)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(1))
    return [everything[i] for i in order[:NAMES]]


@cache
def pictures(seed: int, n: int = PICTURES) -> dict:
    """n pictures of the chosen names and their captions, in parts of 500."""
    parts = [toyworld.singles(min(500, n), TRAIN + 24 * seed + i, SIZE, names=chosen_names())
             for i in range(-(-n // 500))]
    return dict(images=torch.cat([p["images"] for p in parts]), labels=torch.cat([p["labels"] for p in parts]),
                captions=[caption for p in parts for caption in p["captions"]])


# ---------------------------------------------------------------- training


def views(images: Tensor, g: torch.Generator, colour: bool) -> Tensor:
    """Random crops, mirrored or not; with `colour` also mixed channels and another light (SimCLR needs them)."""
    n = len(images)
    scale = 0.6 + 0.4 * torch.rand(n, generator=g)
    mirror = torch.randint(0, 2, (n,), generator=g) * 2.0 - 1
    shift = (torch.rand(2, n, generator=g) * 2 - 1) * (1 - scale)
    zero = torch.zeros(n)
    theta = torch.stack([torch.stack([scale * mirror, zero, shift[0]], 1), torch.stack([zero, scale, shift[1]], 1)], 1)
    images = F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)
    if colour:
        mix = torch.eye(3) + 0.25 * torch.randn(n, 3, 3, generator=g)
        images = torch.einsum("nij,njhw->nihw", mix, images) * (0.7 + 0.6 * torch.rand(n, 1, 1, 1, generator=g))
    return images.clamp(0, 1)


def contrast(one: Tensor, other: Tensor, temperature: float = 0.2) -> Tensor:
    """SimCLR's loss (Chen et al. 2020): each view finds the other view of its picture among all views."""
    z = F.normalize(torch.cat([one, other]), dim=-1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(one)))


def name_columns() -> Tensor:
    """Label of the toy world -> its place among the chosen names, -1 for others."""
    column = torch.full((len(grammar.concepts()),), -1)
    column[toyworld.name_indices(chosen_names())] = torch.arange(NAMES)
    return column


def train(objective: str, seed: int, data: dict, images: int) -> tuple[CLIP, Tensor | None, float]:
    """-> the model, a unit vector a class (None for "pictures"), the last loss."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    model, classes = CLIP(SHAPE), nn.Parameter(torch.randn(NAMES, 128) * 0.05)
    ids, labels, steps = tokenize(data["captions"], 40), name_columns()[data["labels"]], images // BATCH
    matrices = [p for name, p in model.named_parameters() if "resblocks" in name and p.ndim == 2]
    others = [p for name, p in model.named_parameters() if "resblocks" not in name or p.ndim != 2]
    optimizers = [torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW([*others, classes], lr=1e-3, weight_decay=0.05)]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda s: min(1, (s + 1) / 40, (steps - s) / (0.4 * steps)))
                 for o in optimizers]
    model.train()
    for _ in range(steps):
        pick = torch.randint(0, len(labels), (BATCH,), generator=g)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            look = [model.visual(model.standardise(views(data["images"][pick], g, objective == "pictures"))).float()
                    for _ in range(2 if objective == "pictures" else 1)]
            text = model.encode_ids(ids[pick]).float() if objective == "clip" else None
        if objective == "pictures":
            loss = contrast(*look)
        elif objective == "supervised":
            loss = F.cross_entropy(20 * F.normalize(look[0], dim=-1) @ F.normalize(classes, dim=-1).T, labels[pick])
        else:
            loss = clip_loss(F.normalize(look[0], dim=-1), F.normalize(text, dim=-1), model.logit_scale.exp())
        model.zero_grad()
        classes.grad = None
        loss.backward()
        for step in (*optimizers, *schedules):
            step.step()
    model.eval()
    if objective == "clip":
        class_emb = class_embeddings(model, chosen_names(), grammar.TEMPLATES[1:6])
    else:
        class_emb = F.normalize(classes.detach(), dim=-1) if objective == "supervised" else None
    return model, class_emb, loss.item()


@torch.no_grad()
def measure(model: CLIP, class_emb: Tensor | None, stored_pictures: int = 1500, asked: int = 600) -> dict:
    """By style: naming; whether the nearest picture by another artist has its name; how often artists match."""
    gallery = toyworld.singles(stored_pictures, TEST, SIZE, styles=toyworld.TRAIN_STYLES[:4], names=chosen_names())
    emb, found = model.encode_image(gallery["images"]), {}
    for style in ("noto", toyworld.HELD_OUT_STYLE):
        batch = toyworld.singles(asked, TEST + 1, SIZE, styles=[style], names=chosen_names())
        image_emb = model.encode_image(batch["images"])
        table = image_emb @ emb.T
        other = table.masked_fill(batch["styles"][:, None] == gallery["styles"], -2).argmax(1)
        row = dict(neighbour_name=(gallery["labels"][other] == batch["labels"]).float().mean().item())
        if style == "noto":
            artist = gallery["styles"][table.argmax(1)] == batch["styles"]
            row["neighbour_artist"] = artist.float().mean().item()
        if class_emb is not None:
            hits = (image_emb @ class_emb.T).argmax(1) == name_columns()[batch["labels"]]
            row["top1"] = hits.float().mean().item()
        found[style] = {key: round(value, 4) for key, value in row.items()}
    return found


# ---------------------------------------------------------------- records


def ship(objective: str, model: CLIP, class_emb: Tensor | None, minutes: float) -> None:
    """The tower of seed 0, beside this program."""
    tensors = dict(model.visual.state_dict()) | ({} if class_emb is None else {"classes": class_emb})
    config = dict(image_size=SIZE, patch_size=8, width=128, layers=SHAPE.vision_layers, heads=2, embed_dim=128,
                  pool="avg")
    card = dict(objective=objective, names=chosen_names(), images=IMAGES) | toy_world()
    path = recorder.path.with_name(f"{objective}.safetensors")
    save_weights(stored(tensors), path, "tower", config, card)
    log_run("01_clip", path, minutes, IMAGES, 0)


@recorder.study(variants=("clip", "supervised", "pictures"),
                recipe=dict(names=NAMES, images=IMAGES, pictures=PICTURES, batch=BATCH, size=SIZE, train=TRAIN,
                            test=TEST))
def towers(objective: str, seed: int) -> dict:
    started = time.process_time()
    model, class_emb, _ = train(objective, seed, pictures(seed), IMAGES)
    if seed == 0:
        ship(objective, model, class_emb, (time.process_time() - started) / 60)
    return measure(model, class_emb)


def shipped(objective: str) -> tuple[CLIP, Tensor | None]:
    """The tower of seed 0, and a unit vector a class."""
    model, tensors = CLIP(SHAPE).eval(), load_weights(f"01_clip/{objective}", "tower")[0]
    classes = tensors.pop("classes", None)
    model.visual.load_state_dict({name: weight.float() for name, weight in tensors.items()})
    return model, None if classes is None else classes.float()


@recorder.probe
def probe() -> dict:
    """Three steps of each kind of training; each measurement of the towers that ship."""
    found = {}
    for objective in recorder.studies["towers"].variants:
        _, class_emb, found[f"towers.{objective}_loss"] = train(objective, 0, pictures(0, 200), 3 * BATCH)
        if class_emb is not None:
            found[f"towers.{objective}_classes"] = (class_emb @ class_emb.T).mean()
        rows = measure(*shipped(objective), 120, 60)
        for style, row in rows.items():
            found |= {f"towers.{objective}_{style}_{key}": value for key, value in row.items()}
    return found


if __name__ == "__main__":
    sys.exit(recorder.main())
