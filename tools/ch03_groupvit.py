"""Chapter 3's models: GroupViT on the toy world's captions, its variants, and the plain ViT of equal training.

    python tools/ch03_groupvit.py                       everything that is not recorded yet, in order
    python tools/ch03_groupvit.py main:0 plain:0        some runs, VARIANT:SEED

The definitions are those of chapters/03_groupvit.ipynb. All variants see the same scenes and captions, equally often;
only `data_*` have fewer distinct scenes. What the loss receives is pictures and captions: the scenes are rendered without
masks. Each run goes into clipnotes/data/ch03_groupvit.json; main:0 and plain:0 ship as clipnotes/data/ch03_*.safetensors.
A run that is stopped resumes from build/ch03/<variant>_<seed>.state.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace

os.environ.setdefault("GOMP_SPINCOUNT", "0")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import nbformat
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from clipnotes import grammar, metrics, toyworld
from clipnotes.clip import load_clip
from tools.train_clip import log_run

BUILD, OUT = ROOT / "build" / "ch03", ROOT / "clipnotes" / "data" / "ch03_groupvit.json"
IMAGES, SCENES, BATCH, PROMPTS, SEED = 30_720, 16_000, 256, 3, 83_000_000
DECAY = 0.35
ONE, TWO = dict(depths=(2, 0), group_tokens=(6, 0), output_groups=(6,)), dict(depths=(2, 1, 0))
# What differs from the main recipe: one grouping stage, soft maps, nouns against groups, captions as they are.
VARIANTS = {
    "main": ONE, "plain": dict(plain=True), "two_stages": TWO, "hard": ONE | dict(hard=True),
    "paper": TWO | dict(hard=True, nouns="image"), "image_nouns": ONE | dict(nouns="image"),
    "caption_only": ONE | dict(nouns="none"), "ground": ONE | dict(ground=True),
    "data_1": ONE | dict(scenes=2_000), "data_2": ONE | dict(scenes=4_000), "data_3": ONE | dict(scenes=8_000),
}
ORDER = ["main:0", "plain:0", "two_stages:0", "paper:0", "hard:0", "image_nouns:0", "caption_only:0", "ground:0",
         "data_1:0", "data_2:0", "data_3:0", "main:1", "plain:1", "main:2", "plain:2", "two_stages:1", "two_stages:2"]

SHIPPED = {"main:0": "ch03_groupvit", "plain:0": "ch03_plain", "two_stages:0": "ch03_two_stages", "ground:0": "ch03_ground"}


def definitions() -> SimpleNamespace:
    """The notebook's own classes and functions: its cells that only import and define."""
    import ast

    space: dict = {"__name__": "chapter_03"}
    kept = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
    for cell in nbformat.read(ROOT / "chapters" / "03_groupvit.ipynb", 4).cells:
        if cell.cell_type == "code" and not cell.source.lstrip().startswith("%"):
            tree = ast.parse(cell.source)
            if tree.body and all(isinstance(node, kept) for node in tree.body):
                exec(compile(tree, cell.id, "exec"), space)
    return SimpleNamespace(**space)


def code_hash() -> str:
    """What decides the weights: this program, without its text, and the notebook's definitions."""
    import ast
    import inspect

    parts = [ast.dump(ast.parse(Path(__file__).read_text()))]
    for cell in nbformat.read(ROOT / "chapters" / "03_groupvit.ipynb", 4).cells:
        if cell.cell_type == "code" and "class " in cell.source:
            parts.append(inspect.cleandoc(cell.source))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


# ---------------------------------------------------------------- what the loop receives


