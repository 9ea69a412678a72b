"""Chapter 8's recordings: CLIP4Clip's heads on films of the toy world, factor by factor, under three seeds.

Frames are encoded once by the frozen tiny CLIP and kept in build/ch08. All runs of a group see equally many films and
are judged on the same ones: 500 films with distinct captions for retrieval, 1,560 films and their reverses for the
two-way choice. Seed 0 of "transformer_16000" ships. The extra `scale`, search among a million films, takes minutes.
The stored runs computed their towers, and the tight head, in bfloat16; now all is float32, which every processor has:
a repeated run may differ by what rounding changes (recall at 1 after the live lesson, seed 0: 0.648 and 0.65).
See recordings/runner.py for the command line.
"""

import sys
import time
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from clipnotes import video
from clipnotes.clip import CLIP, load_clip
from clipnotes.temporal import encode_films
from clipnotes.toyworld import films
from clipnotes.weights import save_weights, stored, toy_world, write
from recordings.runner import ROOT, Recorder
from recordings.tiny.train import log_run

recorder = Recorder("08_clip4clip")
chapter = recorder.chapter
BUILD = ROOT / "build" / "ch08"
TRAIN, TEST, POOL = 88_000_000, 88_100_000, 88_150_000
SIZES, RATES = (100, 800, 16_000), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
MAIN = dict(head="transformer", films=16_000, steps=300, batch=32, lr=2e-3, clip_lr=1e-3)
LSTM = MAIN | dict(head="LSTM", lr=3e-3)
TIGHT = MAIN | dict(head="tight", batch=8, lr=1e-3)  # all pairs of a batch: 16 films and 16 texts are 256 sequences
SMALL = MAIN | dict(films=800, steps=120, batch=8, lr=1e-3, clip_lr=3e-4)
VARIANTS = {"zero_shot": dict(head="mean", films=0, steps=0)}
for size in SIZES:
    VARIANTS |= {f"mean_{size}": MAIN | dict(head="mean", films=size), f"LSTM_{size}": LSTM | dict(films=size),
                 f"transformer_{size}": MAIN | dict(films=size)}
VARIANTS |= {
    # what learns, and from what
    "LSTM_frozen_text": LSTM | dict(text=False), "transformer_frozen_text": MAIN | dict(text=False),
    "LSTM_no_reverses": LSTM | dict(reverses=False), "transformer_text_start": MAIN | dict(text_start=True),
    # what frames hold and what not: lessons of two pairs of events alone, left/right and spins
    "place_pooled": MAIN | dict(pairs=(5, 7)), "place_quarters": MAIN | dict(pairs=(5, 7), tokens="cells"),
    # the image tower learns, too; beside it the same small lesson with a frozen one, and a model without CLIP's weights
    "small_frozen": SMALL, "small_2d": SMALL | dict(image="2D"), "small_3d": SMALL | dict(image="3D"),
    "scratch": SMALL | dict(clip_lr=1e-3, image="scratch"),
    # frames, and how they are chosen
    "LSTM_1_even": LSTM | dict(frames=1), "LSTM_2_even": LSTM | dict(frames=2), "LSTM_4_even": LSTM | dict(frames=4),
    "LSTM_4_first": LSTM | dict(frames=4, sampling="first"), "LSTM_4_random": LSTM | dict(frames=4, sampling="random"),
}
VARIANTS |= {f"tight_{size}": TIGHT | dict(films=size) for size in SIZES}
for rate in RATES:
    short = dict(films=800, steps=60)
    VARIANTS |= {f"rate_mean_{rate:g}": MAIN | short | dict(head="mean", clip_lr=rate),
                 f"rate_LSTM_{rate:g}": LSTM | short | dict(lr=rate),
                 f"rate_transformer_{rate:g}": MAIN | short | dict(lr=rate)}
SHIPPED = "transformer_16000"


# ---------------------------------------------------------------- films


@cache
def block(seed: int, n: int = 500) -> dict[str, Tensor]:
    """n films as the frozen tiny CLIP sees them, encoded once and kept in build/ch08 (fp16)."""
    path, kept = BUILD / f"{seed}.safetensors", ("cells", "mask", "labels", "others", "events")
    if not path.exists():
        found = chapter.film_vectors(load_clip("tiny").requires_grad_(False), n, seed)
        write({k: found[k].half() if k == "cells" else found[k] for k in kept}, path, {"seed": str(seed)})
    return load_file(path)


