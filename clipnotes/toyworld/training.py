"""The toy world as training data: the mix of pictures, a stream of batches, data sets, and the hash of the world."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache

import torch
import torch.nn.functional as F

from clipnotes.files import PACKAGE
from clipnotes.toyworld import detection, films, solids, sounds
from clipnotes.toyworld.drawings import TRAIN_STYLES
from clipnotes.toyworld.pictures import counted, crops, line_art, renders, singles
from clipnotes.toyworld.scenery import batch_seed, perspective, scenes

# The share of each kind of picture in training. Depth maps, projected points and films are left out on purpose:
# they stay what they are in the papers, a domain that CLIP never saw.
MIX = {"singles": 0.40, "crops": 0.15, "counted": 0.08, "line_art": 0.08, "renders": 0.06, "scenes": 0.16,
       "perspective": 0.07}


def pretraining(n: int, seed: int = 0, size: int = 64, *, styles: Sequence[str] = TRAIN_STYLES,
                names: Sequence[str] | None = None) -> dict:
    """A shuffled batch of the training mix: images n x 3 x size x size, captions. Shares are those of MIX."""
    share = torch.tensor(list(MIX.values()))
    sizes = (share / share.sum() * n).round().long()
    sizes[0] += n - sizes.sum()
    count = dict(zip(MIX, sizes.tolist(), strict=True))
    look = dict(styles=styles, names=names)
    parts = [singles(count["singles"], seed, size, tints=0.25, training=True, **look),
             crops(count["crops"], seed + 1, size, training=True, **look),
             counted(count["counted"], seed + 2, size, training=True, **look),
             line_art(count["line_art"], seed + 3, size, **look),
             renders(count["renders"], seed + 4, size),
             scenes(count["scenes"], seed + 5, size, masks=False, **look),
             perspective(count["perspective"], seed + 6, size, **look)]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    captions = [c for p in parts for c in p["captions"]]
    return dict(images=torch.cat([p["images"] for p in parts])[order], captions=[captions[i] for i in order.tolist()])


class Stream(torch.utils.data.IterableDataset):
    """An endless stream of batches of `pretraining`; workers and ranks get different seeds.

    `seed + step` decides a batch, so a run that resumes at `start` sees what it would have seen.
    """

    def __init__(self, batch: int, size: int = 64, seed: int = 0, start: int = 0, rank: int = 0, world: int = 1,
                 **look):
        self.batch, self.size, self.look = batch, size, look
        self.seed, self.start, self.rank, self.world = seed, start, rank, world

    def __iter__(self) -> Iterator[dict]:
        worker = torch.utils.data.get_worker_info()
        each, first = (worker.num_workers, worker.id) if worker else (1, 0)
        step = self.start + first
        while True:
            seed = batch_seed(self.seed, step, self.rank, self.world)
            yield pretraining(self.batch, seed, self.size, **self.look)
            step += each


def as_dataset(batch: dict):
    """A batch as a `datasets.Dataset` with the columns of the real sets: image (PIL), and caption, label, objects
    (bbox as x, y, width, height; category) where the batch has them."""
    from datasets import Dataset, Features, Image, Sequence, Value
    from torchvision.transforms.functional import to_pil_image

    rows, kinds = {"image": [to_pil_image(i) for i in batch["images"]]}, {"image": Image()}
    if "captions" in batch:
        rows["caption"], kinds["caption"] = batch["captions"], Value("string")
    if "labels" in batch and batch["labels"].dim() == 1:
        rows["label"], kinds["label"] = batch["labels"].tolist(), Value("int64")
    if "boxes" in batch and batch["boxes"].dim() == 3:
        rows["objects"] = []
        for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True):
            xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)[labels >= 0]
            rows["objects"].append(dict(bbox=xywh.tolist(), category=labels[labels >= 0].tolist()))
        kinds["objects"] = dict(bbox=Sequence(Sequence(Value("int64"))), category=Sequence(Value("int64")))
    return Dataset.from_dict(rows, features=Features(kinds))


# ---------------------------------------------------------------- which world is this?


WORLD = PACKAGE / "data" / "world.json"  # thumbnails of what the generators made when the shipped models were trained
NEAR = 0.01  # two and a half levels of 255: as far apart as machines may be


@cache
def samples() -> dict[str, dict]:
    """A few pictures of each generator, films and clouds among them, under one seed."""
    makers = (singles, crops, counted, line_art, renders, scenes, perspective)
    with torch.autocast("cpu", enabled=False):  # whoever asks may be in half precision
        made = {make.__name__: make(32, seed=1) for make in makers}
        return made | {"films": films.films(6, seed=1, size=32), "clouds": solids.clouds(22, seed=1, points=128)}


def thumbnails(batches: dict[str, dict] | None = None) -> dict[str, list]:
    """What the pixels are: eight pictures of each generator at 2 x 2 pixels; the mean points of clouds; how loud the
    eighths of eight sounds are."""
    found = {}
    for name, batch in (batches or samples()).items():
        if name == "clouds":
            value = batch["points"].abs().mean(1)
        elif name == "sounds":
            value = F.adaptive_avg_pool1d(batch["samples"][:8].abs(), 8)
        else:
            pictures = batch["frames"].flatten(0, 1) if name == "films" else batch["images"]
            value = F.adaptive_avg_pool2d(pictures[:8], 2).flatten(1)
        found[name] = [[round(v, 4) for v in row] for row in value.tolist()]
    return found


@cache
def generator_hash() -> str:
    """A hash of what the generators of CLIP's training, films and clouds make under one seed.

    It goes into every checkpoint's card: a model is judged on the world it was trained on.
    """
    return _hash(samples())


@cache
def detection_hash() -> str:
    """The same of the pictures for detectors; only what was trained on them has it in its card."""
    with torch.autocast("cpu", enabled=False):
        return _hash({"detection": detection.scenes(32, seed=1, tail=True)})


@cache
def sounds_hash() -> str:
    """The same of the sounds."""
    with torch.autocast("cpu", enabled=False):
        return _hash({"sounds": sounds.sounds(2 * len(sounds.NAMES), seed=1, synthesisers=sounds.SYNTHESISERS)})


def _hash(batches: dict[str, dict]) -> str:
    """A hash of integers, captions, pixels, and the sprite sheets.

    Pixels that are within NEAR of those in WORLD count as those, as machines differ by a level.
    """
    digest = hashlib.sha256((PACKAGE / "data" / "sprites.json").read_bytes())
    for batch in batches.values():
        digest.update(json.dumps(batch.get("captions", batch.get("names"))).encode())
        for key in ("labels", "boxes", "events", "players"):
            if key in batch:
                digest.update(batch[key].numpy().tobytes())
    stored, fresh = json.loads(WORLD.read_text("utf-8")), thumbnails(batches)
    for name, value in fresh.items():
        near = torch.allclose(torch.tensor(value), torch.tensor(stored[name]), rtol=0, atol=NEAR)
        digest.update(json.dumps(stored[name] if near else value).encode())
    return digest.hexdigest()[:12]
