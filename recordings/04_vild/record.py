"""Chapter 4's detectors that ship, and the comparisons that are too long for its page.

Every detector begins from one trunk and one first layer of the head, `start/trunk.safetensors`, as detectors begin from
ImageNet's: `pretrain` taught them to name what stands in given places of crowded pictures of the toy world's 210 base
names, never a rare one. From it a first stage (proposals, boxes, masks) is trained once a seed. The M proposals of the
training pictures and CLIP's vectors of them come from the first stage of seed 0, and are kept in build/04_vild. Each
variant trains a head on the first stage's features, and then everything together. On a processor with bfloat16 the
networks use it in training; tests are in float32. See recordings/runner.py for the command line.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from clipnotes import grammar, metrics, toyworld
from clipnotes.clip import CLIP, load_clip
from clipnotes.pictures import open_picture
from clipnotes.prompts import class_embeddings
from clipnotes.toyworld import batch_seed, detection
from clipnotes.weights import load_weights, save_weights, stored, toy_world
from recordings.runner import Recorder

TRAIN, TEST, TUNE, CROWD = 80, 81, 82, 70  # of the pictures' seeds
SCENES, TESTS, FEW = 4000, 1500, 300
TEMPLATES = grammar.TEMPLATES[:6] + grammar.STYLE_TEMPLATES["crop"]
LOOKS = dict(training=toyworld.TRAIN_STYLES, held_out=(toyworld.HELD_OUT_STYLE,))
BASE = (torch.arange(120) < detection.BASE).float()
HERE = Path(__file__).resolve().parent
TRUNK = HERE / "start" / "trunk.safetensors"  # stays when the library travels: no page reads it
KEPT = HERE.parents[1] / "build" / "04_vild"

recorder = Recorder("04_vild")
nb = recorder.chapter


def half() -> AbstractContextManager:
    """bfloat16 where the processor has it: elsewhere it is ten times slower than float32."""
    quick = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", dtype=torch.bfloat16) if quick else nullcontext()


class Quick(nb.Detector):
    """The chapter's detector, trained in bfloat16; its losses and its tests are in float32."""

    def look(self, images: Tensor) -> list[Tensor]:
        with half() if self.training else nullcontext():
            return [v.float() for v in super().look(images.contiguous(memory_format=torch.channels_last))]

    def name(self, *inputs: Tensor) -> list[Tensor]:
        with half() if self.training else nullcontext():
            return [v.float() for v in super().name(*inputs)]

    def draw(self, *inputs: Tensor) -> Tensor:
        with half() if self.training else nullcontext():
            return super().draw(*inputs).float()


# ---------------------------------------------------------------- data


def pool(n: int, seed: int, **options) -> dict[str, Tensor]:
    """Pictures as bytes and what stands in them, in parts of 250: the first pictures do not depend on n."""
    keys, parts = ("images", "boxes", "categories", "crowd", "areas", "object_map", "tints"), []
    for i in range(0, n, 250):
        part = detection.scenes(min(250, n - i), batch_seed(seed, i), **options)
        part["images"] = (part["images"] * 255).round().byte()
        part["object_map"] = part["object_map"].char()
        parts.append([part[key] for key in keys])
    return {key: torch.cat(values) for key, values in zip(keys, zip(*parts, strict=True), strict=True)}


@cache
def training_pictures(n: int = SCENES) -> dict[str, Tensor]:
    return pool(n, TRAIN, tail=True)


@cache
def test_pictures(look: str = "training", n: int | None = None, seed: int = TEST) -> dict[str, Tensor]:
    """Those of the artists of the training, or fewer of EmojiTwo's."""
    return pool(n or (TESTS if look == "training" else FEW), seed, styles=LOOKS[look])


def real_ones(data: dict[str, Tensor], marked: int = 0) -> Tensor:
    """B×G: the objects whose boxes and names a detector is given."""
    return detection.annotated(data["categories"], marked) & ~data["crowd"]


@cache
def clip() -> CLIP:
    return load_clip("tiny").requires_grad_(False)


def quick_clip() -> SimpleNamespace:
    """CLIP's image tower in bfloat16: for thousands of crops."""
    def encode_image(images: Tensor) -> Tensor:
        with half():
            return clip().encode_image(images).float()

    return SimpleNamespace(encode_image=encode_image)


@cache
def names_emb(names: tuple[str, ...] | None = None, templates: tuple[str, ...] = tuple(TEMPLATES)) -> Tensor:
    """The names' vectors K×E; all 120 names where None."""
    return class_embeddings(clip(), list(names or detection.names()), list(templates))


