"""Chapter 1's three equal towers: trained by captions (CLIP), by labels, by pictures alone (SimCLR).

    python tools/ch01_models.py [--seeds 3] [--images 60000]

The same pictures, the same image tower, the same number of steps; three seeds, all recorded in
clipnotes/data/ch01_models.json. Seed 0 ships as clipnotes/data/ch01_{clip,supervised,pictures}.safetensors: the tensors
of a VisionTransformer under their names without prefix, and `classes` K x D unit vectors (not for "pictures");
metadata: `config` (keyword arguments of VisionTransformer), `names` (K), `objective`, `images`.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from clipnotes import grammar, toyworld
from clipnotes.clip import CLIP, CLIPConfig, clip_loss
from clipnotes.prompts import class_embeddings
from clipnotes.tokenizer import tokenize
from tools.train_clip import log_run

ROOT = Path(__file__).parent.parent
SIZE, NAMES, BATCH, SEED = 32, 24, 128, 80_000_000
SHAPE = CLIPConfig(128, SIZE, 3, 128, 8, 40, 49408, 128, 2, pool="avg", vision_heads=2, text_heads=2)


def names() -> list[str]:
    """A fixed random choice among the concepts that EmojiTwo has drawn."""
    everything = toyworld.names(style=toyworld.HELD_OUT_STYLE)
    return [everything[i] for i in torch.randperm(len(everything), generator=torch.Generator().manual_seed(1))[:NAMES]]


def views(images: torch.Tensor, g: torch.Generator, colour: bool) -> torch.Tensor:
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


def contrast(a: torch.Tensor, b: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """SimCLR's loss (Chen et al. 2020): each view finds the other view of its picture among all views."""
    z = F.normalize(torch.cat([a, b]), dim=-1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))


def train(objective: str, seed: int, data: dict, chosen: list[str], images: int) -> tuple[CLIP, torch.Tensor | None]:
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    model, classes = CLIP(SHAPE), nn.Parameter(torch.randn(NAMES, 128) * 0.05)
    ids = tokenize(data["captions"], 40)
    column = torch.full((len(grammar.concepts()),), -1)
    column[toyworld.name_indices(chosen)] = torch.arange(NAMES)
    labels = column[data["labels"]]
    matrices = [p for name, p in model.named_parameters() if "resblocks" in name and p.ndim == 2]
    others = [p for name, p in model.named_parameters() if "resblocks" not in name or p.ndim != 2]
    optimizers = [torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW([*others, classes], lr=1e-3, weight_decay=0.05)]
    steps = images // BATCH
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
        return model, class_embeddings(model, chosen, grammar.TEMPLATES[1:6])
    return model, F.normalize(classes.detach(), dim=-1) if objective == "supervised" else None


@torch.no_grad()
def measure(model: CLIP, classes: torch.Tensor | None, chosen: list[str]) -> dict:
    """Naming by style; the nearest neighbour's name across artists; the nearest neighbour's artist."""
    row, column = {}, torch.full((len(grammar.concepts()),), -1)
    column[toyworld.name_indices(chosen)] = torch.arange(NAMES)
    gallery = toyworld.singles(1500, SEED, SIZE, styles=toyworld.TRAIN_STYLES[:4], names=chosen)
    stored = model.encode_image(gallery["images"])
    for style in ("noto", toyworld.HELD_OUT_STYLE):
        batch = toyworld.singles(600, SEED + 1, SIZE, styles=[style], names=chosen)
        image_emb = model.encode_image(batch["images"])
        similarity = image_emb @ stored.T
        other = similarity.masked_fill(batch["styles"][:, None] == gallery["styles"], -2).argmax(1)
        row[f"{style} neighbour has its name"] = (gallery["labels"][other] == batch["labels"]).float().mean().item()
        if style == "noto":
            same = gallery["styles"][similarity.argmax(1)] == batch["styles"]
            row["noto neighbour has its artist"] = same.float().mean().item()
        if classes is not None:
            row[f"{style} top1"] = ((image_emb @ classes.T).argmax(1) == column[batch["labels"]]).float().mean().item()
    return row


def save(objective: str, model: CLIP, classes: torch.Tensor | None, chosen: list[str], images: int) -> Path:
    tensors = {k: v.half().contiguous() for k, v in model.visual.state_dict().items()}
    if classes is not None:
        tensors["classes"] = classes.half().contiguous()
    c = asdict(SHAPE)
    kwargs = dict(image_size=SIZE, patch_size=8, width=128, layers=c["vision_layers"], heads=2, embed_dim=128,
                  pool="avg")
    path = ROOT / "clipnotes" / "data" / f"ch01_{objective}.safetensors"
    save_file(tensors, path.with_suffix(".tmp"), dict(config=json.dumps(kwargs), names=json.dumps(chosen),
                                                      objective=objective, images=str(images)))
    os.replace(path.with_suffix(".tmp"), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=60_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen, out = names(), ROOT / "clipnotes" / "data" / "ch01_models.json"
    record = dict(command="python tools/ch01_models.py", names=NAMES, images=args.images, size=SIZE, chance=1 / NAMES,
                  neighbour_artist_chance=0.25, runs=[])
    for seed in range(args.seeds):
        parts = [toyworld.singles(500, SEED + 10 + 24 * seed + i, SIZE, names=chosen) for i in range(24)]
        data = dict(images=torch.cat([p["images"] for p in parts]), labels=torch.cat([p["labels"] for p in parts]),
                    captions=[c for p in parts for c in p["captions"]])
        for objective in ("clip", "supervised", "pictures"):
            begun = time.process_time()
            model, classes = train(objective, seed, data, chosen, args.images)
            row = dict(objective=objective, seed=seed, minutes=round((time.process_time() - begun) / 60, 1))
            row |= {k: round(v, 4) for k, v in measure(model, classes, chosen).items()}
            record["runs"].append(row)
            print(row, flush=True)
            if seed == 0:
                log_run("ch01_models", save(objective, model, classes, chosen, args.images), row["minutes"],
                        args.images, seed)
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
