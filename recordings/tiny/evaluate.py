"""How well a tiny CLIP names and finds: every figure with its n and its baselines. `probe.py` shows them."""

import torch

from clipnotes import grammar, toyworld
from clipnotes.clip import CLIP
from clipnotes.metrics import majority, pixel_neighbour, recall_at_k, spearman, topk_accuracy
from clipnotes.prompts import class_embeddings
from recordings.tiny.train import chosen_names

SEED = 90_000_000  # no training batch has such a seed
TEMPLATES = grammar.TEMPLATES[1:6]


@torch.no_grad()
def image_embeddings(model: CLIP, images: torch.Tensor) -> torch.Tensor:
    """Unit embeddings, in pieces of 250; a ModifiedResNet is shown its own size."""
    size = model.config.image_size
    if not model.config.is_vit and images.shape[-1] != size:
        images = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return torch.cat([model.encode_image(part) for part in images.clamp(0, 1).split(250)])


def name_scores(model: CLIP, batch: dict, names: list[str], class_emb: torch.Tensor) -> dict:
    """Top-1 and top-5 of naming a batch among `names`."""
    column = torch.full((len(grammar.concepts()),), -1)
    column[toyworld.name_indices(names)] = torch.arange(len(names))
    labels, logits = column[batch["labels"]], image_embeddings(model, batch["images"]) @ class_emb.T
    return dict(top1=topk_accuracy(logits, labels), top5=topk_accuracy(logits, labels, 5), n=len(labels))


def naming(model: CLIP, names: list[str], n: int = 1000, floor: bool = True) -> dict:
    """Names by style on varied grounds, all names as candidates; the floor is the nearest picture in pixels."""
    class_emb = class_embeddings(model, names, TEMPLATES)
    shown = toyworld.singles(20 * len(names), SEED, names=names) if floor else None
    rows = {}
    for style in ("noto", "fluent3d", toyworld.HELD_OUT_STYLE, "openmoji"):
        batch = toyworld.singles(n, SEED + 1, styles=[style], names=names)
        rows[style] = name_scores(model, batch, names, class_emb) | dict(chance=1 / len(names))
        if floor:
            scores = pixel_neighbour(shown["images"], shown["labels"], batch["images"])
            rows[style] |= dict(pixels_top1=topk_accuracy(scores, batch["labels"]),
                                pixels_top5=topk_accuracy(scores, batch["labels"], 5))
    return rows


@torch.no_grad()
def retrieval(model: CLIP, n: int = 500, names: list[str] | None = None) -> dict:
    """Captions and scenes of two objects, one true pair each among n."""
    rows = {}
    for label, styles in (("training styles", toyworld.TRAIN_STYLES), ("emojitwo", [toyworld.HELD_OUT_STYLE])):
        batch = toyworld.scenes(n, SEED + 2, objects=(2, 2), styles=styles, names=names, masks=False)
        similarity = image_embeddings(model, batch["images"]) @ model.encode_text(batch["captions"]).T
        rows[label] = {"text for image R@5": recall_at_k(similarity, 5),
                       "image for text R@5": recall_at_k(similarity.T, 5), "chance": 5 / n, "n": n}
    return rows


@torch.no_grad()
def attributes(model: CLIP, n: int = 1000, names: list[str] | None = None) -> dict:
    """Category, colour, count, place, size, small crops and distance words, each beside its control."""
    rows = {}
    singles = toyworld.singles(n, SEED + 3, names=names)
    categories = sorted({c.category for c in grammar.concepts()})
    truth = torch.tensor([categories.index(grammar.concepts()[i].category) for i in singles["labels"].tolist()])
    image_emb = image_embeddings(model, singles["images"])
    found = image_emb @ class_embeddings(model, categories, TEMPLATES).T
    rows["category"] = dict(top1=topk_accuracy(found, truth), majority=majority(truth), n=n)

    tinted = toyworld.singles(n, SEED + 4, tints=1.0, names=names)
    words = [[f"a {colour} {c.name}" for colour in grammar.TINTS] for c in grammar.concepts()]
    text = torch.stack([model.encode_text(w) for w in words])  # concepts x 8 x D
    colour = torch.einsum("bd,bkd->bk", image_embeddings(model, tinted["images"]), text[tinted["labels"]])
    rows["colour"] = dict(top1=topk_accuracy(colour, tinted["tints"]), chance=1 / 8, n=n)

    many = toyworld.counted(n, SEED + 5, names=names)
    phrases = [[f"{w} {c.name if k == 0 else grammar.plural(c.name)}" for k, w in enumerate(grammar.COUNTS)]
               for c in grammar.concepts()]
    text = torch.stack([model.encode_text(p) for p in phrases])
    count = torch.einsum("bd,bkd->bk", image_embeddings(model, many["images"]), text[many["labels"]])
    rows["count"] = dict(top1=topk_accuracy(count, many["counts"] - 1), chance=1 / 5, n=n,
                         spearman=spearman(count.argmax(1).float(), many["counts"].float()))

    small = toyworld.singles(n, SEED + 6, names=names)
    keep = (small["places"] != 4) & (small["sides"] < 45)
    texts = [[f"{grammar.article(c.name)} {p}" for p in grammar.PLACES] for c in grammar.concepts()]
    text = torch.stack([model.encode_text(t) for t in texts])
    place = torch.einsum("bd,bkd->bk", image_embeddings(model, small["images"][keep]), text[small["labels"][keep]])
    rows["place"] = dict(top1=topk_accuracy(place, small["places"][keep]), chance=1 / 9, n=int(keep.sum()),
                         majority=majority(small["places"][keep]))

    big = torch.stack([model.encode_text([f"a small {c.name}", f"a big {c.name}"]) for c in grammar.concepts()])
    size = torch.einsum("bd,bkd->bk", image_emb, big[singles["labels"]])
    rows["size"] = dict(spearman=spearman(size[:, 1] - size[:, 0], singles["sides"].float()), control=0.0, n=n)

    crops_names = names[:120] if names else chosen_names(120)
    crops = toyworld.crops(n, SEED + 7, low=20, high=32, margin=1.25, names=crops_names)  # 25 to 40 px with margin
    class_emb = class_embeddings(model, crops_names, TEMPLATES)
    rows["small crops"] = name_scores(model, crops, crops_names, class_emb) | dict(chance=1 / len(crops_names))
    crops = toyworld.crops(n, SEED + 7, low=20, high=32, styles=[toyworld.HELD_OUT_STYLE], names=crops_names)
    rows["small crops, emojitwo"] = name_scores(model, crops, crops_names, class_emb)
    rows["small crops, emojitwo"]["chance"] = 1 / len(crops_names)

    far = toyworld.perspective(n, SEED + 8, objects=(1, 1), names=names)
    text = model.encode_text([f"this object is {d}" for d in grammar.DISTANCES])
    weight = (100 * image_embeddings(model, far["images"]) @ text.T).softmax(1)
    metres = torch.tensor(list(grammar.DISTANCES.values()))
    rows["distance"] = dict(spearman=spearman(weight @ metres, far["metres"][:, 0]), control=0.0, n=n)
    return rows


def evaluate(model: CLIP, count: int | None, n: int) -> dict:
    """All tables of this module, on n pictures each; count: only the names of a short run."""
    names = chosen_names(count)
    only = names if count else None
    return {f"Names, {len(names)} candidates": naming(model, names, n), "Retrieval": retrieval(model, 500, only),
            "Attributes": attributes(model, n, only)}