def mirrored(batch: dict[str, Tensor], flip: Tensor) -> dict[str, Tensor]:
    """The pictures where flip (n bool) is True mirrored. A crop's vector is taken to stay as it is."""
    batch, side = dict(batch), batch["images"].shape[-1]
    for key in ("images", "object_map"):
        lines = flip.view(-1, *[1] * (batch[key].ndim - 1))
        batch[key] = torch.where(lines, batch[key].flip(-1), batch[key])
    for key in {"boxes", "crops"} & set(batch):
        x0, y0, x1, y1 = batch[key].unbind(-1)
        turned = torch.stack([side - x1, y0, side - x0, y1], -1)
        empty = batch[key].amax(-1, keepdim=True) == 0  # padding stays
        batch[key] = torch.where(flip[:, None, None] & ~empty, turned, batch[key])
    return batch


def doubled(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """The pictures, and after them all of them mirrored."""
    other = mirrored(data, torch.ones(len(data["images"]), dtype=torch.bool))
    return {key: torch.cat([value, other[key]]) for key, value in data.items()}


# ---------------------------------------------------------------- training


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, plan: torch.optim.lr_scheduler.LRScheduler,
            longest: float) -> None:
    """One step on all that the optimizer holds, its gradient at most so long."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], longest)
    optimizer.step()
    plan.step()


def weighed(losses: dict[str, Tensor], shares: dict[str, float] | None) -> Tensor:
    """Their sum; shares: of losses that are not 1."""
    return sum((shares or {}).get(name, 1.0) * value for name, value in losses.items())


def batches(data: dict[str, Tensor], steps: int, g: torch.Generator, size: int = 16,
            weights: Tensor | None = None) -> Iterator[dict[str, Tensor]]:
    """`steps` batches of pictures, drawn alike or with weights."""
    share = torch.ones(len(data["images"])) if weights is None else weights
    for _ in range(steps):
        pick = torch.multinomial(share, size, True, generator=g)
        batch = {key: value[pick] for key, value in data.items()}
        batch["images"] = batch["images"].float() / 255
        yield mirrored(batch | dict(boxes=batch["boxes"].float()), torch.rand(size, generator=g) < 0.5)


def fit(model: nn.Module, data: dict[str, Tensor], text_emb: Tensor, steps: int, seed: int, *, lr: float = 1e-3,
        weights: Tensor | None = None, shares: dict[str, float] | None = None,
        say: Callable[[int, dict], None] | None = None) -> nn.Module:
    """Train by the chapter's losses; what was trained before learns half as fast. shares: of losses that are not 1."""
    torch.manual_seed(seed + 1)
    g = torch.Generator().manual_seed(seed)
    slow = [*model.trunk.parameters(), *model.proposer.parameters()]
    quick = [*model.head.parameters(), *model.masker.parameters()]
    quick += [text_emb] if isinstance(text_emb, nn.Parameter) else []
    optimizer = torch.optim.AdamW([dict(params=slow), dict(params=quick)], lr=lr, weight_decay=0.02)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, [lr / 2, lr], steps, pct_start=0.1)
    model.train()
    for step, batch in enumerate(batches(data, steps, g, weights=weights)):
        losses = nb.detector_losses(model, batch, text_emb)
        descend(weighed(losses, shares), optimizer, plan, 10.0)
        if say:
            say(step, {name: value.item() for name, value in losses.items()})
    return model.eval()


def fresh(seed: int, separate: bool = False) -> nn.Module:
    """A new detector on the shared trunk."""
    torch.manual_seed(seed)
    model = Quick(separate)
    tensors = load_weights(TRUNK, "trunk")[0]
    places = {"trunk": [model.trunk], "fc6": [model.head.tower.fc6]}
    if separate:
        places["fc6"].append(model.head.image_tower.fc6)
    for place, modules in places.items():
        state = {key.removeprefix(f"{place}."): value for key, value in tensors.items() if key.startswith(f"{place}.")}
        for module in modules:
            module.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------- the trunk that all begin with


PRETRAIN = dict(steps=4000, batch=16, part=250, parts=8, every=4, lr=2e-3, decay=0.05, smoothing=0.05,
                objects=(6, 9), scale=(12, 50))


@cache
def crowd(number: int) -> dict[str, Tensor]:
    """One of the parts that crowded pictures of the base names are rendered in."""
    options = dict(names=toyworld.names("base"), objects=PRETRAIN["objects"], scale=PRETRAIN["scale"])
    return pool(PRETRAIN["part"], CROWD + 1 + number, **options)


def naming_loss(trunk: nn.Module, tower: nn.Module, batch: dict[str, Tensor], g: torch.Generator) -> Tensor:
    """What stands in each given box, a little moved?"""
    here = (batch["categories"] >= 0) & ~batch["crowd"]
    box = batch["boxes"]
    box = box + 0.2 * (torch.rand(box.shape, generator=g) - 0.5) * (box[..., 2:] - box[..., :2]).repeat(1, 1, 2)
    with half():
        features = trunk(batch["images"].contiguous(memory_format=torch.channels_last))
        regions = nb.boxes.roi_align(features.float(), box, 7, 1 / nb.STRIDE)[here]
        logits = tower(regions).float()
    return F.cross_entropy(logits, batch["categories"][here], label_smoothing=PRETRAIN["smoothing"])