@cache
def pictures_and_captions(clip, blocks: int = 4) -> tuple[Tensor, list[str], list[str]]:
    """Patch tokens of the frozen trunk N×P×D (bfloat16), the captions, and the same captions that also name the ground.

    The scenes are rendered without masks and boxes are dropped here: no later line can see one.
    """
    tokens, captions, grounded = [], [], []
    trunk = chapter.FrozenTrunk(clip, blocks)
    for i in range(SCENES // 500):
        batch = toyworld.scenes(500, SEED + i, names=toyworld.names("base"), masks=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [trunk(clip.standardise(part)) for part in batch["images"].split(250)]
        tokens.append(torch.cat(found).bfloat16())
        captions += batch["captions"]
        tops, bottoms = batch["regions"][:, 0, 0].tolist(), batch["regions"][:, -1, 0].tolist()
        grounded += [f"{c} , {grammar.REGIONS[t]} and {grammar.REGIONS[b]}"
                     for c, t, b in zip(batch["captions"], tops, bottoms, strict=True)]
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
    options = {k: v for k, v in VARIANTS[variant].items() if k not in ("nouns", "ground", "scenes")}
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


def train(variant: str, seed: int, clip, images: int) -> tuple[torch.nn.Module, float, list]:
    """-> the model, its minutes, and [pictures seen, loss] over time. Resumes where it was stopped."""
    torch.manual_seed(seed)
    options = VARIANTS[variant]
    tokens, captions, grounded = pictures_and_captions(clip)
    captions, n = grounded if options.get("ground") else captions, options.get("scenes", SCENES)
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
    while seen < images:
        pick = [rng.randrange(n) for _ in range(BATCH)]
        said = [[captions[i], *chapter.noun_prompts(captions[i], rng, PROMPTS)] for i in pick]
        features = texts([s for row in said for s in row]).view(BATCH, 1 + PROMPTS, -1)
        rate = min(1.0, (seen + BATCH) / 8_000, (images - seen) / (DECAY * images))
        for optimizer, lr in zip(optims, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate
        loss = losses(model, tokens[pick].float() + model.img_encoder.pos_embed, features, options.get("nouns", "groups"))
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
            torch.save(dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optims], seen=seen, curve=curve,
                            minutes=minutes), temporary)
            os.replace(temporary, state_file)
    return model.eval(), spent + (time.time() - begun) / 60, curve


# ---------------------------------------------------------------- measuring


def judge(model, clip) -> dict:
    """All figures of a model: see the chapter's functions."""
    row, candidates = {}, toyworld.names("base")
    how = "patches" if isinstance(model.img_encoder, chapter.PlainViT) else "groups"
    sets = dict(base=toyworld.scenes(500, SEED + 1000, names=candidates),
                valid=toyworld.scenes(200, SEED + 1001, names=candidates))
    row |= chapter.protocols(model, clip, sets["valid"], sets["base"])
    for name, split, style in (("episode", "base", toyworld.TRAIN_STYLES), ("episode_novel", "novel", toyworld.TRAIN_STYLES),
                               ("episode_emojitwo", "base", (toyworld.HELD_OUT_STYLE,))):
        test = toyworld.episodes(split, 5, 100, SEED + 2000, styles=style)
        valid = toyworld.episodes(split, 5, 40, SEED + 3000, styles=style)
        row[f"miou_{name}"], row[f"threshold_{name}"] = chapter.episode_miou(model, clip, valid, test, how)
    return {k: round(float(v), 4) for k, v in row.items()}


def record(entry: dict) -> None:
    """Put a run into the JSON file, by way of a temporary file."""
    content = json.loads(OUT.read_text()) if OUT.exists() else dict(command="python tools/ch03_groupvit.py", runs=[])
    others = [r for r in content["runs"] if (r["variant"], r["seed"]) != (entry["variant"], entry["seed"])]
    content["runs"] = sorted([*others, entry], key=lambda r: (list(VARIANTS).index(r["variant"]), r["seed"]))
    temporary = OUT.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, OUT)


def ship(name: str, model, seed: int, images: int) -> Path:
    path = OUT.with_name(f"{name}.safetensors")
    tensors = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    from dataclasses import asdict

    about = dict(config=json.dumps(asdict(model.img_encoder.config)), images=str(images), seed=str(seed),
                 plain=str(int(name.endswith("plain"))), toyworld_version=toyworld.VERSION,
                 generator_hash=toyworld.generator_hash())
    save_file(tensors, path.with_suffix(".tmp"), about)
    os.replace(path.with_suffix(".tmp"), path)
    path.chmod(0o644)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="VARIANT:SEED")
    parser.add_argument("--images", type=int, default=IMAGES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    BUILD.mkdir(parents=True, exist_ok=True)
    done = {f"{r['variant']}:{r['seed']}" for r in json.loads(OUT.read_text())["runs"]} if OUT.exists() else set()
    clip = load_clip("tiny").requires_grad_(False)
    for run in args.runs or [run for run in ORDER if run not in done]:
        variant, seed = run.split(":")
        model, minutes, curve = train(variant, int(seed), clip, args.images)
        row = dict(variant=variant, seed=int(seed), images=args.images, scenes=VARIANTS[variant].get("scenes", SCENES),
                   minutes=round(minutes, 1), code=code_hash()) | judge(model, clip) | dict(curve=curve)
        record(row)
        print({k: v for k, v in row.items() if k != "curve"}, flush=True)
        if run in SHIPPED:
            name = SHIPPED[run]
            log_run("ch03_groupvit", ship(name, model, 0, args.images), minutes, args.images, 0)
        (BUILD / f"{variant}_{seed}.state").unlink(missing_ok=True)


chapter = definitions()

if __name__ == "__main__":
    main()
