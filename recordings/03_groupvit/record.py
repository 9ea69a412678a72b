"""Chapter 3's models: GroupViT on the toy world's captions, its variants, and the plain ViT of equal training.

    python tools/ch03_groupvit.py                       everything that is not recorded yet, in order
    python tools/ch03_groupvit.py main:0 plain:0        some runs, VARIANT:SEED

The definitions are those of chapters/03_groupvit.ipynb. "main" and "plain" learn from captions of all base names; the
variants are compared in a world of 60 names, where all see the same scenes and captions, equally often (only `data_*`
have fewer distinct scenes). What the loss receives is pictures and captions: the scenes are rendered without masks.
Each run goes into clipnotes/data/ch03_groupvit.json; those of SHIPPED are stored as clipnotes/data/ch03_*.safetensors.
A run that is stopped resumes from build/ch03/<variant>_<seed>.state.
"""

import argparse
import ast
import hashlib
import inspect
import os
import sys
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from random import Random

os.environ.setdefault("GOMP_SPINCOUNT", "0")
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import grammar, toyworld
from clipnotes.clip import load_clip
from clipnotes.tokenizer import tokenize
from clipnotes.weights import save_weights, stored, toy_world
from notebooks import ROOT, defined, read, record_run, recorded_runs
from tools.train_clip import log_run

NOTEBOOK = ROOT / "chapters" / "03_groupvit.ipynb"
BUILD, OUT = ROOT / "build" / "ch03", ROOT / "clipnotes" / "data" / "ch03_groupvit.json"
BATCH, PROMPTS, SEED, DECAY = 256, 3, 83_000_000, 0.35
ONE = dict(depths=(2, 0), group_tokens=(6, 0), output_groups=(6,))
TWO = dict(depths=(2, 1, 0), group_tokens=(16, 6, 0), output_groups=(16, 6))
# Two worlds, all base names and the small one of the comparisons: names, distinct scenes, pictures seen.
LARGE, SMALL = dict(names=210, scenes=16_000, images=30_720), dict(names=60, scenes=8_000, images=15_360)
# What differs from the recipe: one grouping stage, soft maps, nouns against groups, captions as they are.
VARIANTS = {
    "main": LARGE | ONE, "plain": LARGE | dict(plain=True),
    "study": SMALL | ONE, "study_plain": SMALL | dict(plain=True), "two_stages": SMALL | TWO,
    "hard": SMALL | ONE | dict(hard=True), "image_nouns": SMALL | ONE | dict(nouns="image"),
    "caption_only": SMALL | ONE | dict(nouns="none"), "paper": SMALL | TWO | dict(hard=True, nouns="image"),
    "ground": SMALL | ONE | dict(ground=True), "data_1": SMALL | ONE | dict(scenes=1_000),
    "data_2": SMALL | ONE | dict(scenes=2_000), "data_3": SMALL | ONE | dict(scenes=4_000),
}
NOT_OF_THE_MODEL = ("names", "scenes", "images", "nouns", "ground")
SHIPPED = {"main:0": "ch03_groupvit", "two_stages:0": "ch03_two_stages", "ground:0": "ch03_ground"}


def names_of(variant: str) -> list[str]:
    """The names in a variant's captions: all base names, or a fixed random choice of those that EmojiTwo has drawn."""
    if VARIANTS[variant]["names"] == 210:
        return toyworld.names("base")
    pool = toyworld.names("base", toyworld.HELD_OUT_STYLE)
    return [pool[i] for i in torch.randperm(len(pool), generator=torch.Generator().manual_seed(3))[:60].tolist()]


def code_hash() -> str:
    """What decides the weights: this program, without its text, and the notebook's definitions."""
    parts = [ast.dump(ast.parse(Path(__file__).read_text()))]
    for cell in read(NOTEBOOK).cells:
        if cell.cell_type == "code" and "class " in cell.source:
            parts.append(inspect.cleandoc(cell.source))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


# ---------------------------------------------------------------- what the loop receives