def pretrain(steps: int = PRETRAIN["steps"], out: Path = TRUNK) -> None:
    """Train the trunk. Stopped, it goes on from build/04_vild/trunk.safetensors, which is written every 200 steps."""
    torch.manual_seed(0)
    g, state = torch.Generator().manual_seed(0), KEPT / "trunk.safetensors"
    trunk, names = nb.Trunk().to(memory_format=torch.channels_last), len(toyworld.names("base"))
    tower = nn.Sequential(nn.Flatten(), nn.Linear(64 * 49, 256), nn.ReLU(), nn.Linear(256, names))
    both = nn.ModuleList([trunk, tower])
    optimizer = torch.optim.AdamW(both.parameters(), lr=PRETRAIN["lr"], weight_decay=PRETRAIN["decay"])
    plan = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / 50, 1, (1 - s / steps) / 0.7))
    begin = resumed(state, both, optimizer, plan, g)
    for step in range(begin, steps):
        first = step * PRETRAIN["batch"] // (PRETRAIN["every"] * PRETRAIN["part"])
        parts = [crowd(number) for number in range(first, first + PRETRAIN["parts"])]
        where = torch.randint(0, len(parts), (PRETRAIN["batch"],), generator=g).tolist()
        row = torch.randint(0, PRETRAIN["part"], (PRETRAIN["batch"],), generator=g).tolist()
        batch = {key: torch.stack([parts[i][key][j] for i, j in zip(where, row, strict=True)]) for key in parts[0]}
        batch |= dict(images=batch["images"].float() / 255, boxes=batch["boxes"].float())
        loss = naming_loss(trunk, tower, mirrored(batch, torch.rand(len(row), generator=g) < 0.5), g)
        descend(loss, optimizer, plan, 5.0)
        if step % 200 == 199:
            keep(state, both, optimizer, g, step + 1)
            print(f"{step + 1} of {steps} steps, loss {loss.item():.3f}", flush=True)
    card = dict(recipe=PRETRAIN) | toy_world(detection=True)
    weights = {f"trunk.{key}": value for key, value in trunk.state_dict().items()}
    weights |= {f"fc6.{key}": value for key, value in tower[1].state_dict().items()}
    save_weights(stored(weights), out, "trunk", {}, card)


def keep(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, g: torch.Generator, step: int) -> None:
    """Write what a training needs to go on as if it had not been stopped."""
    tensors = {f"weights.{key}": value.contiguous() for key, value in module.state_dict().items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value.contiguous() for key, value in slots.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(tensors | dict(generator=g.get_state()), path, "state of the trunk", dict(step=step), {})


def resumed(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, plan: torch.optim.lr_scheduler.LRScheduler,
            g: torch.Generator) -> int:
    """Read what `keep` wrote; the step to go on with, 0 where nothing was kept."""
    if not path.exists():
        return 0
    tensors, config, _ = load_weights(path, "state of the trunk")
    module.load_state_dict({key.removeprefix("weights."): value for key, value in tensors.items()
                            if key.startswith("weights.")})
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            slots.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | dict(state=slots))
    plan.last_epoch = config["step"] - 1
    plan.step()
    g.set_state(tensors["generator"])
    return config["step"]


# ---------------------------------------------------------------- first stage, teacher


FIRST = dict(steps=300, batch=16, lr=2e-3, scenes=SCENES, data=TRAIN)
NAMELESS = {"class": 0.0}


def first_stage(seed: int, steps: int = FIRST["steps"]) -> nn.Module:
    """Proposals, boxes and masks from the base's boxes; no name is learned. Kept in build/04_vild."""
    model, path = fresh(seed), KEPT / f"first_{seed}_{steps}.safetensors"
    if path.exists():
        model.load_state_dict(load_weights(path, "first stage")[0])
        return model.eval()
    data = training_pictures()
    fit(model, data | dict(real=real_ones(data)), names_emb()[:detection.BASE], steps, seed, lr=FIRST["lr"],
        shares=NAMELESS)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights({key: value.contiguous() for key, value in model.state_dict().items()}, path, "first stage", FIRST, {})
    if (seed, steps) == (0, FIRST["steps"]):
        card = dict(variant="first stage", seed=seed, recipe=FIRST) | toy_world(detection=True)
        save_weights(stored(model.state_dict()), HERE / "first.safetensors", "detector", {}, card)
    return model


@torch.no_grad()
def proposed(model: nn.Module, images: Tensor, keep: int = 50) -> tuple[Tensor, Tensor]:
    """Boxes n×keep×4 and scores n×keep of pictures in bytes."""
    parts = []
    for part in images.split(50):
        _, objectness, codes = model.look(part.float() / 255)
        parts.append(nb.propose(objectness, codes, nb.anchors(part.shape[-1]), part.shape[-1], keep))
    boxes, scores = zip(*parts, strict=True)
    return torch.cat(boxes), torch.cat(scores)


