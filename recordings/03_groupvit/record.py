"""Chapter 3's models: GroupViT on the toy world's captions, its variants, and the plain ViT of equal training.

"large" learns from captions of all base names; "small" compares variants in a world of 60 names, where all see the
same scenes and captions, equally often (only `scenes_*` have fewer distinct scenes). What the loss receives is pictures
and captions: the scenes are rendered without masks. Two models ship beside this program, groupvit.safetensors and
two_stages.safetensors. See recordings/runner.py for the command line.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes import grammar, hub, metrics, toyworld
from clipnotes.clip import load_clip
from clipnotes.tokenizer import tokenize
from clipnotes.weights import save_weights, stored, toy_world
from recordings.runner import Recorder
from recordings.tiny.train import log_run

recorder = Recorder("03_groupvit")

TRAIN, VALID, TEST, EPISODES = 83_000_000, 83_001_001, 83_001_000, 83_002_000
# Two worlds, all base names and the small one of the comparisons: names, distinct scenes, pictures seen.
LARGE, SMALL = dict(names=210, scenes=16_000, images=30_720), dict(names=60, scenes=8_000, images=15_360)
SHARED = dict(batch=256, prompts=3, muon=3e-3, adamw=1e-3, warm=8_000, decay=0.35, nouns="groups", ground=False,
              precision="bfloat16", train=TRAIN, test=TEST)
ONE = dict(depths=(2, 0), group_tokens=(6, 0), output_groups=(6,))
TWO = dict(depths=(2, 1, 0), group_tokens=(16, 6, 0), output_groups=(16, 6))
NO_GROUPS = dict(depths=(1, 1, 0), group_tokens=(0, 0, 0), output_groups=(0, 0))
# What differs from SHARED: the model's shape, hard choices, what nouns are compared with, captions that name grounds.
LARGE_RECIPES = {"groups": dict(model=ONE), "plain": dict(model=NO_GROUPS)}
SMALL_RECIPES = {
    "ours": dict(model=ONE), "plain": dict(model=NO_GROUPS), "two_stages": dict(model=TWO),
    "hard": dict(model=ONE | dict(hard=True)), "nouns_against_mean": dict(model=ONE, nouns="mean"),
    "caption_only": dict(model=ONE, nouns="none"), "paper": dict(model=TWO | dict(hard=True), nouns="mean"),
    "ground": dict(model=ONE, ground=True), "scenes_1000": dict(model=ONE, scenes=1_000),
    "scenes_2000": dict(model=ONE, scenes=2_000), "scenes_4000": dict(model=ONE, scenes=4_000),
}
SHIPPED = {("large", "groups", 0): "groupvit", ("small", "two_stages", 0): "two_stages"}


def large_recipe(variant: str) -> dict:
    return SHARED | LARGE | LARGE_RECIPES[variant]


def small_recipe(variant: str) -> dict:
    return SHARED | SMALL | SMALL_RECIPES[variant]


def names_of(count: int) -> list[str]:
    """All 210 base names, or a fixed random choice of `count` among those that EmojiTwo has drawn."""
    if count == LARGE["names"]:
        return toyworld.names("base")
    pool = toyworld.names("base", toyworld.HELD_OUT_STYLE)
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(3))
    return [pool[i] for i in order[:count]]


# ---------------------------------------------------------------- what the loop receives


@cache
def tiny_clip() -> nn.Module:
    return load_clip("tiny").requires_grad_(False)


@cache
def pictures_and_captions(names: int, scenes: int, precision: str) -> tuple[Tensor, list[str], list[str]]:
    """Patch tokens N×P×D of the frozen trunk, the captions, and the same captions that also name the ground.

    The scenes are rendered without masks and boxes are dropped here: no later line can see one.
    """
    tokens, captions, grounded, dtype = [], [], [], getattr(torch, precision)
    trunk = recorder.chapter.FrozenTrunk(tiny_clip(), 4)
    for i in range(0, scenes, 500):
        batch = toyworld.scenes(min(500, scenes - i), TRAIN + i // 500, names=names_of(names), masks=False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = [trunk(tiny_clip().standardise(part)) for part in batch["images"].split(250)]
        tokens.append(torch.cat(found).to(dtype))
        captions += batch["captions"]
        grounded += with_ground(batch)
    return torch.cat(tokens), captions, grounded


def with_ground(batch: dict) -> list[str]:
    """The captions of scenes, followed by both regions where the text tower has room."""
    tops, bottoms = batch["regions"][:, 0, 0].tolist(), batch["regions"][:, -1, 0].tolist()
    longer = [f"{caption} , {grammar.REGIONS[top]} and {grammar.REGIONS[bottom]}"
              for caption, top, bottom in zip(batch["captions"], tops, bottoms, strict=True)]
    room = (tokenize(longer, 77) > 0).sum(1) <= tiny_clip().config.context_length
    return [new if fits else old for new, old, fits in zip(longer, batch["captions"], room, strict=True)]


class Texts:
    """Features of the frozen text tower, each text encoded once."""

    def __init__(self) -> None:
        self.place, self.rows = {}, []

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        new = sorted(set(texts) - self.place.keys())
        for start in range(0, len(new), 512):
            part = new[start : start + 512]
            self.place |= {text: len(self.rows) + i for i, text in enumerate(part)}
            self.rows += tiny_clip().encode_text(part, normalize=False).unbind()
        return torch.stack([self.rows[self.place[text]] for text in texts])


# ---------------------------------------------------------------- training


def optimizers(model: nn.Module, recipe: dict) -> list[torch.optim.Optimizer]:
    """Muon for the encoder's matrices, AdamW for all else."""
    matrices = [p for p in model.img_encoder.parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    return [torch.optim.Muon(matrices, lr=recipe["muon"], weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=recipe["adamw"], weight_decay=0.05, betas=(0.9, 0.98))]


def losses(model: nn.Module, tokens: Tensor, features: Tensor, nouns: str, dtype: torch.dtype) -> Tensor:
    """The caption loss, and by `nouns` the nouns' loss against the groups, against their mean, or none."""
    chapter = recorder.chapter
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        groups, _ = model.img_encoder.read(tokens)
        group_emb = model.img_projector(groups) if nouns == "groups" else None
    text_emb = model.encode_text(features)
    image_emb = F.normalize(model.img_projector(groups.float().mean(1)), dim=-1)
    loss = chapter.clip_loss(image_emb, text_emb[:, 0], model.logit_scale.exp())
    scale = model.multi_label_logit_scale.exp()
    if nouns == "groups":
        group_emb = F.normalize(group_emb.float(), dim=-1).to(dtype)
        best = chapter.best_groups(group_emb, text_emb[:, 1:].to(dtype)).float()
        return loss + chapter.many_positives(scale * best)
    return loss + (chapter.multi_label_loss(image_emb, text_emb[:, 1:], scale) if nouns == "mean" else 0)


def train(recipe: dict, seed: int) -> tuple[nn.Module, list]:
    """-> the model, and [pictures seen, loss] over time."""
    chapter, clip, batch, images = recorder.chapter, tiny_clip(), recipe["batch"], recipe["images"]
    torch.manual_seed(seed)  # after CLIP is loaded, which draws numbers
    model = chapter.GroupViTCLIP(chapter.tiny_encoder(clip, **recipe["model"])).train()
    texts, rng, optims, curve = Texts(), Random(seed), optimizers(model, recipe), []
    base = [o.param_groups[0]["lr"] for o in optims]
    tokens, captions, grounded = pictures_and_captions(recipe["names"], recipe["scenes"], recipe["precision"])
    captions = grounded if recipe["ground"] else captions
    for seen in range(batch, images + 1, batch):
        pick = [rng.randrange(recipe["scenes"]) for _ in range(batch)]
        said = [[captions[i], *chapter.noun_prompts(captions[i], rng, recipe["prompts"])] for i in pick]
        features = texts([text for row in said for text in row]).view(batch, 1 + recipe["prompts"], -1)
        rate = min(1.0, seen / recipe["warm"], (images - seen + batch) / (recipe["decay"] * images))
        for optimizer, lr in zip(optims, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate
        patches = tokens[pick].float() + model.img_encoder.pos_embed
        loss = losses(model, patches, features, recipe["nouns"], tokens.dtype)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimizer in optims:
            optimizer.step()
        with torch.no_grad():
            for scale in (model.logit_scale, model.multi_label_logit_scale):
                scale.clamp_(max=4.6052)  # ln 100
        if seen // batch % 20 == 0:
            curve.append([seen, round(loss.item(), 4)])
    return model.eval(), curve


# ---------------------------------------------------------------- the plain ViT as a rival


def is_plain(model: nn.Module) -> bool:
    return not any(model.img_encoder.config.group_tokens)


@torch.no_grad()
def predict_patches(model: nn.Module, images: Tensor, text_emb: Tensor,
                    allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The chapter's `segment` without groups: each patch is compared with the names, then enlarged."""
    found, patch = [], model.img_encoder.config.patch_size
    for i, part in enumerate(images.split(50)):
        cosines = F.normalize(model.img_projector(model.tokens(part)[0]), dim=-1) @ text_emb.T  # B×(h·w)×K
        if allowed is not None:
            cosines = cosines.masked_fill(~allowed[50 * i : 50 * i + 50, None], -1.0)
        maps = cosines.transpose(1, 2).unflatten(2, [side // patch for side in part.shape[-2:]])
        found.append(F.interpolate(maps, part.shape[-2:], mode="bilinear", align_corners=False).max(1))
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


@torch.no_grad()
def clusters(model: nn.Module, images: Tensor, count: int = 6) -> tuple[Tensor, Tensor]:
    """The chapter's `segments` for a plain ViT: k-means clusters of its patch tokens stand in for the groups."""
    chapter, owners, group_emb = recorder.chapter, [], []
    grid = [side // model.img_encoder.config.patch_size for side in images.shape[-2:]]
    for part in images.split(50):
        tokens, _ = model.tokens(part)
        member = F.one_hot(chapter.kmeans(F.normalize(tokens, dim=-1), count), count).transpose(1, 2).float()
        means = member @ tokens / member.sum(2, keepdim=True).clamp(min=1)
        owners.append(chapter.group_maps([member], grid, images.shape[-2:]).argmax(1))
        group_emb.append(F.normalize(model.img_projector(means), dim=-1))
    return torch.cat(owners), torch.cat(group_emb)


def predict_clusters(model: nn.Module, images: Tensor, text_emb: Tensor,
                     allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The chapter's `segment` for the clusters of a plain ViT."""
    return recorder.chapter.name_pixels(*clusters(model, images), text_emb, allowed)


# ---------------------------------------------------------------- measuring


def predictors(model: nn.Module) -> dict[str, Callable]:
    """By the ending of the figure's key: how a model gives each pixel a name, and a cosine."""
    return {"": predict_patches, "_kmeans": predict_clusters} if is_plain(model) else {"": recorder.chapter.segment}


def fit_threshold(measure: Callable[[float], float]) -> float:
    """The threshold of the best mIoU; to be fitted on scenes that are not reported."""
    return max([t / 20 for t in range(-2, 18)], key=measure)


def zero_shot(predict: Callable, model: nn.Module, valid: dict, test: dict, names: list[str],
              among_present: bool) -> tuple[float, float]:
    """mIoU on `test`, and the threshold, fitted on `valid`. among_present: only the scene's own names to choose."""
    chapter = recorder.chapter
    ids, text_emb = toyworld.name_indices(names), chapter.name_embeddings(model, tiny_clip(), names)
    given = []
    for batch in (valid, test):
        allowed = chapter.present(batch, ids) if among_present else None
        given.append((*predict(model, batch["images"], text_emb, allowed=allowed), chapter.object_truth(batch)))
    thin = [t[:, 1::3, 1::3] for t in given[0]]
    threshold = fit_threshold(lambda t: chapter.object_miou(*thin, ids, t))
    return chapter.object_miou(*given[1], ids, threshold), threshold


def episodes_miou(model: nn.Module, valid: list[dict], test: list[dict]) -> tuple[float, float]:
    """Mean mIoU over episodes of 20 names each; one threshold for all, fitted on other scenes of them."""
    chapter, predict = recorder.chapter, predictors(model)[""]

    def answers(batch: dict, step: int = 1) -> tuple:
        text_emb = chapter.name_embeddings(model, tiny_clip(), batch["candidates"])
        found = (*predict(model, batch["images"], text_emb), chapter.object_truth(batch))
        start = step // 2
        return *(t[:, start::step, start::step] for t in found), toyworld.name_indices(batch["candidates"])

    def mean(given: list[tuple], threshold: float) -> float:
        return sum(chapter.object_miou(*g, threshold) for g in given) / len(given)

    fitted = [answers(batch, 3) for batch in valid]
    threshold = fit_threshold(lambda t: mean(fitted, t))
    return mean([answers(batch) for batch in test], threshold), threshold


@torch.no_grad()
def evaluate(model: nn.Module, valid: dict, test: dict, names: list[str]) -> dict[str, float]:
    """All figures of one model on scenes: by the scene's names, by all names, by perfect naming; its groups."""
    chapter, row, text_emb = recorder.chapter, {}, recorder.chapter.name_embeddings(model, tiny_clip(), names)
    for ending, predict in predictors(model).items():
        for kind in ("scene", "all"):
            found = zero_shot(predict, model, valid, test, names, kind == "scene")
            row[f"miou_{kind}{ending}"], row[f"threshold_{kind}{ending}"] = found
    owner, _ = (clusters if is_plain(model) else chapter.segments)(model, test["images"])
    cells, truth = owner[:, 4::8, 4::8].flatten(1), chapter.object_truth(test)
    row |= dict(purity=chapter.purity(cells, chapter.patch_truth(test)), best_iou=chapter.best_iou(cells, test))
    row |= dict(oracle=chapter.oracle_miou(owner, truth), groups_used=sum(len(o.unique()) for o in cells) / len(cells))
    row["ceiling"] = chapter.mean_iou(metrics.patch_ceiling(truth, 8), truth)
    image_emb = torch.cat([model.encode_image(part) for part in test["images"].split(50)])
    best = (image_emb @ text_emb.T).argmax(1, keepdim=True)
    row["name_top1"] = chapter.present(test, toyworld.name_indices(names)).gather(1, best).float().mean().item()
    return row


def judge(model: nn.Module, count: int) -> dict[str, float]:
    """All figures of a model that has learnt `count` names."""
    chapter, names, predict = recorder.chapter, names_of(count), predictors(model)[""]
    valid, test = toyworld.scenes(200, VALID, names=names), toyworld.scenes(500, TEST, names=names)
    row = evaluate(model, valid, test, names)
    row["miou_all_regions"] = chapter.region_miou(model, tiny_clip(), test, names, predict)
    artist = dict(names=names, styles=(toyworld.HELD_OUT_STYLE,))
    valid, test = toyworld.scenes(100, VALID + 2, **artist), toyworld.scenes(300, TEST + 2, **artist)
    row["miou_scene_emojitwo"], _ = zero_shot(predict, model, valid, test, names, True)
    if count == LARGE["names"]:
        known, new = toyworld.TRAIN_STYLES, (toyworld.HELD_OUT_STYLE,)
        for kind, split, styles in (("episode", "base", known), ("episode_novel", "novel", known),
                                    ("episode_emojitwo", "base", new)):
            test = toyworld.episodes(split, 5, 100, EPISODES, styles=styles)
            valid = toyworld.episodes(split, 5, 40, EPISODES + 1000, styles=styles)
            row[f"miou_{kind}"], row[f"threshold_{kind}"] = episodes_miou(model, valid, test)
    return {key: round(float(value), 4) for key, value in row.items()}


# ---------------------------------------------------------------- records


def ship(name: str, model: nn.Module, run: tuple[str, str, int], recipe: dict, minutes: float) -> None:
    """A model that the chapter shows, beside this program."""
    study, variant, seed = run
    card = dict(study=study, variant=variant, seed=seed,
                names=names_of(recipe["names"]), scenes=recipe["scenes"], images=recipe["images"]) | toy_world()
    path = recorder.path.with_name(f"{name}.safetensors")
    save_weights(stored(model.state_dict()), path, "groupvit", asdict(model.img_encoder.config), card)
    log_run("03_groupvit", path, minutes, recipe["images"], seed)


def measure(study: str, variant: str, seed: int, recipe: dict) -> dict:
    started = time.process_time()
    model, curve = train(recipe, seed)
    if name := SHIPPED.get((study, variant, seed)):
        ship(name, model, (study, variant, seed), recipe, (time.process_time() - started) / 60)
    return judge(model, recipe["names"]) | dict(curve=curve)


@recorder.study(variants=tuple(LARGE_RECIPES), seeds=dict(groups=3, plain=1), recipe=large_recipe)
def large(variant: str, seed: int) -> dict:
    return measure("large", variant, seed, large_recipe(variant))


@recorder.study(variants=tuple(SMALL_RECIPES), seeds=3, recipe=small_recipe)
def small(variant: str, seed: int) -> dict:
    return measure("small", variant, seed, small_recipe(variant))


@recorder.extra
@torch.no_grad()
def figure() -> dict:
    """Figure 3.1: for the postcard and a photograph the shipped model's chained maps G×12×12, and each group's name."""
    chapter, candidates, found = recorder.chapter, ["rocket", "tree", "dog", "apple", "cat", "sky", "grass"], {}
    model, _ = chapter.load_groupvit("groupvit", tiny_clip())
    text_emb = chapter.name_embeddings(model, tiny_clip(), candidates)
    for name, picture in (("postcard", toyworld.postcard()["images"]), ("cat", hub.photo("cat", 96))):
        maps = chapter.group_maps(model.tokens(picture)[1], (12, 12), (12, 12))[0]
        _, group_emb = chapter.segments(model, picture)
        called = [candidates[i] for i in (group_emb[0] @ text_emb.T).argmax(1).tolist()]
        found[name] = dict(names=called, maps=[[[round(v, 3) for v in row] for row in m] for m in maps.tolist()])
    return found


@recorder.probe
def probe() -> dict:
    """Each kind of training for a step or two; a plain ViT and the shipped model, measured on a few scenes."""
    found, few = {}, dict(scenes=16, batch=8, warm=8, precision="float32")
    for variant, images in dict(plain=8, ours=16, paper=8, ground=8).items():
        model, _ = train(small_recipe(variant) | few | dict(images=images), 0)
        tokens, captions, _ = pictures_and_captions(60, 16, "float32")
        with torch.no_grad():
            features = Texts()(captions)[:, None].expand(-1, 2, -1)  # each caption stands for its noun, too
            loss = losses(model, tokens + model.img_encoder.pos_embed, features, "groups", torch.float32)
        found[f"small.{variant}_loss"] = loss.item()
        if variant == "plain":
            plain = model
    names = names_of(60)[:20]
    valid, test = toyworld.scenes(4, VALID, names=names), toyworld.scenes(8, TEST, names=names)
    row = evaluate(plain, valid, test, names)
    found |= {f"small.plain_{key}": row[key] for key in ("miou_scene", "miou_scene_kmeans", "purity")}
    model, _ = recorder.chapter.load_groupvit("groupvit", tiny_clip())
    row = evaluate(model, valid, test, names)
    found |= {f"large.{key}": row[key] for key in ("miou_scene", "miou_all", "purity", "best_iou", "oracle", "ceiling")}
    found["large.regions"] = recorder.chapter.region_miou(model, tiny_clip(), test, names, predictors(model)[""])
    fold = toyworld.episodes("base", 1, 4, EPISODES)
    found["large.episode"], _ = episodes_miou(model, fold, fold)
    return found


if __name__ == "__main__":
    sys.exit(recorder.main())