@cache
def pictures_and_captions(clip, names: tuple[str, ...], scenes: int) -> tuple[Tensor, list[str], list[str]]:
    """Patch tokens of the frozen trunk N×P×D (bfloat16), the captions, and the same captions that also name the ground.

    The scenes are rendered without masks and boxes are dropped here: no later line can see one.
    """
    tokens, captions, grounded = [], [], []
    trunk = chapter.FrozenTrunk(clip, 4)
    for i in range(scenes // 500):
        batch = toyworld.scenes(500, SEED + i, names=names, masks=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [trunk(clip.standardise(part)) for part in batch["images"].split(250)]
        tokens.append(torch.cat(found).bfloat16())
        captions += batch["captions"]
        tops, bottoms = batch["regions"][:, 0, 0].tolist(), batch["regions"][:, -1, 0].tolist()
        told = [f"{c} , {grammar.REGIONS[t]} and {grammar.REGIONS[b]}"
                for c, t, b in zip(batch["captions"], tops, bottoms, strict=True)]
        room = (tokenize(told, 77) > 0).sum(1) <= clip.config.context_length
        grounded += [new if fits else old for new, old, fits in zip(told, batch["captions"], room, strict=True)]
    return torch.cat(tokens), captions, grounded


class Texts:
    """Features of the frozen text tower, each text encoded once."""

    def __init__(self, clip):
        self.clip, self.place, self.rows = clip, {}, []

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        new = sorted(set(texts) - self.place.keys())
        for start in range(0, len(new), 512):
            part = new[start : start + 512]
            self.place |= {text: len(self.rows) + i for i, text in enumerate(part)}
            self.rows += self.clip.encode_text(part, normalize=False).unbind()
        return torch.stack([self.rows[self.place[text]] for text in texts])


# ---------------------------------------------------------------- training


def build(variant: str, clip):
    options = {k: v for k, v in VARIANTS[variant].items() if k not in NOT_OF_THE_MODEL}
    return chapter.GroupViTCLIP(chapter.tiny_encoder(clip, **options))


def optimizers(model) -> list[torch.optim.Optimizer]:
    """Muon for the encoder's matrices, AdamW for all else."""
    matrices = [p for n, p in model.img_encoder.named_parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    return [torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))]


def losses(model, tokens: Tensor, features: Tensor, nouns: str) -> Tensor:
    """The caption loss, and by `nouns` the nouns' loss against the groups, against the image, or none."""
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        groups, _ = model.img_encoder.read(tokens)
        group_emb = model.img_projector(groups) if nouns == "groups" else None
    text_emb = model.encode_text(features)
    image_emb = F.normalize(model.img_projector(groups.float().mean(1)), dim=-1)
    loss = chapter.clip_loss(image_emb, text_emb[:, 0], model.logit_scale.exp())
    scale = model.multi_label_logit_scale.exp()
    if nouns == "groups":
        group_emb = F.normalize(group_emb.float(), dim=-1).to(torch.bfloat16)
        best = chapter.best_groups(group_emb, text_emb[:, 1:].bfloat16()).float()
        return loss + chapter.many_positives(scale * best)
    return loss + (chapter.multi_label_loss(image_emb, text_emb[:, 1:], scale) if nouns == "image" else 0)


def train(variant: str, seed: int, clip) -> tuple[torch.nn.Module, float, list]:
    """-> the model, its minutes, and [pictures seen, loss] over time. Resumes where it was stopped."""
    torch.manual_seed(seed)
    options = VARIANTS[variant]
    images, n = options["images"], options["scenes"]
    model, texts, rng = build(variant, clip).train(), Texts(clip), Random(seed)
    optims, begun, seen, curve, spent = optimizers(model), time.time(), 0, [], 0.0
    base = [o.param_groups[0]["lr"] for o in optims]
    state_file = BUILD / f"{variant}_{seed}.state"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optims, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        seen, curve, spent, rng = state["seen"], state["curve"], state["minutes"], Random(seed + state["seen"])
        torch.manual_seed(seed + seen)
    if seen < images:
        world = LARGE if options["names"] == 210 else SMALL
        tokens, captions, grounded = pictures_and_captions(clip, tuple(names_of(variant)), world["scenes"])
        captions = grounded if options.get("ground") else captions
    while seen < images:
        pick = [rng.randrange(n) for _ in range(BATCH)]
        said = [[captions[i], *chapter.noun_prompts(captions[i], rng, PROMPTS)] for i in pick]
        features = texts([s for row in said for s in row]).view(BATCH, 1 + PROMPTS, -1)
        rate = min(1.0, (seen + BATCH) / 8_000, (images - seen) / (DECAY * images))
        for optimizer, lr in zip(optims, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate
        patches = tokens[pick].float() + model.img_encoder.pos_embed
        loss = losses(model, patches, features, options.get("nouns", "groups"))
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimizer in optims:
            optimizer.step()
        with torch.no_grad():
            for scale in (model.logit_scale, model.multi_label_logit_scale):
                scale.clamp_(max=4.6052)  # ln 100
        seen += BATCH
        if seen // BATCH % 20 == 0:
            curve.append([seen, round(loss.item(), 4)])
        if seen // BATCH % 40 == 0:
            print(f"{variant}:{seed} {seen:,} of {images:,} pictures, loss {loss.item():.3f}", flush=True)
            minutes = spent + (time.time() - begun) / 60
            temporary = state_file.with_suffix(".tmp")
            state = dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optims])
            torch.save(state | dict(seen=seen, curve=curve, minutes=minutes), temporary)
            os.replace(temporary, state_file)
    return model.eval(), spent + (time.time() - begun) / 60, curve