def blocks(seeds: list[tuple[int, int]], tokens: str = "frames") -> dict:
    """Blocks of films, one behind the other; tokens "cells" gives four vectors a frame."""
    parts = [block(*seed) for seed in seeds]
    found = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    cells, facts = found.pop("cells").float(), (found["events"], found["labels"], found["others"])
    found["frames"] = cells if tokens == "cells" else cells.mean(2)
    return found | dict(captions=films.captions(*facts), reversed=films.captions(*facts, backwards=True))


def kept(films_: dict, places: list[int]) -> dict:
    return {k: v[places] if isinstance(v, Tensor) else [v[i] for i in places] for k, v in films_.items()}


def training(options: dict) -> dict:
    """The first films of the training blocks, of all events or of some pairs of them."""
    count, pairs = options["films"], options.get("pairs")
    parts = [(TRAIN + i, 500) for i in range(32 if pairs else -(-count // 500))]
    found = blocks(parts, options.get("tokens", "frames"))
    wanted = [i for i, e in enumerate(found["events"].tolist()) if pairs is None or e // 2 in pairs]
    return kept(found, wanted[:count])


def testing(tokens: str = "frames") -> tuple[dict, list[int]]:
    found = blocks([(POOL, 560), (TEST, 500), (TEST + 1, 500)], tokens)
    return found, chapter.distinct({"captions": found["captions"][:560]}, 500)


def thinned(films_: dict, count: int, how: str, seed: int) -> dict:
    """Films with at most `count` of their frames: evenly spread, the first ones, or random ones in order."""
    g, frames = torch.Generator().manual_seed(seed), torch.zeros(len(films_["mask"]), count, films_["frames"].shape[-1])
    mask = torch.zeros(len(frames), count, dtype=torch.long)
    for i, n in enumerate(films_["mask"].sum(1).tolist()):
        if how == "even":
            kept = video.sample(n, count)
        else:
            kept = list(range(n))[:count] if how == "first" else torch.randperm(n, generator=g)[:count].sort().values
        frames[i, : len(kept)], mask[i, : len(kept)] = films_["frames"][i, kept], 1
    return films_ | dict(frames=frames, mask=mask)


def pictures(count: int, first: int = TRAIN, n: int = 500) -> dict:
    """The films themselves, as bytes, for runs whose image tower learns."""
    parts = [films.films(n, first + i) for i in range(-(-count // n))]
    facts = [torch.cat([p[k] for p in parts])[:count] for k in ("events", "labels", "others")]
    frames, mask = (torch.cat([p[k] for p in parts])[:count] for k in ("frames", "mask"))
    return dict(frames=(255 * frames).byte(), mask=mask, events=facts[0], captions=films.captions(*facts),
                reversed=films.captions(*facts, backwards=True))


# ---------------------------------------------------------------- one run


def make_head(options: dict, clip: CLIP) -> nn.Module:
    """A fresh head; blocks begin as those of the text tower, as in the release, positions loud enough to be heard."""
    kind, positions = options["head"], 33 if options.get("tokens") == "cells" else 16
    if kind in ("mean", "LSTM"):
        return chapter.MeanHead() if kind == "mean" else chapter.LSTMHead(128)
    head = (chapter.TightHead if kind == "tight" else chapter.TransformerHead)(128, 2, 2, positions)
    chapter.start_head(head, clip, loud=not options.get("text_start"))
    return head


class Seer(nn.Module):
    """What makes vectors of frames that are bytes: the image tower, with patches in two or in three dimensions."""

    def __init__(self, clip: CLIP, three: bool):
        super().__init__()
        self.three = chapter.Film3D(clip) if three else None
        self.flat = [clip]  # its weights are the caller's

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        frames = frames.float() / 255
        return encode_films(self.flat[0], frames, mask) if self.three is None else self.three(frames, mask)


def prepare(options: dict, seed: int, tiny: CLIP) -> tuple[nn.Module, CLIP, Seer | None]:
    image = options.get("image")
    clip = CLIP(tiny.config) if image == "scratch" else tiny
    clip = chapter.copy_for_training(clip, image=image in ("2D", "scratch"), text=options.get("text", True))
    clip.token_embedding.weight.requires_grad_(image == "scratch")
    head = make_head(options, clip)
    if image is None:
        return head, clip, None
    see = Seer(clip, image == "3D")
    if see.three is not None:
        clip.films = see.three.requires_grad_(True)  # learns at the rate of CLIP's weights
    return head, clip, see


def recipe(variant: str) -> dict:
    """What decides a run: its options, and the seeds of the films."""
    return VARIANTS[variant] | dict(train=TRAIN, test=TEST, pool=POOL)


@cache
def tiny_clip() -> CLIP:
    return load_clip("tiny").requires_grad_(False)


def trained(options: dict, seed: int, data: dict) -> tuple[nn.Module, CLIP, Seer | None, list[float]]:
    """A new model by its options, trained on films: head, CLIP, what makes vectors of pictures, losses."""
    torch.manual_seed(seed)
    head, clip, see = prepare(options, seed, tiny_clip())
    if not options["steps"]:
        return head, clip, see, []
    named = {k: options[k] for k in ("lr", "clip_lr", "batch") if k in options}
    losses = chapter.fit(head, clip, data, options["steps"], seed=seed, see=see,
                         reverses=options.get("reverses", True), **named)
    return head, clip, see, losses


def fewer(films_: dict, options: dict, seed: int) -> dict:
    """Films with as many frames as a variant sees, chosen its way."""
    if "frames" not in options:
        return films_
    return thinned(films_, options["frames"], options.get("sampling", "even"), seed)


@torch.no_grad()
def watched(see: Seer, films_: dict) -> dict:
    """Films that are bytes, as vectors of their frames."""
    parts = zip(films_["frames"].split(40), films_["mask"].split(40), strict=True)
    return films_ | dict(frames=torch.cat([see(*part) for part in parts]))


@recorder.study(variants=tuple(VARIANTS), seeds={v: 1 if v == "zero_shot" else 3 for v in VARIANTS}, recipe=recipe)
def heads(variant: str, seed: int) -> dict:
    options, begun = VARIANTS[variant], time.process_time()
    test, pool = testing(options.get("tokens", "frames"))
    data = {}
    if options["steps"]:
        data = pictures(options["films"]) if "image" in options else fewer(training(options), options, seed)
    head, clip, see, losses = trained(options, seed, data)
    test = watched(see, pictures(560, POOL, 560)) if see else fewer(test, options, seed)
    if (variant, seed) == (SHIPPED, 0):
        ship(head, clip, (time.process_time() - begun) / 60)
    return dict(loss=round(sum(losses[-20:]) / max(1, len(losses[-20:])), 4)) | evaluated(head, clip, test, pool)


def evaluated(head: nn.Module, clip: CLIP, test: dict, pool: list[int]) -> dict:
    """The chapter's evaluation with four digits; hits as a string of 0 and 1."""
    found = chapter.evaluate(head, clip, test, pool)
    return tidy(found | dict(hits="".join(map(str, found["hits"].int().tolist()))))


def tidy(value):
    if isinstance(value, dict):
        return {k: tidy(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def learnt(head: nn.Module, clip: CLIP) -> dict[str, Tensor]:
    """What a run has changed: the head, and the text tower without its table of tokens."""
    state = {f"head.{k}": v for k, v in head.state_dict().items()}
    text = {k: p for k, p in clip.named_parameters() if not k.startswith("visual.") and p.requires_grad}
    return state | {f"clip.{k}": v.detach() for k, v in text.items()}


def ship(head: nn.Module, clip: CLIP, minutes: float) -> None:
    path, options = recorder.path.with_name("transformer.safetensors"), VARIANTS[SHIPPED]
    card = dict(program="recordings/08_clip4clip/record.py", variant=SHIPPED, seed=0, films=options["films"])
    shape = dict(width=128, layers=2, heads=2, positions=16)
    save_weights(stored(learnt(head, clip)), path, "clip4clip", shape, card | toy_world())
    log_run("08_clip4clip", path, minutes, options["films"], 0)


# ---------------------------------------------------------------- what else the chapter shows


@recorder.extra
def figure() -> dict:
    """The scores of the chapter's first figure, by the model that ships."""
    head, clip, _ = chapter.load_head("08_clip4clip/transformer", tiny_clip())
    return chapter.figure_scores(tiny_clip(), head, clip)


@recorder.extra
def scale(millions: float = 1.0, queries: int = 500) -> dict:
    """Exact search and faiss's inverted lists: recall of the ten nearest against queries a second.

    Larger collections are a mixture: the real films, then pairs of them blended. Queries are captions of real ones.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    seeds = [(POOL, 560)] + [(TRAIN + i, 500) for i in range(32)]
    seeds += [(TEST + i, 500) for i in range(6)] + [(88_200_000 + i, 500) for i in range(4)]
    real = blocks(seeds)
    film_emb = chapter.MeanHead().video(real["frames"], real["mask"])
    with torch.no_grad():
        text_emb = tiny_clip().encode_text(real["captions"][:queries]).numpy()
    g, rows = torch.Generator().manual_seed(0), []
    for count in (len(film_emb), 100_000, int(1_000_000 * millions)):
        extra = max(0, count - len(film_emb))
        one, two = torch.randint(len(film_emb), (2, extra), generator=g)
        share = 0.2 + 0.6 * torch.rand(extra, 1, generator=g)
        mixed = F.normalize(share * film_emb[one] + (1 - share) * film_emb[two], dim=-1)
        collection = torch.cat([film_emb, mixed])[:count].numpy()
        rows += [dict(films=count, real=min(count, len(film_emb))) | row for row in search(collection, text_emb)]
    return dict(faiss=faiss.__version__, threads=1, queries=queries, rows=rows,
                mixture="real films, then pairs of them blended with weights from 0.2 to 0.8, seed 0")


def search(collection, text_emb) -> list[dict]:
    """One collection N×D by an exact and by an approximate index: recall of the ten nearest, queries a second."""
    import faiss

    width, rows = collection.shape[1], []
    exact = faiss.IndexFlatIP(width)
    exact.add(collection)
    best, lists = exact.search(text_emb, 10)[1], 4 * round(len(collection) ** 0.5 / 4)
    inverted = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    inverted.cp.max_points_per_centroid = 40
    inverted.train(collection)
    inverted.add(collection)
    for index, probes in [(exact, 0)] + [(inverted, p) for p in (1, 4, 16, 64)]:
        if probes:
            index.nprobe = probes
        spent, near = [], index.search(text_emb, 10)[1]
        for _ in range(3):
            begun = time.process_time()
            index.search(text_emb, 10)
            spent.append(time.process_time() - begun)
        recall = sum(len(set(a) & set(b)) for a, b in zip(near.tolist(), best.tolist(), strict=True)) / best.size
        name = f"{lists} lists, {probes} read" if probes else "exact"
        rows.append(dict(index=name, recall=round(recall, 4),
                         queries_per_second=round(len(text_emb) / sorted(spent)[1], 1)))
    return rows


PROBED = {"mean": "mean_100", "LSTM": "LSTM_100", "transformer": "transformer_100", "tight": "tight_100",
          "start": "transformer_text_start", "alone": "LSTM_no_reverses", "quarters": "place_quarters",
          "first": "LSTM_4_first", "random": "LSTM_4_random", "two_d": "small_2d", "three_d": "small_3d"}


@recorder.probe
def probe() -> dict:
    """Two steps of each kind of run on few films; retrieval and order by the model that ships."""
    found, seen = {}, chapter.film_vectors(tiny_clip(), 16, TRAIN)
    for name, variant in PROBED.items():
        options = VARIANTS[variant] | dict(steps=2, batch=3)
        data = pictures(2, TRAIN, 2) if "image" in options else dict(seen)
        if options.get("tokens") == "cells":
            data["frames"] = data["cells"]
        data = fewer(data, options, 0)
        head, clip, see, losses = trained(options, 0, data)
        found[f"heads.{name}_loss"] = losses[-1]
        if see:
            found[f"heads.{name}_frames"] = watched(see, data)["frames"].std()
    head, clip, _ = chapter.load_head("08_clip4clip/transformer", tiny_clip())
    test = chapter.film_vectors(tiny_clip(), 30, POOL)
    row = chapter.evaluate(head, clip, test, chapter.distinct(test, 24))
    return found | {"heads.rank": row["text_to_film"]["mean"], "heads.film_rank": row["film_to_text"]["mean"],
                    "heads.hits": row["hits"].float().mean(),
                    "heads.order": sum(row["two_way"].values()) / len(row["two_way"])}


if __name__ == "__main__":
    sys.exit(recorder.main())
