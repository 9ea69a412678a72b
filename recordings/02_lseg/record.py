"""Chapter 2's LSeg that ships, and the comparisons that are too long for its page.

Training is two steps. First the decoder alone learns on the tokens of the frozen CLIP, which are computed once; then
everything but the text tower learns, the image encoder with a small step. Masks exist for base names and regions; novel
things stand in the pictures and are ignored. Seed 0 of the study `main` ships as lseg.safetensors beside this program.
See recordings/runner.py for the command line.
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes import grammar, toyworld
from clipnotes.clip import CLIP, load_clip, read_texts
from clipnotes.lseg import TEMPERATURE, LSeg, LSegConfig, load_lseg, save_lseg, start_from_clip
from clipnotes.metrics import patch_ceiling
from clipnotes.prompts import class_embeddings, fill
from clipnotes.weights import load_weights, toy_world
from recordings.runner import Recorder
from recordings.tiny.train import log_run

TRAIN, TEST, TUNE = 60_000_000, 70_000_000, 69_000_000  # seeds of the scenes
MANY, FEW = 5000, 1500  # training scenes of the studies with all names, and of those with 24
TRAIN_TEMPLATES = grammar.TEMPLATES[:6]  # sentences around a name
REGIONS = list(grammar.REGIONS)
LOOKS = dict(training=toyworld.TRAIN_STYLES, held_out=(toyworld.HELD_OUT_STYLE,))

recorder = Recorder("02_lseg")
nb = recorder.chapter
half_precision = partial(torch.autocast, "cpu", dtype=torch.bfloat16)


# ---------------------------------------------------------------- data


def pool(n: int, seed: int, **options) -> tuple[Tensor, Tensor]:
    """Scenes as bytes n×3×96×96, and their label maps n×96×96."""
    images, maps = [], []
    for start in range(0, n, 250):
        batch = toyworld.scenes(min(250, n - start), seed + 1 + start, **options)
        images.append((batch["images"] * 255).round().byte())
        maps.append(toyworld.label_map(batch).short())
    return torch.cat(images), torch.cat(maps)


@cache
def crowded(n: int, names: tuple[str, ...] | None = None) -> tuple[Tensor, Tensor]:
    """Fuller scenes than those of the tests: more masks a picture."""
    return pool(n, TRAIN, objects=(4, 6), scale=(34, 50), names=names)


@cache
def plain(n: int) -> tuple[Tensor, Tensor]:
    """Scenes as in the tests."""
    return pool(n, TRAIN + 1_000_000)


def base_words() -> list[str]:
    return toyworld.names("base") + REGIONS


@cache
def few_names() -> tuple[list[str], list[str]]:
    """The 24 names of chapter 1's small towers: 16 get masks, 8 do not."""
    names = load_weights("01_clip/clip", "tower")[2]["names"]
    return names[:16], names[16:]