def teacher(most: int = 20) -> dict[str, Tensor]:
    """crops n×most×4 (zeros: fewer were proposed) and CLIP's vectors of them, loaded from disk where they are there."""
    def make(first: int, last: int) -> dict[str, Tensor]:
        images = training_pictures()["images"][first:last]
        box, score = proposed(first_stage(0), images, most)
        found = [nb.clip_vectors(quick_clip(), part.float() / 255, here).half()
                 for part, here in zip(images.split(50), box.split(50), strict=True)]
        return dict(crops=torch.where(score.isfinite()[..., None], box, 0.0), crop_emb=torch.cat(found))

    recipe = dict(first=FIRST, most=most, clip="tiny") | toy_world(detection=True)
    return nb.teacher_vectors(KEPT / "teacher", SCENES, make, recipe)


# ---------------------------------------------------------------- the variants


TEXT, IMAGE, BOTH = dict(image=0.0), {"class": 0.0}, {}
# variant: shares of the losses, and the branch that names. The paper weighs the distance by 0.5 for unit vectors of 512
# numbers; the L1 length of a unit vector grows with the root of their number, so that is 1 for 128.
VARIANTS = dict(base=(TEXT, "text"), all=(TEXT, "text"), text=(TEXT, "text"), image=(IMAGE, "image"),
                vild=(BOTH, "text"), ensemble=({}, "ensemble"))
# first the head alone, on kept features; then everything together
HEADS = dict(head_steps=800, head_batch=32, head_lr=2e-3, steps=1200, batch=16, lr=1e-3, most=20)
SHORT = HEADS | dict(head_steps=400, steps=300)  # of the comparisons that need many runs


def repeats(data: dict[str, Tensor], real: Tensor) -> Tensor:
    """How often a picture is drawn, for its rarest name: the root of 2 % over the share of pictures that show it."""
    share = torch.stack([((data["categories"] == k) & real).any(1).float().mean() for k in range(120)])
    factor = (0.02 / share.clamp(min=1e-9)).sqrt().clamp(min=1)
    return torch.where(real, factor[data["categories"].clamp(min=0)], 1).amax(1)


