"""Chapter 2's shipped model and its recorded experiments.

    python tools/ch02_lseg.py main      three LSegs; seed 0 ships as clipnotes/data/ch02_lseg.safetensors
    python tools/ch02_lseg.py baselines text text_long size onehot blocks start

Each part writes its rows into clipnotes/data/ch02_lseg.json (seed, minutes, command, hash of the code). The definitions
come from the chapter's notebook and from clipnotes/lseg.py.

Training is two steps. First the decoder alone learns on the tokens of the frozen CLIP, which are computed once; then
everything but the text tower learns, the image encoder with a small step. Masks exist for base names and regions; novel
things stand in the pictures and are ignored.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.nn.functional as F
from safetensors import safe_open

from clipnotes import grammar, lseg, toyworld
from clipnotes.clip import load_clip, read_texts
from clipnotes.prompts import class_embeddings, fill
from clipnotes.weights import toy_world
from notebooks import ROOT, defined, write_json
from tools.train_clip import log_run

DATA = ROOT / "clipnotes" / "data"
RECORD, MODEL = DATA / "ch02_lseg.json", DATA / "ch02_lseg.safetensors"
SEED = 60_000_000  # training scenes; the tests begin at 70,000,000
TEST, TUNE = 70_000_000, 69_000_000
TRAINED, ASKED = grammar.TEMPLATES[:6], grammar.TEMPLATES[1:6]  # sentences around a name
REGIONS = list(grammar.REGIONS)
HELD_OUT = (toyworld.HELD_OUT_STYLE,)


nb = defined(ROOT / "chapters" / "02_lseg.ipynb")


def code_hash() -> str:
    text = Path(__file__).read_bytes() + (ROOT / "clipnotes" / "lseg.py").read_bytes()
    return hashlib.sha256(text).hexdigest()[:12]


CODE = code_hash()  # of the program that runs, whatever becomes of the file meanwhile


def record(part: str, rows: list[dict] | dict, command: str) -> None:
    """Put one part into the record, by way of a temporary file."""
    content = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    content[part] = dict(command=command, code=CODE, rows=rows)
    write_json(RECORD, content)


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


# ---------------------------------------------------------------- data


def pool(n: int, seed: int, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes as bytes n x 3 x 96 x 96, and their label maps."""
    images, maps = [], []
    for start in range(0, n, 250):
        batch = toyworld.scenes(min(250, n - start), seed + 1 + start, **options)
        images.append((batch["images"] * 255).round().byte())
        maps.append(toyworld.label_map(batch).short())
    return torch.cat(images), torch.cat(maps)


def crowded(n: int, seed: int, **options):
    """Fuller scenes than those of the tests: more masks a picture."""
    return pool(n, seed, objects=(4, 6), scale=(34, 50), **options)


def column_of(words: list[str]) -> torch.Tensor:
    """label of a pixel -> its place among the words, -1 for what has no mask."""
    column = torch.full((len(toyworld.label_names()),), -1)
    column[nb.places(words)] = torch.arange(len(words))
    return column