def vary(images: Tensor, labels: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
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


# ---------------------------------------------------------------- models


def fresh(seed: int, clip: CLIP, **changes) -> LSeg:
    """A new LSeg; its encoder starts from CLIP's image tower, one of fewer blocks from the first ones."""
    torch.manual_seed(seed)
    return start_from_clip(LSeg(LSegConfig(**changes), clip))


def small(seed: int, start: str) -> LSeg:
    """A small LSeg; its encoder starts from one of chapter 1's towers of equal budget, or at random."""
    clip = load_clip("tiny")
    torch.manual_seed(seed)
    model = LSeg(LSegConfig(layers=3, hooks=(0, 1, 2, 2), image_size=32), clip)
    if start != "random":
        tensors = load_weights(f"01_clip/{start}", "tower")[0]
        own = model.pretrained.model.state_dict().keys()
        model.pretrained.model.load_state_dict({k: tensors[k].float() for k in own})
    return model


@torch.no_grad()
def tokens_of(model: LSeg, images: Tensor) -> Tensor:
    """The hooked tokens of all pictures, 4×n×T×C in bfloat16: a frozen encoder is asked only once."""
    found = []
    for part in images.split(50):
        with half_precision():
            layers = model.pretrained.model.layers(model.clip_pretrained.standardise(part.float() / 255))
        found.append(torch.stack([layers[hook] for hook in model.config.hooks]).bfloat16())
    return torch.cat(found, 1)


@cache
def stored_tokens(n: int, names: tuple[str, ...] | None = None, layers: int = 5,
                  hooks: tuple[int, ...] = (1, 2, 3, 4)) -> Tensor:
    """The tokens of crowded scenes, kept for all runs of a study."""
    return tokens_of(fresh(0, load_clip("tiny"), layers=layers, hooks=hooks), crowded(n, names)[0])


# ---------------------------------------------------------------- training


def sampled_loss(model: LSeg, path_1: Tensor, labels: Tensor, text_emb: Tensor, g: torch.Generator,
                 pixels: int = 4000) -> Tensor:
    """Equation 2.2 on a random sample of the labelled pixels: the same in the mean, and much cheaper."""
    grid = (torch.arange(path_1.shape[-1]) * 95 / (path_1.shape[-1] - 1)).round().long()
    labels = labels[:, grid][:, :, grid]
    if not pixels:  # a block needs whole maps
        return nb.masked_loss(model.scratch.product(path_1.float(), text_emb), labels)
    labels = labels.flatten()
    some = (labels >= 0).nonzero()[:, 0]
    some = some[torch.randint(0, len(some), (pixels,), generator=g)]
    with half_precision():
        vectors = path_1.permute(0, 2, 3, 1).flatten(0, 2)[some]
        vectors = F.linear(vectors, model.scratch.head1.weight.flatten(1), model.scratch.head1.bias)
    logits = F.normalize(vectors.float(), dim=1) @ F.normalize(text_emb, dim=1).T / TEMPERATURE
    return F.cross_entropy(logits, labels[some])


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm up for 20 steps, then fall to zero."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / 20, 1) * (1 - s / steps) ** 0.9)


def fixed_texts(clip: CLIP, words: list[str]) -> Callable[[torch.Generator], Tensor]:
    """A function that gives the words' vectors K×D under a random template."""
    fixed = torch.stack([class_embeddings(clip, words, [t]) for t in TRAIN_TEMPLATES])
    return lambda g: fixed[torch.randint(0, len(fixed), (1,), generator=g)][0]


def learning_texts(clip: CLIP, words: list[str]) -> tuple[Callable[[torch.Generator], Tensor], dict]:
    """A text tower that is fine-tuned: a function that gives the words' vectors, and what it trains."""
    learnt = [p for k, p in clip.named_parameters() if not k.startswith(("visual", "logit_scale", "token_embedding"))]
    for p in learnt:
        p.requires_grad_(True)
    ids = [read_texts([fill(template, word) for word in words], clip) for template in TRAIN_TEMPLATES]

    def texts(g: torch.Generator) -> Tensor:
        with half_precision():
            return clip.encode_ids(ids[int(torch.randint(0, len(ids), (1,), generator=g))]).float()

    return texts, dict(params=learnt, lr=1e-3)


def train_decoder(model: LSeg, seed: int, tokens: Tensor, maps: Tensor, words: list[str], steps: int, *,
                  batch: int = 32, texts: Callable[[torch.Generator], Tensor] | None = None,
                  more: Sequence[dict] = (), pixels: int = 4000) -> float:
    """Step 1. `texts`: a function of the generator that gives K×D vectors; `more`: what else it trains.

    Returns the last loss.
    """
    g = torch.Generator().manual_seed(seed)
    column = nb.label_column(words)
    texts = texts or fixed_texts(model.clip_pretrained, words)
    groups = [dict(params=nb.decoder_weights(model)), *more]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.02)
    plan = schedule(optimizer, steps)
    model.train()
    for _ in range(steps):
        pick = torch.randint(0, len(maps), (batch,), generator=g)
        with half_precision():
            path_1 = nb.path_from(model, tokens[:, pick].float())
        loss = sampled_loss(model, path_1, column[maps[pick].long()], texts(g), g, pixels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
    model.eval()
    return loss.item()


def train_all(model: LSeg, seed: int, pools: list[tuple[Tensor, Tensor]], words: list[str], steps: int, *,
              batch: int = 32, decoder_lr: float = 1e-3) -> float:
    """Step 2: image encoder and decoder together; Muon for the blocks' matrices, AdamW for the rest.

    Returns the last loss.
    """
    g = torch.Generator().manual_seed(1000 + seed)
    column, texts, lr = nb.label_column(words), fixed_texts(model.clip_pretrained, words), 1e-3
    encoder = list(model.pretrained.model.named_parameters())
    matrices = [p for k, p in encoder if "resblocks" in k and p.ndim == 2]
    others = [p for k, p in encoder if not ("resblocks" in k and p.ndim == 2)]
    groups = [dict(params=nb.decoder_weights(model), lr=decoder_lr), dict(params=others, lr=lr / 2)]
    optimizers = [torch.optim.AdamW(groups, weight_decay=0.02),
                  torch.optim.Muon(matrices, lr=lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")]
    plans = [schedule(optimizer, steps) for optimizer in optimizers]
    model.train()
    for step in range(steps):
        images, maps = pools[step % len(pools)]
        pick = torch.randint(0, len(maps), (batch,), generator=g)
        x, labels = vary(images[pick].float() / 255, column[maps[pick].long()], g)
        with half_precision():
            path_1 = model.path_1(x)
        loss = sampled_loss(model, path_1, labels, texts(g), g)
        model.zero_grad()
        loss.backward()
        for part in (*optimizers, *plans):
            part.step()
    model.eval()
    return loss.item()


# ---------------------------------------------------------------- measuring


@cache
def test_scenes(split: str, styles: tuple[str, ...], n: int, seed: int = TEST) -> list[dict]:
    """Five episodes of n scenes, the same for every model."""
    return toyworld.episodes(split, 5, n, seed, styles=styles)


def measure(vectors_of: Callable[[Tensor], Tensor], text_emb: Tensor, split: str,
            styles: tuple[str, ...] = toyworld.TRAIN_STYLES, n: int = 100, protocols: Sequence[str] = ("episodes",),
            bias: float = 0.0, words_of: Callable[[int, Tensor], Tensor] | None = None,
            seed: int = TEST) -> dict[str, float]:
    """mIoU of each protocol: the names in the scene, the 20 of its episode, all names of the split."""
    found: dict[str, list[Tensor]] = {p: [] for p in protocols}
    true = []
    ground = nb.label_ids(REGIONS)
    for number, batch in enumerate(test_scenes(split, styles, n, seed)):
        vectors = vectors_of(batch["images"])
        true.append(toyworld.label_map(batch))
        for protocol in protocols:
            names = toyworld.names(split) if protocol == "all" else batch["candidates"]
            ids = torch.cat([nb.label_ids(names), ground])
            emb = words_of(number, ids) if words_of else text_emb[ids]
            allowed = None
            if protocol == "scene":
                allowed = (ids[None, :, None] == batch["labels"][:, None]).any(2) | (ids >= ground[0])
            found[protocol].append(nb.predict_words(vectors, emb, ids, allowed, bias))
    return {p: round(nb.object_miou(torch.cat(maps), torch.cat(true)), 4) for p, maps in found.items()}


def report(model: LSeg, n: int = 100, protocols: Sequence[str] = ("episodes",)) -> dict[str, dict]:
    """split -> look -> protocol -> mIoU: base and novel, artists of training and the held-out one."""
    text_emb = class_embeddings(model.clip_pretrained, toyworld.label_names(), nb.TEMPLATES)
    vectors_of = partial(nb.pixel_vectors, model)
    return {split: {look: measure(vectors_of, text_emb, split, styles, n, protocols) for look, styles in LOOKS.items()}
            for split in ("base", "novel")}


def short_report(model: LSeg, n: int = 20, table: Tensor | None = None) -> dict[str, float]:
    """base and novel: mIoU of five episodes of n scenes. `table`: vectors in place of the words'."""
    if table is None:
        table = class_embeddings(model.clip_pretrained, toyworld.label_names(), nb.TEMPLATES)
    vectors_of = partial(nb.pixel_vectors, model)
    return {split: measure(vectors_of, table, split, n=n)["episodes"] for split in ("base", "novel")}


def few_report(model: LSeg, names: list[str], n: int = 100) -> float:
    """mIoU on n scenes of the names, which are the candidates together with the regions."""
    batch = toyworld.scenes(n, TEST, names=names)
    words = names + REGIONS
    emb, ids = class_embeddings(model.clip_pretrained, words, nb.TEMPLATES), nb.label_ids(words)
    if model.scratch.depth:  # a block works on logits, so vectors alone do not give its answer
        with torch.no_grad():
            found = torch.cat([ids[model(part, emb).argmax(1)] for part in batch["images"].split(50)])
    else:
        found = nb.predict_words(nb.pixel_vectors(model, batch["images"]), emb, ids)
    return round(nb.object_miou(found, toyworld.label_map(batch)), 4)


def one_shot(vectors_of: Callable[[Tensor], Tensor], text_emb: Tensor, n: int = 100, shots: int = 1,
             bias: float = 0.0) -> float:
    """Novel episodes with a prototype in place of each name's text; the regions keep their words."""
    @cache
    def vectors(number: int) -> Tensor:
        names = test_scenes("novel", toyworld.TRAIN_STYLES, n)[number]["candidates"]
        return nb.prototypes(vectors_of, names, TEST + 100_000 * (number + 1), shots)

    def words_of(number: int, ids: Tensor) -> Tensor:
        return torch.cat([vectors(number), text_emb[ids[len(vectors(number)):]]])

    return measure(vectors_of, text_emb, "novel", n=n, words_of=words_of, bias=bias)["episodes"]


def tune(vectors_of: Callable[[Tensor], Tensor], text_emb: Tensor) -> tuple[float, float]:
    """The bias of the regions that is best on base names, on scenes of their own: (bias, mIoU)."""
    grid = [round(-0.2 + 0.05 * k, 2) for k in range(9)]
    scores = [measure(vectors_of, text_emb, "base", n=20, bias=b, seed=TUNE)["episodes"] for b in grid]
    best = max(range(len(grid)), key=lambda i: scores[i])
    return grid[best], scores[best]


# ---------------------------------------------------------------- the studies


@recorder.study(variants=("lseg",), recipe=dict(
    scenes=[MANY, MANY // 2], train=TRAIN, decoder_steps=900, steps=200, batch=32, decoder_lr=[3e-3, 1e-3], lr=1e-3,
    decay=0.02, test=TEST, episodes=[5, 100, 20]))
def main(variant: str, seed: int) -> dict:
    """The model that ships: masks for 210 names. `decoder_only`: before the image encoder was trained, too."""
    started = time.process_time()
    model, (_, maps) = fresh(seed, load_clip("tiny")), crowded(MANY)
    train_decoder(model, seed, stored_tokens(MANY), maps, base_words(), 900)
    before = report(model, n=40)
    train_all(model, seed, [crowded(MANY), plain(MANY // 2)], base_words(), 200)
    if seed == 0:
        ship(model, seed, (time.process_time() - started) / 60)
    return dict(decoder_only=before) | report(model, protocols=("scene", "episodes", "all"))


def ship(model: LSeg, seed: int, minutes: float) -> None:
    """The model of seed 0, beside this program."""
    images, path = 32 * (900 + 200), recorder.path.with_name("lseg.safetensors")
    about = dict(program="recordings/02_lseg/record.py", seed=seed, minutes=round(minutes, 1), images=images,
                 masks=MANY + MANY // 2)
    save_lseg(model, path, about | toy_world() | dict(clip=load_clip("tiny").card.get("sha256", "tiny")))
    log_run("02_lseg", path, minutes, images, seed)


@recorder.study(variants=("raw", "lseg", "ceiling"), seeds=1,
                recipe=dict(model="main:lseg:0", test=TEST, tune=TUNE, episodes=[5, 100, 20], patch=8))
def baselines(variant: str, seed: int) -> dict:
    """CLIP's own patches, path and threshold tuned on base names; LSeg tuned alike; one and five shots; the ceiling."""
    if variant == "ceiling":
        return {split: {look: ceiling(split, styles) for look, styles in LOOKS.items()} for split in ("base", "novel")}
    clip = load_clip("tiny")
    text_emb = class_embeddings(clip, toyworld.label_names(), nb.TEMPLATES)
    if variant == "lseg":
        vectors_of = partial(nb.pixel_vectors, load_lseg("02_lseg/lseg"))
        bias = tune(vectors_of, text_emb)[0]
        scores = {split: dict(training=measure(vectors_of, text_emb, split, bias=bias)) for split in ("base", "novel")}
        shots = dict(one_shot=one_shot(vectors_of, text_emb), five_shot=one_shot(vectors_of, text_emb, shots=5))
        return dict(bias=bias) | scores | shots
    paths = {path: partial(nb.patch_vectors, clip, path=path) for path in ("value", "tokens")}
    tuned = {path: tune(vectors_of, text_emb) for path, vectors_of in paths.items()}
    best = max(paths, key=lambda path: tuned[path][1])
    bias, protocols = tuned[best][0], ("scene", "episodes", "all")
    scores = {split: {look: measure(paths[best], text_emb, split, styles, protocols=protocols, bias=bias)
                      for look, styles in LOOKS.items()} for split in ("base", "novel")}
    return dict(path=best, bias=bias) | scores | dict(one_shot=one_shot(paths[best], text_emb, bias=bias))


def ceiling(split: str, styles: tuple[str, ...], n: int = 100) -> float:
    """The mIoU of one perfect label a patch."""
    true = torch.cat([toyworld.label_map(batch) for batch in test_scenes(split, styles, n)])
    return round(nb.object_miou(patch_ceiling(true, 8), true), 4)


SHORT = dict(train=TRAIN, steps=300, batch=16, lr=3e-3, decay=0.02, test=TEST, episodes=[5, 20, 20])
TEXTS = {"frozen_200": 200, "tuned_200": 200, "frozen_5000": MANY, "tuned_5000": MANY}


@recorder.study(variants=tuple(TEXTS), recipe=lambda variant: SHORT | dict(scenes=TEXTS[variant]))
def text(variant: str, seed: int) -> dict:
    """The text tower frozen or fine-tuned, by number of labelled pictures; the image encoder stays frozen here."""
    clip, n = load_clip("tiny"), TEXTS[variant]
    model = fresh(seed, clip)
    texts, group = learning_texts(clip, base_words()) if variant.startswith("tuned") else (None, None)
    train_decoder(model, seed, stored_tokens(MANY)[:, :n], crowded(MANY)[1][:n], base_words(), 300, batch=16,
                  texts=texts, more=[group] if group else ())
    return short_report(model)


@recorder.study(variants=("tuned",), recipe=SHORT | dict(steps=900, batch=32, scenes=MANY, episodes=[5, 40, 20]))
def text_long(variant: str, seed: int) -> dict:
    """The text tower fine-tuned for as long as the shipped model's decoder; to be compared with its `decoder_only`."""
    clip = load_clip("tiny")
    model = fresh(seed, clip)
    texts, group = learning_texts(clip, base_words())
    train_decoder(model, seed, stored_tokens(MANY), crowded(MANY)[1], base_words(), 900, texts=texts, more=[group])
    return report(model, n=40)


@recorder.study(variants=("list",), recipe=SHORT | dict(scenes=MANY))
def onehot(variant: str, seed: int) -> dict:
    """Learnt class vectors in place of the words: an ordinary segmenter."""
    model, words = fresh(seed, load_clip("tiny")), base_words()
    classes = class_vectors(words)
    train_decoder(model, seed, stored_tokens(MANY), crowded(MANY)[1], words, 300, batch=16,
                  texts=lambda g: classes, more=[dict(params=[classes])])
    return short_report(model, table=class_table(words, classes))


def class_vectors(words: list[str]) -> nn.Parameter:
    return nn.Parameter(0.05 * torch.randn(len(words), 128))


def class_table(words: list[str], classes: Tensor) -> Tensor:
    """A vector for each label of the toy world; a name without masks has none at all."""
    table = torch.zeros(len(toyworld.label_names()), 128)
    table[nb.label_ids(words)] = F.normalize(classes.detach(), dim=1)
    return table


ENCODERS = dict(three_blocks=dict(layers=3, hooks=(0, 1, 2, 2)), five_blocks=dict(layers=5, hooks=(1, 2, 3, 4)))


@recorder.study(variants=tuple(ENCODERS), seeds=1, recipe=lambda variant: SHORT | dict(scenes=MANY) | ENCODERS[variant])
def size(variant: str, seed: int) -> dict:
    """Two encoders: the tiny CLIP's first three blocks, and all five."""
    clip, shape = load_clip("tiny"), ENCODERS[variant]
    model = fresh(seed, clip, **shape)
    train_decoder(model, seed, stored_tokens(MANY, **shape), crowded(MANY)[1], base_words(), 300, batch=16)
    text_emb = class_embeddings(clip, toyworld.label_names(), nb.TEMPLATES)
    return short_report(model) | dict(one_shot=one_shot(partial(nb.pixel_vectors, model), text_emb, n=20))


BLOCKS = {"none": dict(block="none", depth=0)} | {
    f"{kind}_{depth}": dict(block=kind, depth=depth) for kind in ("bottleneck", "depthwise") for depth in (1, 2, 4)}
FEW_NAMES = dict(names=[16, 8], scenes=FEW, train=TRAIN, decay=0.02, test=TEST, tests=100)


@recorder.study(variants=tuple(BLOCKS),
                recipe=lambda variant: FEW_NAMES | BLOCKS[variant] | dict(steps=100, batch=16, lr=3e-3))
def blocks(variant: str, seed: int) -> dict:
    """The regularisation block by kind and depth, on 16 names; the image encoder stays frozen here."""
    seen, unseen = few_names()
    names, words = tuple(seen + unseen), seen + REGIONS
    model = fresh(seed, load_clip("tiny"), **BLOCKS[variant])
    train_decoder(model, seed, stored_tokens(FEW, names), crowded(FEW, names)[1], words, 100, batch=16, pixels=0)
    return dict(base=few_report(model, seen), novel=few_report(model, unseen))


@recorder.study(variants=("clip", "supervised", "random"),
                recipe=FEW_NAMES | dict(steps=80, batch=32, lr=1e-3, decoder_lr=3e-3, layers=3))
def start(variant: str, seed: int) -> dict:
    """Where the image encoder starts: chapter 1's towers of equal budget (60,000 pictures), or at random."""
    seen, unseen = few_names()
    model = small(seed, variant)
    train_all(model, seed, [crowded(FEW, tuple(seen + unseen))], seen + REGIONS, 80, decoder_lr=3e-3)
    return dict(base=few_report(model, seen), novel=few_report(model, unseen))


# ---------------------------------------------------------------- the probe


@recorder.probe
def probe() -> dict:
    """Three steps of each kind of training and a small measurement of each kind."""
    names, clip = tuple(toyworld.names("base")[:6]), load_clip("tiny")
    words, (images, maps) = [*names[:4], *REGIONS], crowded(16, names)  # two names have no masks
    train = partial(train_decoder, seed=0, maps=maps, words=words, steps=3, batch=4)
    found = probe_measures(load_lseg("02_lseg/lseg", clip))
    for study, shape in dict(blocks=BLOCKS["bottleneck_2"], size=ENCODERS["three_blocks"], main={}).items():
        model = fresh(0, clip, **shape)
        tokens = tokens_of(model, images)
        found[f"{study}.decoder_loss"] = train(model, tokens=tokens, pixels=0 if study == "blocks" else 500)
    found["main.loss"] = train_all(model, 0, [(images, maps), plain(4)], words, 3, batch=4)
    classes = class_vectors(words)
    found["onehot.loss"] = train(fresh(0, clip), tokens=tokens, texts=lambda g: classes, more=[dict(params=[classes])])
    found["onehot.vectors"] = class_table(words, classes).sum()
    found["start.loss"] = train_all(small(0, "clip"), 0, [(images, maps)], words, 3, batch=4)
    texts, group = learning_texts(clip, words)  # from here on this CLIP is another one
    found["text.loss"] = train(fresh(0, clip), tokens=tokens, texts=texts, more=[group])
    return found | {"text_long.loss": found["text.loss"]}


def probe_measures(model: LSeg) -> dict:
    """What the studies measure, on few scenes, of the model that ships."""
    clip = model.clip_pretrained
    text_emb = class_embeddings(clip, toyworld.label_names(), nb.TEMPLATES)
    ours, raw = partial(nb.pixel_vectors, model), partial(nb.patch_vectors, clip, path="tokens")
    protocols = ("scene", "episodes", "all")
    found = {f"main.{p}": v for p, v in measure(ours, text_emb, "novel", n=1, protocols=protocols).items()}
    found["baselines.raw"] = measure(raw, text_emb, "base", n=1, bias=0.05)["episodes"]
    found["baselines.one_shot"] = nb.prototypes(ours, toyworld.names("novel")[:3], TEST).sum()
    found["baselines.ceiling"] = ceiling("novel", LOOKS["held_out"], n=1)
    blocked = fresh(0, clip, **BLOCKS["bottleneck_1"])
    blocked.load_state_dict(model.state_dict(), strict=False)
    nn.init.constant_(blocked.scratch.head_block.depthwise.depthwise.weight, 1 / 9)  # a mean over neighbours
    for study, some in dict(start=model, blocks=blocked.eval()).items():
        found[f"{study}.few"] = few_report(some, toyworld.names("base")[:6], n=4)
    batch, words, g = toyworld.scenes(4, TEST), base_words(), torch.Generator().manual_seed(0)
    labels, word_emb = nb.training_labels(batch, words), text_emb[nb.label_ids(words)]
    with torch.no_grad():
        path_1 = model.path_1(batch["images"])
        for study, pixels in dict(main=500, blocks=0).items():  # novel things stand in the scenes, ignored
            found[f"{study}.shipped_loss"] = sampled_loss(model, path_1, labels, word_emb, g, pixels)
    return found


if __name__ == "__main__":
    sys.exit(recorder.main())