# ---------------------------------------------------------------- measuring


def judge(variant: str, model, clip) -> dict:
    """All figures of a model: see the chapter's functions."""
    names, how = names_of(variant), "patches" if isinstance(model.img_encoder, chapter.PlainViT) else "groups"
    valid, test = toyworld.scenes(200, SEED + 1001, names=names), toyworld.scenes(500, SEED + 1000, names=names)
    row = chapter.protocols(model, clip, valid, test, names)
    row["miou_all_regions"] = chapter.region_miou(model, clip, test, names, how)
    new_artist = dict(names=names, styles=(toyworld.HELD_OUT_STYLE,))
    valid, test = toyworld.scenes(100, SEED + 1003, **new_artist), toyworld.scenes(300, SEED + 1002, **new_artist)
    row["miou_scene_emojitwo"], _ = chapter.zero_shot(model, clip, valid, test, names, how, True)
    if len(names) == 210:
        known, new = toyworld.TRAIN_STYLES, (toyworld.HELD_OUT_STYLE,)
        for name, split, styles in (("episode", "base", known), ("episode_novel", "novel", known),
                                    ("episode_emojitwo", "base", new)):
            test = toyworld.episodes(split, 5, 100, SEED + 2000, styles=styles)
            valid = toyworld.episodes(split, 5, 40, SEED + 3000, styles=styles)
            row[f"miou_{name}"], row[f"threshold_{name}"] = chapter.episode_miou(model, clip, valid, test, how)
    return {k: round(float(v), 4) for k, v in row.items()}


def place(run: dict) -> tuple[int, int]:
    """Where a run stands in the JSON file."""
    return list(VARIANTS).index(run["variant"]), run["seed"]


def ship(name: str, model, variant: str, seed: int) -> Path:
    path, options = OUT.with_name(f"{name}.safetensors"), VARIANTS[variant]
    card = dict(program="tools/ch03_groupvit.py", variant=variant, seed=seed, names=names_of(variant))
    card |= {k: options[k] for k in ("scenes", "images")} | toy_world()
    save_weights(stored(model.state_dict()), path, "groupvit", asdict(model.img_encoder.config), card)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="VARIANT:SEED")
    args = parser.parse_args()
    torch.set_num_threads(1)
    BUILD.mkdir(parents=True, exist_ok=True)
    done = {f"{r['variant']}:{r['seed']}" for r in recorded_runs(OUT)}
    clip = load_clip("tiny").requires_grad_(False)
    for run in args.runs or [f"{v}:{seed}" for seed in range(3) for v in VARIANTS if f"{v}:{seed}" not in done]:
        variant, seed = run.split(":")
        model, minutes, curve = train(variant, int(seed), clip)
        options = VARIANTS[variant]
        row = dict(variant=variant, seed=int(seed), minutes=round(minutes, 1), code=code_hash())
        row |= {k: options[k] for k in ("names", "scenes", "images")} | judge(variant, model, clip) | dict(curve=curve)
        record_run(OUT, "python tools/ch03_groupvit.py", row, place)
        print({k: v for k, v in row.items() if k != "curve"}, flush=True)
        if run in SHIPPED:
            path = ship(SHIPPED[run], model, variant, int(seed))
            log_run("ch03_groupvit", path, minutes, options["images"], int(seed))
        (BUILD / f"{variant}_{seed}.state").unlink(missing_ok=True)


chapter = defined(NOTEBOOK)

if __name__ == "__main__":
    main()