def vary(images: torch.Tensor, labels: torch.Tensor, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirrored or not, mixed channels, another light."""
    n = len(images)
    mirror = torch.rand(n, generator=g) < 0.5
    images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    labels = torch.where(mirror[:, None, None], labels.flip(2), labels)
    mix = torch.eye(3) + 0.2 * torch.randn(n, 3, 3, generator=g)
    draw = torch.rand(n, generator=g)
    mix = torch.where((draw < 0.1)[:, None, None], torch.full((3, 3), 1 / 3), mix)
    mix = torch.where((draw > 0.6)[:, None, None], torch.eye(3), mix)
    gain = (0.8 + 0.4 * torch.rand(n, generator=g))[:, None, None, None]
    return (torch.einsum("nij,njhw->nihw", mix, images) * gain).clamp(0, 1), labels


# ---------------------------------------------------------------- training


@torch.no_grad()
def tokens_of(model: lseg.LSeg, images: torch.Tensor) -> torch.Tensor:
    """The hooked tokens of all pictures, 4 x n x T x C in bfloat16: a frozen encoder is asked only once."""
    found = []
    for part in images.split(50):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layers = model.pretrained.model.layers(model.clip_pretrained.standardise(part.float() / 255))
        found.append(torch.stack([layers[hook] for hook in model.config.hooks]).bfloat16())
    return torch.cat(found, 1)


def path_from(model: lseg.LSeg, tokens: torch.Tensor) -> torch.Tensor:
    """path_1 from stored tokens 4 x B x T x C."""
    fold = [getattr(model.pretrained, f"act_postprocess{i}") for i in (1, 2, 3, 4)]
    return model.scratch.fuse([f(t, (12, 12)) for f, t in zip(fold, tokens, strict=True)])


def loss_of(model, path_1, labels, text_emb, g, pixels: int = 4000):
    """Equation 2.2 on a random sample of the labelled pixels: the same in the mean, and much cheaper."""
    grid = (torch.arange(path_1.shape[-1]) * 95 / (path_1.shape[-1] - 1)).round().long()
    labels = labels[:, grid][:, :, grid]
    if not pixels:  # a block needs whole maps
        return F.cross_entropy(model.scratch.product(path_1.float(), text_emb), labels, ignore_index=-1)
    labels = labels.flatten()
    some = (labels >= 0).nonzero()[:, 0]
    some = some[torch.randint(0, len(some), (pixels,), generator=g)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = path_1.permute(0, 2, 3, 1).flatten(0, 2)[some]
        vectors = F.linear(vectors, model.scratch.head1.weight.flatten(1), model.scratch.head1.bias)
    logits = F.normalize(vectors.float(), dim=1) @ F.normalize(text_emb, dim=1).T / lseg.TEMPERATURE
    return F.cross_entropy(logits, labels[some])


def schedule(optimizer, steps: int):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / 20, 1) * (1 - s / steps) ** 0.9)


def decoder_parameters(model):
    return [p for k, p in model.named_parameters() if not k.startswith(("clip_pretrained", "pretrained.model"))]


def train_decoder(model, seed, tokens, maps, words, steps, *, batch=32, lr=3e-3, texts=None, more=(), pixels=4000,
                  say=100):
    """Step 1. `texts`: a function of the generator that gives K x D vectors; `more`: what else it trains."""
    g = torch.Generator().manual_seed(seed)
    column = column_of(words)
    fixed = torch.stack([class_embeddings(model.clip_pretrained, words, [t]) for t in TRAINED])
    texts = texts or (lambda g: fixed[torch.randint(0, len(fixed), (1,), generator=g)][0])
    groups = [dict(params=decoder_parameters(model)), *more]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=0.02)
    plan, losses = schedule(optimizer, steps), []
    model.train()
    for step in range(steps):
        pick = torch.randint(0, len(maps), (batch,), generator=g)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            path_1 = path_from(model, tokens[:, pick].float())
        loss = loss_of(model, path_1, column[maps[pick].long()], texts(g), g, pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
        losses.append(loss.item())
        if say and step % say == say - 1:
            print(f"  decoder, step {step + 1}: {sum(losses[-say:]) / say:.3f}", flush=True)
    return model.eval()


def train_all(model, seed, pools, words, steps, *, batch=32, lr=1e-3, decoder=1e-3, say=50):
    """Step 2: image encoder and decoder together; Muon for the blocks' matrices, AdamW for the rest."""
    g = torch.Generator().manual_seed(1000 + seed)
    column = column_of(words)
    fixed = torch.stack([class_embeddings(model.clip_pretrained, words, [t]) for t in TRAINED])
    encoder = list(model.pretrained.model.named_parameters())
    matrices = [p for k, p in encoder if "resblocks" in k and p.ndim == 2]
    others = [p for k, p in encoder if not ("resblocks" in k and p.ndim == 2)]
    groups = [dict(params=decoder_parameters(model), lr=decoder), dict(params=others, lr=lr / 2)]
    optimizers = [torch.optim.AdamW(groups, weight_decay=0.02),
                  torch.optim.Muon(matrices, lr=lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")]
    plans, losses = [schedule(o, steps) for o in optimizers], []
    model.train()
    for step in range(steps):
        images, maps = pools[step % len(pools)]
        pick = torch.randint(0, len(maps), (batch,), generator=g)
        x, y = vary(images[pick].float() / 255, column[maps[pick].long()], g)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            path_1 = model.path_1(x)
        text_emb = fixed[torch.randint(0, len(fixed), (1,), generator=g)][0]
        loss = loss_of(model, path_1, y, text_emb, g)
        model.zero_grad()
        loss.backward()
        for part in (*optimizers, *plans):
            part.step()
        losses.append(loss.item())
        if say and step % say == say - 1:
            print(f"  all, step {step + 1}: {sum(losses[-say:]) / say:.3f}", flush=True)
    return model.eval()


# ---------------------------------------------------------------- measuring


_tested: dict = {}


def test_scenes(split: str, styles: tuple[str, ...], n: int, seed: int = TEST) -> list[dict]:
    """Five episodes of n scenes, the same for every model."""
    key = (split, styles, n, seed)
    if key not in _tested:
        _tested[key] = toyworld.episodes(split, 5, n, seed, styles=styles)
    return _tested[key]


def measure(vectors_of, text_emb, split, styles=toyworld.TRAIN_STYLES, n=100, protocols=("episodes",), bias=0.0,
            words_of=None, seed=TEST) -> dict:
    """mIoU of each protocol: the names in the scene, the 20 of its episode, all names of the split."""
    found: dict = {p: [] for p in protocols}
    true = []
    ground = nb.places(REGIONS)
    for number, batch in enumerate(test_scenes(split, styles, n, seed)):
        vectors = vectors_of(batch["images"])
        true.append(toyworld.label_map(batch))
        for protocol in protocols:
            names = toyworld.names(split) if protocol == "all" else batch["candidates"]
            ids = torch.cat([nb.places(names), ground])
            emb = words_of(number, ids) if words_of else text_emb[ids]
            own = None
            if protocol == "scene":
                own = (ids[None, :, None] == batch["labels"][:, None]).any(2) | (ids >= ground[0])
            found[protocol].append(nb.choose_words(vectors, emb, ids, own, bias))
    return {p: nb.object_miou(torch.cat(maps), torch.cat(true)) for p, maps in found.items()}


def report(model, n=100, protocols=("episodes",), styles=None) -> dict:
    """Base and novel, artists of training and the held-out one."""
    text_emb = class_embeddings(model.clip_pretrained, toyworld.label_names(), ASKED)
    looks = styles or dict(training=toyworld.TRAIN_STYLES, held_out=HELD_OUT)
    vectors_of = partial(nb.pixel_vectors, model)
    return rounded({f"{split} {look}": measure(vectors_of, text_emb, split, names, n, protocols)
                    for split in ("base", "novel") for look, names in looks.items()})


@torch.no_grad()
def prototypes(vectors_of, names: list[str], seed: int, shots: int = 1, styles=toyworld.TRAIN_STYLES) -> torch.Tensor:
    """One vector a name, K x D: the mean over the masked pixels of `shots` labelled pictures."""
    rows = []
    for k, name in enumerate(names):
        batch = toyworld.scenes(shots, seed + 1000 * k, objects=(1, 1), names=[name], styles=styles)
        vectors = F.interpolate(vectors_of(batch["images"]), (96, 96), mode="bilinear", align_corners=True)
        inside = (batch["object_map"] >= 0).float()
        rows.append(F.normalize((vectors * inside[:, None]).sum((0, 2, 3)), dim=0))
    return torch.stack(rows)


def one_shot(vectors_of, text_emb, split="novel", n=100, shots=1, bias=0.0) -> float:
    """Episodes with a prototype in place of each name's text; the regions keep their words."""
    vectors = {}

    def words_of(number: int, ids: torch.Tensor) -> torch.Tensor:
        names = test_scenes(split, toyworld.TRAIN_STYLES, n)[number]["candidates"]
        if number not in vectors:
            vectors[number] = prototypes(vectors_of, names, TEST + 100_000 * (number + 1), shots)
        return torch.cat([vectors[number], text_emb[ids[len(names):]]])

    return measure(vectors_of, text_emb, split, n=n, words_of=words_of, bias=bias)["episodes"]


# ---------------------------------------------------------------- the parts


def base_words() -> list[str]:
    return toyworld.names("base") + REGIONS


def fresh(seed: int, clip, **changes) -> lseg.LSeg:
    torch.manual_seed(seed)
    return lseg.start_from_clip(lseg.LSeg(lseg.LSegConfig(**changes), clip))


def shared_data(count: int = 5000):
    """The pools of training, kept in a scratch file while the parts run one after another."""
    scratch = os.environ.get("CLIPNOTES_SCRATCH")
    file = Path(scratch) / f"ch02_pools_{count}.pt" if scratch else None
    if file and file.exists():
        return torch.load(file)
    pools = crowded(count, SEED), pool(count // 2, SEED + 1_000_000)
    if file:
        torch.save(pools, file)
    return pools


def part_main(args) -> None:
    clip, pools = load_clip("tiny"), shared_data()
    rows, tokens = [], None
    for seed in args.seeds:
        begun = time.process_time()
        model = fresh(seed, clip)
        tokens = tokens_of(model, pools[0][0]) if tokens is None else tokens
        train_decoder(model, seed, tokens, pools[0][1], base_words(), args.steps)
        before = report(model, n=40)
        train_all(model, seed, pools, base_words(), args.more)
        minutes = round((time.process_time() - begun) / 60, 1)
        images = 32 * (args.steps + args.more)
        row = dict(seed=seed, minutes=minutes, images=images, masks=len(pools[0][1]) + len(pools[1][1]))
        card = dict(program="tools/ch02_lseg.py", **row, **toy_world(), clip=clip.card.get("sha256", "tiny"))
        scratch = Path(os.environ.get("CLIPNOTES_SCRATCH", ROOT / "build"))
        where = MODEL if seed == 0 else scratch / f"ch02_lseg_{seed}.safetensors"
        lseg.save_lseg(model, where, card)
        row |= dict(decoder_only=before, **report(model, protocols=("scene", "episodes", "all")))
        rows.append(row)
        print(row, flush=True)
        record("main", rows, "python tools/ch02_lseg.py main")
        if seed == 0:
            log_run("ch02_lseg", MODEL, minutes, images, seed)


def tune(vectors_of, text_emb) -> tuple[float, float]:
    """The bias of the regions that is best on base names, on scenes of their own: (bias, mIoU)."""
    grid = [round(-0.2 + 0.05 * k, 2) for k in range(9)]
    scores = [measure(vectors_of, text_emb, "base", n=20, bias=b, seed=TUNE)["episodes"] for b in grid]
    best = max(range(len(grid)), key=lambda i: scores[i])
    return grid[best], scores[best]


def part_baselines(args) -> None:
    """CLIP's own patches, path and threshold tuned on base names; LSeg tuned alike; one and five shots."""
    clip, model = load_clip("tiny"), lseg.load_lseg()
    text_emb = class_embeddings(clip, toyworld.label_names(), ASKED)
    looks = dict(training=toyworld.TRAIN_STYLES, held_out=HELD_OUT)
    paths = {path: partial(nb.patch_vectors, clip, path=path) for path in ("value", "tokens")}
    tuned = {path: tune(vectors_of, text_emb) for path, vectors_of in paths.items()}
    best = max(paths, key=lambda path: tuned[path][1])
    raw = dict(name="raw", path=best, bias=tuned[best][0])
    ceiling = dict(name="ceiling")
    for split in ("base", "novel"):
        for look, styles in looks.items():
            raw[f"{split} {look}"] = measure(paths[best], text_emb, split, styles, bias=raw["bias"],
                                             protocols=("scene", "episodes", "all"))
            true = torch.cat([toyworld.label_map(b) for b in test_scenes(split, styles, 100)])
            ceiling[f"{split} {look}"] = nb.object_miou(nb.metrics.patch_ceiling(true, 8), true)
    raw["one_shot novel"] = one_shot(paths[best], text_emb, bias=raw["bias"])
    print(rounded(raw), rounded(ceiling), flush=True)
    record("baselines", [rounded(raw), rounded(ceiling)], "python tools/ch02_lseg.py baselines")
    vectors_of = partial(nb.pixel_vectors, model)
    ours = dict(name="lseg", bias=tune(vectors_of, text_emb)[0])
    for split in ("base", "novel"):
        ours[f"{split} training"] = measure(vectors_of, text_emb, split, bias=ours["bias"])
    ours |= {f"{word}_shot novel": one_shot(vectors_of, text_emb, shots=k) for word, k in (("one", 1), ("five", 5))}
    print(rounded(ours), flush=True)
    record("baselines", [rounded(row) for row in (raw, ours, ceiling)], "python tools/ch02_lseg.py baselines")


def learning_texts(clip, words: list[str]):
    """A text tower that is fine-tuned: a function that gives the words' vectors, and what it trains."""
    learnt = [p for k, p in clip.named_parameters() if not k.startswith(("visual", "logit_scale", "token_embedding"))]
    for p in learnt:
        p.requires_grad_(True)
    ids = [read_texts([fill(template, word) for word in words], clip) for template in TRAINED]

    def texts(g: torch.Generator) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return clip.encode_ids(ids[int(torch.randint(0, len(ids), (1,), generator=g))]).float()

    return texts, [dict(params=learnt, lr=1e-3)]


def part_text(args) -> None:
    """The text tower frozen or fine-tuned, by number of labelled pictures; the image encoder stays frozen here."""
    pools, rows, tokens = shared_data(), [], None
    for seed in args.seeds:
        for masks in args.masks:
            for kind in ("frozen", "fine-tuned"):
                begun, clip = time.process_time(), load_clip("tiny")
                model = fresh(seed, clip)
                tokens = tokens_of(model, pools[0][0]) if tokens is None else tokens
                texts, more = learning_texts(clip, base_words()) if kind == "fine-tuned" else (None, ())
                train_decoder(model, seed, tokens[:, :masks], pools[0][1][:masks], base_words(), args.short,
                              batch=16, texts=texts, more=more, say=0)
                row = dict(seed=seed, masks=masks, text=kind, minutes=round((time.process_time() - begun) / 60, 1),
                           **report(model, n=20, styles=dict(training=toyworld.TRAIN_STYLES)))
                rows.append(row)
                print(row, flush=True)
                record("text", rows, "python tools/ch02_lseg.py text")


def part_text_long(args) -> None:
    """The text tower fine-tuned for as long as the shipped model's decoder; to be compared with its `decoder_only`."""
    pools, rows, tokens = shared_data(), [], None
    for seed in args.seeds:
        begun, clip = time.process_time(), load_clip("tiny")
        model = fresh(seed, clip)
        tokens = tokens_of(model, pools[0][0]) if tokens is None else tokens
        texts, more = learning_texts(clip, base_words())
        train_decoder(model, seed, tokens, pools[0][1], base_words(), args.steps, texts=texts, more=more)
        rows.append(dict(seed=seed, minutes=round((time.process_time() - begun) / 60, 1), **report(model, n=40)))
        print(rows[-1], flush=True)
        record("text_long", rows, "python tools/ch02_lseg.py text_long")


def part_size(args) -> None:
    """Two encoders: the tiny CLIP's first three blocks, and all five; one-hot classes in place of words."""
    pools, clip = shared_data(), load_clip("tiny")
    text_emb = class_embeddings(clip, toyworld.label_names(), ASKED)
    shapes = {"three blocks": dict(layers=3, hooks=(0, 1, 2, 2)), "five blocks": {}}
    rows = []
    for name, shape in shapes.items():
        tokens = None
        for seed in args.seeds:
            begun = time.process_time()
            model = fresh_part(seed, clip, **shape)
            tokens = tokens_of(model, pools[0][0]) if tokens is None else tokens
            train_decoder(model, seed, tokens, pools[0][1], base_words(), args.short, batch=16, say=0)
            row = dict(seed=seed, encoder=name, minutes=round((time.process_time() - begun) / 60, 1),
                       **report(model, n=20, styles=dict(training=toyworld.TRAIN_STYLES)),
                       one_shot=round(one_shot(partial(nb.pixel_vectors, model), text_emb, n=20), 4))
            rows.append(row)
            print(row, flush=True)
            record("size", rows, "python tools/ch02_lseg.py size")


def fresh_part(seed: int, clip, layers: int = 5, **changes) -> lseg.LSeg:
    """As `fresh`; an encoder of fewer blocks starts from CLIP's first ones."""
    torch.manual_seed(seed)
    model = lseg.LSeg(lseg.LSegConfig(layers=layers, **changes), clip)
    own = model.pretrained.model.state_dict().keys()
    model.pretrained.model.load_state_dict({k: v for k, v in clip.visual.state_dict().items() if k in own})
    return model


def part_onehot(args) -> None:
    """Learnt class vectors in place of the words: an ordinary segmenter."""
    pools, clip, rows = shared_data(), load_clip("tiny"), []
    words, tokens = base_words(), None
    for seed in args.seeds:
        begun, model = time.process_time(), fresh(seed, clip)
        tokens = tokens_of(model, pools[0][0]) if tokens is None else tokens
        classes = torch.nn.Parameter(0.05 * torch.randn(len(words), 128))
        train_decoder(model, seed, tokens, pools[0][1], words, args.short, batch=16, texts=lambda g, c=classes: c,
                      more=[dict(params=[classes])], say=0)
        table = torch.zeros(len(toyworld.label_names()), 128)  # a name without masks has no vector at all
        table[nb.places(words)] = F.normalize(classes.detach(), dim=1)
        row = dict(seed=seed, minutes=round((time.process_time() - begun) / 60, 1), **{
            f"{split} training": rounded(measure(partial(nb.pixel_vectors, model), table, split, n=20))
            for split in ("base", "novel")})
        rows.append(row)
        print(row, flush=True)
        record("onehot", rows, "python tools/ch02_lseg.py onehot")


def few_names() -> tuple[list[str], list[str]]:
    """The 24 names of chapter 1's small towers: 16 get masks, 8 do not."""
    with safe_open(DATA / "ch01_clip.safetensors", "pt") as file:
        names = json.loads(file.metadata()["names"])
    return names[:16], names[16:]


def few_report(model, names: list[str], seed: int = TEST, n: int = 100) -> float:
    """mIoU on scenes of the names, which are the candidates together with the regions."""
    batch = toyworld.scenes(n, seed, names=names)
    words = names + REGIONS
    emb = class_embeddings(model.clip_pretrained, words, ASKED)
    true = toyworld.label_map(batch)
    if model.scratch.depth:
        with torch.no_grad():
            found = [nb.places(words)[model(part, emb).argmax(1)] for part in batch["images"].split(50)]
        return round(nb.object_miou(torch.cat(found), true), 4)
    found = nb.choose_words(nb.pixel_vectors(model, batch["images"]), emb, nb.places(words))
    return round(nb.object_miou(found, true), 4)


def part_start(args) -> None:
    """Where the image encoder starts: chapter 1's towers of equal budget (60,000 pictures), or at random."""
    clip, rows = load_clip("tiny"), []
    seen, unseen = few_names()
    pools = [crowded(1500, SEED, names=seen + unseen)]
    for seed in args.seeds:
        for start in ("clip", "supervised", "random"):
            begun = time.process_time()
            torch.manual_seed(seed)
            config = lseg.LSegConfig(layers=3, hooks=(0, 1, 2, 2), image_size=32)
            model = lseg.LSeg(config, clip)
            if start != "random":
                with safe_open(DATA / f"ch01_{start}.safetensors", "pt") as file:
                    own = model.pretrained.model.state_dict().keys()
                    model.pretrained.model.load_state_dict({k: file.get_tensor(k).float() for k in own})
            train_all(model, seed, pools, seen + REGIONS, args.few, lr=1e-3, decoder=3e-3, say=0)
            row = dict(seed=seed, start=start, base=few_report(model, seen), novel=few_report(model, unseen),
                       minutes=round((time.process_time() - begun) / 60, 1))
            rows.append(row)
            print(row, flush=True)
            record("start", rows, "python tools/ch02_lseg.py start")


def part_blocks(args) -> None:
    """The regularisation block by kind and depth, on 16 names; the image encoder stays frozen here."""
    clip, rows = load_clip("tiny"), []
    seen, unseen = few_names()
    images, maps = crowded(1500, SEED, names=seen + unseen)
    tokens = tokens_of(fresh(0, clip), images)
    kinds = [("none", 0), *((kind, depth) for kind in ("bottleneck", "depthwise") for depth in (1, 2, 4))]
    for seed in args.seeds:
        for block, depth in kinds:
            begun = time.process_time()
            model = fresh(seed, clip, block=block, depth=depth)
            train_decoder(model, seed, tokens, maps, seen + REGIONS, args.few, batch=16, pixels=0, say=0)
            row = dict(seed=seed, block=block, depth=depth, base=few_report(model, seen),
                       novel=few_report(model, unseen), minutes=round((time.process_time() - begun) / 60, 1))
            rows.append(row)
            print(row, flush=True)
            record("blocks", rows, "python tools/ch02_lseg.py blocks")


def main() -> None:
    parts = dict(main=part_main, baselines=part_baselines, text=part_text, text_long=part_text_long,
                 size=part_size, onehot=part_onehot, blocks=part_blocks, start=part_start)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=list(parts), default=list(parts))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=900, help="of the decoder alone")
    parser.add_argument("--more", type=int, default=200, help="of everything")
    parser.add_argument("--short", type=int, default=300, help="of the decoder in the comparisons")
    parser.add_argument("--few", type=int, default=100, help="on 16 names")
    parser.add_argument("--masks", type=int, nargs="+", default=[200, 5000])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in args.parts:
        parts[part](args)


if __name__ == "__main__":
    main()