@torch.no_grad()
def features_of(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What a first stage makes of pictures in bytes: features in bfloat16, 60 proposals and their scores."""
    parts = []
    for part in images.split(50):
        with half():
            features, objectness, codes = (v.float() for v in model.look(part.float() / 255))
        box, score = nb.propose(objectness, codes, nb.anchors(part.shape[-1]), part.shape[-1], 60)
        parts.append((features.bfloat16(), box, score))
    return dict(zip(("features", "found", "score"), map(torch.cat, zip(*parts, strict=True)), strict=True))


@cache
def seen(seed: int, key: str = "") -> dict[str, Tensor]:
    """The first stage's features of the training pictures, or of another set's, and of their mirror images."""
    images = (other_set(key, SETS[key][1], TRAIN + 1000) if key else training_pictures())["images"]
    return features_of(first_stage(seed), torch.cat([images, images.flip(3)]))


def fit_head(model: nn.Module, data: dict[str, Tensor], text_emb: Tensor, steps: int, seed: int, *,
             weights: Tensor | None = None, shares: dict[str, float] | None = None,
             say: Callable[[int, dict], None] | None = None) -> nn.Module:
    """Train the head on kept features; the first stage stays as it is. shares: of losses that are not 1."""
    lr, batch = HEADS["head_lr"], HEADS["head_batch"]
    torch.manual_seed(seed + 1)
    g = torch.Generator().manual_seed(seed)
    learned = [*model.head.parameters(), *([text_emb] if isinstance(text_emb, nn.Parameter) else [])]
    optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    share = torch.ones(len(data["boxes"])) if weights is None else weights
    keys = [key for key in data if key not in ("images", "object_map")]
    model.train()
    for step in range(steps):
        pick = torch.multinomial(share, batch, True, generator=g)
        part = {key: data[key][pick] for key in keys}
        part |= dict(boxes=part["boxes"].float(), features=part["features"].float())
        regions = nb.training_regions(part["found"], part["score"], part)
        losses = nb.second_stage(model, part["features"], regions, part, text_emb)
        descend(weighed(losses, shares), optimizer, plan, 10.0)
        if say:
            say(step, {name: value.item() for name, value in losses.items()})
    return model.eval()


def begun(seed: int, separate: bool = False) -> nn.Module:
    """A detector that knows what the first stage knows, and no name."""
    model, first = fresh(seed, separate), first_stage(seed)
    model.load_state_dict({key: value for key, value in first.state_dict().items() if not key.startswith("head.")},
                          strict=False)
    return model


def variant(name: str, seed: int, recipe: dict = HEADS, chosen: Tensor | None = None,
            keep_crops: Tensor | None = None) -> tuple[nn.Module, Tensor]:
    """A trained variant, and the vectors of the names that it can say: all 120, or the base's where it learned these.

    chosen: the pictures that it sees, all where None; keep_crops: n×M bool, the crops that teach.
    """
    shares, data, most = VARIANTS[name][0], training_pictures(), recipe["most"]
    real = real_ones(data, detection.MARKED if name == "all" else 0)
    data = data | dict(real=real)
    if shares.get("image", 1.0):
        crops = teacher()["crops"][:, :most]
        crops = crops if keep_crops is None else torch.where(keep_crops[:, :most, None], crops, 0.0)
        data |= dict(crops=crops, crop_emb=teacher()["crop_emb"][:, :most].float())
    names = names_emb()
    if name in ("base", "all"):  # supervised: the names' vectors are weights
        torch.manual_seed(seed + 2)
        names = 0.1 * torch.randn(120, 128)
    count = 120 if name == "all" else detection.BASE
    learned = nn.Parameter(names[:count].clone()) if name in ("base", "all") else names[:count]
    weights = repeats(data, real) if name == "all" else None
    model = trained(begun(seed, separate=name == "ensemble"), data, seen(seed), learned, seed, recipe, shares, weights,
                    chosen)
    # a supervised detector has no column for a name that nobody labelled: a random one would win here and there
    return model, learned.detach() if name in ("base", "all") else names


def trained(model: nn.Module, data: dict[str, Tensor], features: dict[str, Tensor], text_emb: Tensor, seed: int,
            recipe: dict, shares: dict[str, float], weights: Tensor | None = None,
            chosen: Tensor | None = None) -> nn.Module:
    """The head on kept features of the pictures and their mirror images, then everything together."""
    both = doubled(data) | features
    if chosen is not None:
        both = {key: value[torch.cat([chosen, chosen + len(data["images"])])] for key, value in both.items()}
        data = {key: value[chosen] for key, value in data.items()}
    twice = None if weights is None else weights.repeat(2)
    fit_head(model, both, text_emb, recipe["head_steps"], seed, weights=twice, shares=shares)
    return fit(model, data, text_emb, recipe["steps"], seed, lr=recipe["lr"], weights=weights, shares=shares)


# ---------------------------------------------------------------- tests


GROUPS = dict(all=range(120)) | detection.GROUPS


def precision(data: dict[str, Tensor], found: list[dict], names: int = 120,
              groups: dict[str, Sequence[int]] = GROUPS, draws: int = 200) -> dict:
    """Average precision of groups of names, and of `draws` resamples of the pictures, for paired intervals."""
    matches = metrics.match_boxes(detection.truth(data), found, names)
    values = {group: matches.ap(ranks) for group, ranks in groups.items()}
    if draws:
        values["drawn"] = {group: matches.resampled(ranks, draws).tolist() for group, ranks in groups.items()}
    return rounded(values)


def rounded(values: dict) -> dict:
    """Numbers to four places, however deep."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    return [rounded(v) for v in values] if isinstance(values, list) else round(float(values), 4)


def detected(model: nn.Module, data: dict[str, Tensor], text_emb: Tensor, branch: str, base: Tensor = BASE,
             teacher: SimpleNamespace | None = None) -> list[dict]:
    return [row for part in data["images"].split(250)
            for row in nb.detect(model, part.float() / 255, text_emb, branch, base, teacher)]


@torch.no_grad()
def true_boxes(model: nn.Module, data: dict[str, Tensor], text_emb: Tensor) -> dict[str, Tensor]:
    """Of each true object: its rank, the cosines of both branches with all names, the background's probability."""
    rows = []
    for at in range(0, len(data["images"]), 50):
        part = {key: value[at:at + 50] for key, value in data.items()}
        here = (part["categories"] >= 0) & ~part["crowd"]
        box = torch.where(here[..., None], part["boxes"].float(), torch.tensor([0.0, 0, 8, 8]))
        features = model.look(part["images"].float() / 255)[0]
        logits, _, emb = (value[here] for value in model.name(features, box, text_emb))
        rows.append((part["categories"][here], logits[:, 1:] / nb.SCALE, emb @ F.normalize(text_emb, dim=1).T,
                     logits.softmax(1)[:, 0], part["tints"][here], emb))
    keys = ("rank", "text", "image", "background", "tint", "emb")
    return {key: torch.cat(values) for key, values in zip(keys, zip(*rows, strict=True), strict=True)}


def naming(model: nn.Module, data: dict[str, Tensor], text_emb: Tensor, branch: str) -> dict:
    """Share of true boxes named right among all 120 names, and the background's probability: base and rare names."""
    seen = true_boxes(model, data, text_emb)
    right = seen["image" if branch == "image" else "text"].argmax(1) == seen["rank"]
    rare = seen["rank"] >= detection.BASE
    return rounded({key: dict(right=right[mask].float().mean(), background=seen["background"][mask].mean())
                    for key, mask in dict(base=~rare, rare=rare).items()})


def proposal_recall(model: nn.Module, data: dict[str, Tensor]) -> dict:
    """AR@50 of the base's objects and of rare ones, and their recall at an overlap of 0.5."""
    box, score = proposed(model, data["images"])
    found = [dict(boxes=b[s.isfinite()], scores=s[s.isfinite()], labels=torch.zeros(int(s.isfinite().sum())))
             for b, s in zip(box, score, strict=True)]
    rank, values = data["categories"], {}
    for key, kept in dict(base=(rank >= 0) & (rank < detection.BASE), rare=rank >= detection.BASE).items():
        matches = metrics.match_boxes(detection.truth(data, kept), found, 120, by_name=False, limit=50)
        values[key] = dict(ar=matches.recall(), half=matches.recall(0.5))
    return rounded(values)


# ---------------------------------------------------------------- the studies


ONE_TEMPLATE = ("a photo of {}",)


@recorder.study(variants=("base boxes",), recipe=FIRST | dict(test=TEST, pictures=TESTS))
def proposals(variant: str, seed: int) -> dict:
    """Recall of what is labelled and of what never is."""
    model = first_stage(seed)
    return {look: proposal_recall(model, test_pictures(look)) for look in LOOKS}


def heads_recipe(name: str) -> dict:
    about = FIRST | HEADS | dict(first_steps=FIRST["steps"], test=TEST, tests=TESTS, few=FEW)
    return about | (dict(shares=VARIANTS[name][0], branch=VARIANTS[name][1]) if name in VARIANTS else {})


@recorder.study(variants=(*VARIANTS, "crops"), recipe=heads_recipe)
def heads(name: str, seed: int) -> dict:
    """The six detectors, and CLIP on the crops of ViLD's proposals: average precision on both artists' pictures."""
    if name == "crops":
        model, names, branch = kept("vild", seed), names_emb(), "image"
    else:
        (model, names), branch = variant(name, seed), VARIANTS[name][1]
        save(model, name, seed)
    seer = quick_clip() if name == "crops" else None
    looks = LOOKS if name != "crops" else ("training",)
    values = {look: precision(test_pictures(look), detected(model, test_pictures(look), names, branch, teacher=seer),
                              draws=200 if look == "training" else 0) for look in looks}
    if name in ("text", "image", "vild", "ensemble"):
        values["naming"] = naming(model, test_pictures(), names, branch)
    if name == "vild":
        first = {key: value[:250] for key, value in test_pictures().items()}
        values["first_250"] = precision(first, detected(model, first, names, branch), draws=0)["all"]
        values["one_template"] = precision(
            test_pictures(), detected(model, test_pictures(), names_emb(None, ONE_TEMPLATE), branch), draws=0)
        values["transfer"] = {key: elsewhere(model, key) for key in SETS}
        values["tints"] = tints_named(model)
    if name in ("vild", "base"):
        values["masks"] = mask_precision(model, test_pictures("training", FEW), names, branch)
    return values


def save(model: nn.Module, name: str, seed: int) -> None:
    """Keep a trained detector in build/04_vild; ViLD and ViLD-text of seed 0 ship."""
    card = dict(variant=name, seed=seed, recipe=heads_recipe(name)) | toy_world(detection=True)
    tensors = stored(model.state_dict())
    save_weights(tensors, KEPT / f"{name}_{seed}.safetensors", "detector", {}, card)
    if seed == 0 and name in ("vild", "text"):
        save_weights(tensors, HERE / f"{name}.safetensors", "detector", {}, card)


def kept(name: str, seed: int) -> nn.Module:
    """A detector that `save` kept. FileNotFoundError where its run was made elsewhere: record it again."""
    model = Quick(separate=name == "ensemble")
    model.load_state_dict(load_weights(KEPT / f"{name}_{seed}.safetensors", "detector")[0])
    return model.eval()


def mask_precision(model: nn.Module, data: dict[str, Tensor], text_emb: Tensor, branch: str) -> float:
    """Average precision of masks over all names."""
    found = detected(model, data, text_emb, branch)
    for image, row in zip(data["images"], found, strict=True):
        with torch.no_grad():
            features = model.look(image[None].float() / 255)[0]
            masks = model.draw(features, row["boxes"][None])[0].sigmoid()
        row["masks"] = nb.boxes.paste_masks(masks, row["boxes"], image.shape[-1]) > 0.5
    return round(metrics.match_boxes(detection.truth(data), found, 120, masks=True).ap(), 4)


# Other names, another density, other sizes; a detector that is trained there sees so many pictures.
SETS = dict(small=(detection.small, 150), large=(detection.large, 1200))


@cache
def other_set(key: str, n: int, seed: int) -> dict[str, Tensor]:
    return pool(n, seed, **SETS[key][0]())


def elsewhere(model: nn.Module, key: str, text_emb: Tensor | None = None) -> float:
    """Average precision on another set; by the names' texts, or by vectors that were learned there."""
    names = tuple(SETS[key][0]()["names"])
    data = other_set(key, FEW, TEST + 1000)
    found = detected(model, data, names_emb(names) if text_emb is None else text_emb, "text", torch.ones(len(names)))
    return precision(data, found, len(names), {"all": range(len(names))}, draws=0)["all"]


@recorder.study(variants=tuple(SETS), recipe=lambda key: SHORT | dict(pictures=SETS[key][1], test=FEW))
def trained_there(key: str, seed: int) -> dict:
    """A supervised detector of the other set's names, from the same first stage."""
    count = len(SETS[key][0]()["names"])
    data = other_set(key, SETS[key][1], TRAIN + 1000)
    data = data | dict(real=(data["categories"] >= 0) & ~data["crowd"])
    torch.manual_seed(seed + 2)
    names = nn.Parameter(0.1 * torch.randn(count, 128))
    model = trained(begun(seed), data, seen(seed, key), names, seed, SHORT, TEXT)
    return dict(all=elsewhere(model, key, names.detach()))


# what teaches ViLD-image: so many proposals a picture; or ten, but only those on objects of the base; or ten, in
# pictures that hold no rare object, so that it never saw one
TAUGHT = {"1 proposal": 1, "3 proposals": 3, "10 proposals": 10, "20 proposals": 20, "on the base only": 10,
          "no rare object in sight": 10}


@recorder.study(variants=tuple(TAUGHT), recipe=lambda name: SHORT | dict(most=TAUGHT[name], test=FEW))
def taught(name: str, seed: int) -> dict:
    """ViLD-image by what its teacher told."""
    data, chosen, crops = training_pictures(), None, None
    if name == "no rare object in sight":
        chosen = no_rare_object()
    if name == "on the base only":
        table = nb.boxes.iou(teacher()["crops"][:, :, None], data["boxes"][:, None].float())
        crops = ((table > 0.5) & real_ones(data)[:, None]).any(2)
    model, names = variant("image", seed, SHORT | dict(most=TAUGHT[name]), chosen, crops)
    test = test_pictures("training", 2 * FEW)
    return precision(test, detected(model, test, names, "image"))


def no_rare_object() -> Tensor:
    """The training pictures in which no rare object stands."""
    return (training_pictures()["categories"] < detection.BASE).all(1).nonzero()[:, 0]


@recorder.study(variants=("with rare objects", "without"), recipe=SHORT | dict(test=FEW))
def background(name: str, seed: int) -> dict:
    """ViLD-text's background, where rare objects stood in its training pictures, unlabelled, and where none did."""
    chosen = no_rare_object() if name == "without" else None
    model, names = variant("text", seed, SHORT, chosen)
    return naming(model, test_pictures("training", 2 * FEW), names, "text")


# ---------------------------------------------------------------- without training


TINTED = 400  # pictures in which everything is tinted


def tints_named(model: nn.Module) -> dict:
    """Rare tinted objects: which tint of their own name is nearest? Beside it the commonest tint."""
    data = pool(TINTED, TEST + 2000, tints=1.0)
    names = [f"{tint} {name}" for name in detection.names() for tint in grammar.TINTS]
    seen = true_boxes(model, data, names_emb(tuple(names)))
    rare = (seen["rank"] >= detection.BASE) & (seen["tint"] >= 0)
    rank, tint, cosines = seen["rank"][rare], seen["tint"][rare], seen["text"][rare].unflatten(1, (120, -1))
    own = cosines[torch.arange(len(rank)), rank]  # of the tints of the object's own name
    return rounded(dict(right=(own.argmax(1) == tint).float().mean(), n=len(tint),
                        commonest=tint.bincount().max() / len(tint)))


@recorder.extra
def teacher_crops() -> dict:
    """The teacher on true boxes, by the size of its crops: share named right among all 120 names."""
    found = {}
    for look in LOOKS:
        data = test_pictures(look, FEW)
        here = (data["categories"] >= 0) & ~data["crowd"]
        box = torch.where(here[..., None], data["boxes"].float(), torch.tensor([0.0, 0, 8, 8]))
        right = {}
        for title, factors in {"1x": (1.0,), "1.5x": (1.5,), "1x and 1.5x": (1.0, 1.5)}.items():
            vectors = [nb.clip_vectors(clip(), part.float() / 255, at, factors)
                       for part, at in zip(data["images"].split(50), box.split(50), strict=True)]
            answers = (torch.cat(vectors) @ names_emb().T).argmax(-1)
            right[title] = (answers == data["categories"])[here].double()
        gain = right["1x and 1.5x"] - right["1x"]
        found[look] = rounded({title: value.mean() for title, value in right.items()})
        found[look] |= dict(things=len(gain), gain=rounded(list(metrics.bootstrap(gain))))
    return found


REAL = os.environ.get("CLIPNOTES_TEST_DATA")


def photographs() -> dict:
    """COCO's photographs, 128 pixels a side: things that a box overlaps by half, among proposals and spread anchors."""
    about = json.loads((Path(REAL) / "photos" / "coco.json").read_text("utf-8"))
    model, grid, hits = first_stage(0), nb.anchors(128), dict(proposals=[], anchors=[])
    spread = grid[torch.linspace(0, len(grid) - 1, 50).long()]
    for image in about["images"]:
        things = [a["bbox"] for a in about["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        if not things:
            continue
        picture = open_picture(Path(REAL) / "photos" / image["file_name"]).convert("RGB")
        scale = torch.tensor([128 / image["width"], 128 / image["height"]] * 2)
        low, side = torch.tensor(things).split(2, 1)
        true = torch.cat([low, low + side], 1) * scale
        small = torch.from_numpy(np.array(picture.resize((128, 128)))).permute(2, 0, 1)
        box, score = proposed(model, small[None])
        for title, boxes in dict(proposals=box[0][score[0].isfinite()], anchors=spread).items():
            best = nb.boxes.iou(true[:, None], boxes).amax(1)
            hits[title] += (best >= 0.5).tolist()
    recall = {title: sum(found) / len(found) for title, found in hits.items()}
    return dict(things=len(hits["anchors"]), photographs=len(about["images"]), recall=rounded(recall))


def lvis() -> dict:
    """The names of LVIS in CLIP's space: the pairs that lie nearest, and how near two names are in the mean."""
    folder = Path(REAL) / "clip_text"
    names = json.loads((folder / "lvis1203_names.json").read_text("utf-8"))
    emb = F.normalize(load_file(folder / "lvis1203.safetensors")["text_features"].float(), dim=1)
    head = nb.ViLDHead(8, 1, 0, 16, emb.shape[1])
    logits = head(torch.randn(4, 8, 1, 1, generator=torch.Generator().manual_seed(0)), emb)[0]
    cosines = (emb @ emb.T).fill_diagonal_(-1)
    best, place = cosines.triu(1).flatten().topk(8)
    names = [name.replace("_", " ") for name in names]
    pairs = [(names[i // len(names)], names[i % len(names)]) for i in place.tolist()]
    mean = cosines[cosines > -1].mean()
    return dict(names=len(names), logits=list(logits.shape), mean=round(float(mean), 3),
                pairs=[(*pair, round(value, 3)) for pair, value in zip(pairs, best.tolist(), strict=True)])


if REAL:  # data that the course may use, but does not ship
    recorder.extra(photographs)
    recorder.extra(lvis)


@recorder.probe
def probe() -> dict:
    """Two steps of a first stage, three of three heads on what it sees, a teacher of four crops a picture."""
    data, test = pool(16, TRAIN, tail=True), pool(8, TEST)
    data |= dict(real=real_ones(data))
    model, last = fresh(0), {}
    fit(model, data, names_emb()[:detection.BASE], 2, 0, shares=NAMELESS, say=lambda _, losses: last.update(losses))
    found = {f"proposals.{name}": last[name] for name in ("proposals", "masks")}
    found |= {f"proposals.{key}": value["half"] for key, value in proposal_recall(model, test).items()}
    box, _ = proposed(model, data["images"], 4)
    vectors = nb.clip_vectors(clip(), data["images"].float() / 255, box)
    data |= dict(crops=box, crop_emb=vectors)
    both = doubled(data) | features_of(model, torch.cat([data["images"], data["images"].flip(3)]))
    weights = repeats(data, real_ones(data, detection.MARKED))
    for study, shares in dict(heads=BOTH, taught=IMAGE, background=TEXT).items():
        head = fresh(0, separate=study == "taught")
        head.trunk.load_state_dict(model.trunk.state_dict())
        names = names_emb()
        fit_head(head, both, names[:detection.BASE], 3, 0, weights=weights.repeat(2), shares=shares,
                 say=lambda _, losses: last.update(losses))
        key = dict(heads="class", taught="image", background="class")[study]
        found[f"{study}.{key}"] = last[key]
        found[f"{study}.background"] = true_boxes(head, test, names)["background"].mean()
    there = nn.Parameter(names_emb()[:20].clone())
    fit_head(head, both | dict(categories=both["categories"] % 20), there, 2, 0, shares=TEXT,
             say=lambda _, losses: last.update(losses))
    return found | {"trained_there.class": last["class"], "trained_there.names": there.detach().abs().sum()}

if __name__ == "__main__":
    sys.exit(recorder.main())
