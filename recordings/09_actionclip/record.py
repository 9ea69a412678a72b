"""Chapter 9's ActionCLIP on films of the toy world: the model that ships, and the comparisons that are too long for its
page.

In the study `inside` the image tower learns, with a mean over frames behind it; its run shift:0 ships as
shift.safetensors beside this program. In all others the image tower stays as it is, so films are encoded once.
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

from clipnotes import metrics
from clipnotes.clip import CLIP, load_clip
from clipnotes.toyworld import films
from clipnotes.weights import save_weights, stored, toy_world
from recordings.runner import Recorder
from recordings.tiny.train import log_run

FILMS, TRAIN, NEW = 6000, 91_000_000, 93_000_000  # films to learn from; seeds of these and of those with new actions
ZORGLE_TRAIN, ZORGLE_TEST = NEW + 50_000, NEW + 60_000
OFTEN = 3  # so often stand the hard events in training
HARD = ("moves left", "moves right", "spins left", "spins right")
ZORGLE = "the zorgle of an object"  # a verb that nobody has read
SHOTS, REPEATS, FILMS_EACH = (0, 1, 2, 4, 8, 16), (1, 4, 8), (0, 4, 32, 200)
RATES = dict(tower=1.5e-3, head=3e-3, rest=1e-3, muon=3e-3, decay=0.05)

recorder = Recorder("09_actionclip")
nb = recorder.chapter
half_precision = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
Films = tuple[Tensor, Tensor]  # films, as bytes or as frame vectors, and their actions


# ---------------------------------------------------------------- films


def drawn(n: int, seed: int) -> Films:
    """Films to learn from: the hard events are more often among them."""
    often = [event for event in films.EVENTS for _ in range(OFTEN if event in HARD else 1)]
    return nb.labelled_films(n, seed, events=often)


def zorgles(n: int, seed: int) -> Films:
    """Films of an object that blinks, frames of "appears" in an order of their own; their label follows all others."""
    frames, _ = nb.labelled_films(n, seed, events=("appears",))
    return frames[:, [0, 7, 0, 7, 0, 7, 0, 7]], torch.full((n,), len(nb.ACTIONS))


SPLITS: dict[str, Callable[[], Films]] = {
    "train": lambda: drawn(FILMS, TRAIN),
    "test": lambda: nb.labelled_films(nb.TEST_FILMS, nb.TEST_SEED),
    "new": lambda: nb.labelled_films(nb.TEST_FILMS, NEW),
    "zorgle_train": lambda: zorgles(32, ZORGLE_TRAIN),
    "zorgle_test": lambda: zorgles(100, ZORGLE_TEST),
}


@cache
def frames(split: str) -> Films:
    """Films as bytes N×8×3×32×32 and their actions."""
    return SPLITS[split]()


@cache
def vectors(split: str) -> Films:
    """The same films as vectors of the frozen tower, N×8×128, and their actions."""
    pictures, labels = frames(split)
    return encoded(pictures), labels


@torch.no_grad()
def encoded(pictures: Tensor) -> Tensor:
    clip = load_clip("tiny")
    with half_precision():
        return torch.cat([nb.frame_vectors(clip.visual, clip.standardise(part / 255), 0).float()
                          for part in pictures.split(50)])


def held() -> Tensor:
    """The actions that are left out of training."""
    return torch.tensor([nb.ACTIONS.index(text) for text in nb.HELD])


def without_held(data: Films) -> Films:
    kept = ~torch.isin(data[1], held())
    return data[0][kept], data[1][kept]


def first_of_each(labels: Tensor, count: int, seed: int) -> Tensor:
    """The places of `count` films of each label, drawn by the seed."""
    g, found = torch.Generator().manual_seed(seed), []
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        found.append(rows[torch.randperm(len(rows), generator=g)[:count]])
    return torch.cat(found)


# ---------------------------------------------------------------- training


def muon_and_adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of blocks, AdamW for all else that learns."""
    tower, head = list(model.clip.visual.parameters()), list(model.head.parameters())
    blocks = [*model.clip.visual.transformer.parameters(),
              *(weight for name, weight in model.head.named_parameters() if "position" not in name)]
    matrices = [weight for weight in blocks if weight.ndim == 2 and weight.requires_grad]
    taken, groups = {id(weight) for weight in matrices}, []
    for mine, rate in ((tower, RATES["tower"]), (head, RATES["head"]), (list(model.parameters()), RATES["rest"])):
        fresh = [weight for weight in mine if weight.requires_grad and id(weight) not in taken]
        taken |= {id(weight) for weight in fresh}
        groups += [dict(params=fresh, lr=rate)] if fresh else []
    adamw = torch.optim.AdamW(groups, weight_decay=RATES["decay"], betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    return [adamw, torch.optim.Muon(matrices, lr=RATES["muon"], weight_decay=RATES["decay"],
                                    adjust_lr_fn="match_rms_adamw")]


def fit(model: nn.Module, *given, **options) -> list[float]:
    return nb.fit(model.train(), *given, optimizers=muon_and_adamw(model), **options)


# ---------------------------------------------------------------- measures


def share(hits: Tensor) -> float:
    return round(hits.float().mean().item(), 4)


def judged(model: nn.Module, data: Films, ids: Tensor, objects: Tensor | None = None) -> dict:
    """Accuracy among all actions, the hits film by film, action or reverse; the films' objects among 20 names."""
    x, labels = data
    hits = (model.eval().predict_probs(x, ids).argmax(1) == labels).int()
    pairs = {pair: round(value, 4) for pair, value in nb.pair_accuracy(model, x, labels, ids).items()}
    found = dict(accuracy=share(hits), hits="".join(map(str, hits.tolist())), pairs=pairs)
    return found if objects is None else found | dict(names=round(nb.names_kept(model, x, objects), 4))


@cache
def test_objects() -> Tensor:
    return nb.film_objects(nb.TEST_FILMS, nb.TEST_SEED)


def new_only(model: nn.Module, data: Films, ids: Tensor) -> dict:
    """Films of the left-out actions: named among all 17, and among the left-out ones alone; who is named instead."""
    rows = torch.isin(data[1], held())
    probs, labels = model.predict_probs(data[0][rows], ids), data[1][rows]
    among, taken = held()[probs[:, held()].argmax(1)], probs.argmax(1)
    by_action, instead = {}, {}
    for k in held().tolist():
        own = labels == k
        by_action[nb.ACTIONS[k]] = [share(answer[own] == k) for answer in (taken, among)]
        instead[nb.ACTIONS[k]] = nb.ACTIONS[taken[own].mode().values.item()]
    return dict(new_all=share(taken == labels), new_among=share(among == labels), new_by_action=by_action,
                instead=instead)


# ---------------------------------------------------------------- the tower learns, too


DATA = dict(films=FILMS, train=TRAIN, often=[OFTEN, *HARD], tests=540, test=92_000_000)
FROZEN = DATA | RATES | dict(frames="bf16", head="transf", batch=48)
INSIDE = {"shift": dict(div=8), "none": dict(div=0), "random": dict(div=8, start="random"),
          "held": dict(div=8, without=list(nb.HELD))}


def tower(variant: str, seed: int) -> nn.Module:
    """A new model whose image tower learns, with a mean behind it."""
    clip = load_clip("tiny")
    if variant == "random":
        torch.manual_seed(seed)
        clip = CLIP(clip.config)
    return nb.action_clip("mean", INSIDE[variant]["div"], frozen=False, clip=clip)


def train_tower(model: nn.Module, data: Films, steps: int, seed: int, **options) -> list[float]:
    model.encode_frames = half_precision()(model.encode_frames)
    losses = fit(model, *data, nb.prompt_ids(nb.ACTIONS), steps, seed, **options)
    del model.encode_frames
    return losses


@recorder.study(variants=tuple(INSIDE),
                recipe=lambda variant: DATA | RATES | dict(steps=160, batch=48, bf16=True) | INSIDE[variant])
def inside(variant: str, seed: int) -> dict:
    """With the shift, without it, with it from random weights, with it and three actions left out of training."""
    started, model, ids = time.process_time(), tower(variant, seed), nb.prompt_ids(nb.ACTIONS)
    data = without_held(frames("train")) if variant == "held" else frames("train")
    curve = train_tower(model, data, 160, seed)
    found = judged(model, frames("test"), ids, test_objects()) | dict(curve=[round(loss, 3) for loss in curve[::4]])
    if (variant, seed) == ("shift", 0):
        ship(model, (time.process_time() - started) / 60)
    return found | (new_only(model, frames("test"), ids) if variant == "held" else {})


def ship(model: nn.Module, minutes: float) -> None:
    """Everything that learnt: both towers and the temperature. The word vectors are the tiny CLIP's."""
    tensors = {k: v for k, v in model.clip.state_dict().items() if k != "token_embedding.weight"}
    card = dict(program="recordings/09_actionclip/record.py", run="inside:shift:0", films=FILMS, seen=160 * 48)
    path = recorder.path.with_name("shift.safetensors")
    save_weights(stored(tensors), path, "actionclip", dict(head="mean", div=8), card | toy_world())
    log_run("09_actionclip", path, minutes, 160 * 48, 0)


# ---------------------------------------------------------------- frozen frames


@recorder.study(variants=("mean", "conv1d", "conv1d_released", "lstm", "transf_small", "transf"),
                recipe=lambda variant: FROZEN | dict(steps=160, head=variant))
def heads(variant: str, seed: int) -> dict:
    """What stands behind the tower."""
    torch.manual_seed(seed)
    model, ids = nb.action_clip(variant), nb.prompt_ids(nb.ACTIONS)
    fit(model, *vectors("train"), ids, 160, seed)
    return judged(model, vectors("test"), ids, test_objects())


def repeating(repeats: int) -> Callable:
    """Batches in which a label stands `repeats` times: for `choose` of the chapter's fit."""
    def choose(labels: Tensor, batch: int, g: torch.Generator) -> Tensor:
        found = []
        for label in torch.randperm(len(nb.ACTIONS), generator=g)[: batch // repeats]:
            rows = (labels == label).nonzero()[:, 0]
            found.append(rows[torch.randint(len(rows), (repeats,), generator=g)])
        return torch.cat(found)

    return choose


def train_loss(variant: str, data: Films, steps: int, seed: int) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(seed)
    kind, repeats = variant.split("_")
    model, loss = nb.action_clip("transf"), dict(kl=nb.kl_loss, ce=nb.cross_entropy)[kind]
    return model, fit(model, *data, nb.prompt_ids(nb.ACTIONS), steps, seed, batch=16, loss=loss,
                      choose=repeating(int(repeats)))


@recorder.study(variants=tuple(f"{loss}_{n}" for n in REPEATS for loss in ("kl", "ce")),
                recipe=FROZEN | dict(steps=120, batch=16))
def losses(variant: str, seed: int) -> dict:
    """KL or cross-entropy, in batches of 16 films with 16, 4 or 2 labels, each as often as the others."""
    model, curve = train_loss(variant, vectors("train"), 120, seed)
    found = judged(model, vectors("test"), nb.prompt_ids(nb.ACTIONS))
    return found | dict(last_loss=round(sum(curve[-25:]) / 25, 4))


class OneHot(nb.ActionCLIP):
    """The same model without language: instead of a text each of K classes has a learned vector."""

    def __init__(self, clip: CLIP, head: nn.Module, classes: int):
        super().__init__(clip.requires_grad_(False), head)
        self.rows = nn.Parameter(torch.randn(classes, clip.config.embed_dim))
        self.scale = nn.Parameter(torch.tensor(20.0))

    def encode_text(self, ids: Tensor) -> Tensor:
        """Numbers of classes …×1 -> unit vectors …×D."""
        return F.normalize(self.rows, dim=-1)[ids[..., 0]]

    def loss(self, video_emb: Tensor, text_emb: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
        """Cross-entropy over all classes, whatever stands in the batch."""
        return F.cross_entropy(self.scale * video_emb @ F.normalize(self.rows, dim=-1).T, labels)


def rival(kind: str) -> tuple[nn.Module, Tensor, Callable]:
    """A new model of the study `data`, the ids of its labels, its loss."""
    if kind == "onehot":
        model = OneHot(load_clip("tiny"), nb.make_head("transf"), len(nb.ACTIONS))
        return model, torch.arange(len(nb.ACTIONS))[:, None, None], model.loss
    templates = nb.TEMPLATES if kind == "sixteen" else ("{}",)
    return nb.action_clip("transf"), nb.prompt_ids(nb.ACTIONS, templates), nb.kl_loss


@recorder.study(variants=tuple(f"{kind}_{n}" for n in FILMS_EACH for kind in ("sixteen", "one", "onehot")),
                recipe=FROZEN | dict(steps=80))
def data(variant: str, seed: int) -> dict:
    """Sixteen prompts, one prompt, or a one-hot head, by films an action."""
    torch.manual_seed(seed)
    kind, count = variant.split("_")
    (x, labels), (test_x, test_labels) = vectors("train"), vectors("test")
    model, ids, loss = rival(kind)
    rows = first_of_each(labels, int(count), seed)
    if len(rows):
        fit(model, x[rows], labels[rows], ids, 80, seed, loss=loss)
    return dict(accuracy=share(model.eval().predict_probs(test_x, ids).argmax(1) == test_labels))


# ---------------------------------------------------------------- finer labels


def coarse_label(action: str) -> str:
    """What tells less than an action: that something moves, spins or bounces, without how."""
    for verb in ("moves", "spins", "bounces"):
        if verb in action.split():
            return f"an object {verb}"
    return action


def coarse_groups() -> list[str]:
    """The coarse label of each action."""
    return [coarse_label(action) for action in nb.ACTIONS]


def fine_accuracy(model: nn.Module, data: Films, ids: Tensor) -> dict[str, float]:
    """For each coarse group of several actions: the accuracy among its own fine texts."""
    groups, found = coarse_groups(), {}
    for group in dict.fromkeys(group for group in groups if groups.count(group) > 1):
        own = torch.tensor([k for k, other in enumerate(groups) if other == group])
        rows = torch.isin(data[1], own)
        best = own[model.predict_probs(data[0][rows], ids)[:, own].argmax(1)]
        found[group] = share(best == data[1][rows])
    return found


def coarsened(labels: Tensor) -> tuple[list[str], Tensor]:
    """The coarse texts, and the places of films' labels among them."""
    groups = coarse_groups()
    texts = list(dict.fromkeys(groups))
    return texts, torch.tensor([texts.index(group) for group in groups])[labels]


@recorder.study(variants=("transf",), recipe=FROZEN | dict(steps=160))
def coarse(variant: str, seed: int) -> dict:
    """Labels that only say moves, spins, bounces; then films of each group are asked for their fine texts."""
    torch.manual_seed(seed)
    (x, labels), (test_x, test_labels) = vectors("train"), vectors("test")
    texts, merged = coarsened(labels)
    model, fine, ids = nb.action_clip(variant), nb.prompt_ids(nb.ACTIONS), nb.prompt_ids(texts)
    before = fine_accuracy(model, (test_x, test_labels), fine)
    fit(model, x, merged, ids, 160, seed)
    hits = model.eval().predict_probs(test_x, ids).argmax(1) == coarsened(test_labels)[1]
    return dict(accuracy=share(hits), before=before, after=fine_accuracy(model, (test_x, test_labels), fine))


# ---------------------------------------------------------------- new actions


def joined(*parts: Films) -> Films:
    return torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])


def half_new(old: int, new: int) -> Callable:
    """Batches of which the second half are new films: these stand behind the `old` ones."""
    def choose(labels: Tensor, batch: int, g: torch.Generator) -> Tensor:
        return torch.cat([torch.randint(old, (batch // 2,), generator=g),
                          old + torch.randint(new, (batch // 2,), generator=g)])

    return choose


def by_shots(model: nn.Module, train: Films, pool: Films, test: Films, shots: Sequence[int], steps: int,
             seed: int) -> dict[str, list[float]]:
    """The model, trained on with some films of each new action, and a linear probe on the same frames: accuracy on
    films of the new actions, of all old ones (old_), and of the unread verb alone (zorgle_)."""
    ids = nb.prompt_ids((*nb.ACTIONS, ZORGLE))
    found = {f"{of}{who}": [] for of in ("", "old_", "zorgle_") for who in ("model", "probe")}
    start = {k: v.clone() for k, v in model.state_dict().items()}
    fresh = torch.isin(test[1], pool[1].unique())
    for count in shots:
        rows = first_of_each(pool[1], count, seed) if count else torch.empty(0, dtype=torch.long)
        shown = pool[0][rows], pool[1][rows]
        model.load_state_dict(start)
        if count:
            fit(model, *joined(train, shown), ids, steps, seed, choose=half_new(len(train[0]), len(rows)))
        old = first_of_each(train[1], 64, seed)
        x, labels = joined((train[0][old], train[1][old]), shown)
        answers = dict(model=model.eval().predict_probs(test[0], ids).argmax(1),
                       probe=metrics.linear_probe(x.flatten(1), labels, test[0].flatten(1)))
        for who, answer in answers.items():
            hits = answer == test[1]
            found[who].append(share(hits[fresh]))
            found[f"old_{who}"].append(share(hits[~fresh]))
            found[f"zorgle_{who}"].append(share(hits[test[1] == len(nb.ACTIONS)]))
    return found


@recorder.study(variants=("transf",), recipe=FROZEN | dict(
    steps=160, more_steps=40, shots=SHOTS, without=list(nb.HELD), zorgle=ZORGLE, new=[NEW, ZORGLE_TRAIN, ZORGLE_TEST]))
def new(variant: str, seed: int) -> dict:
    """A model that never saw HELD, nor the new verb, and what a few films of each change."""
    torch.manual_seed(seed)
    train, model = without_held(vectors("train")), nb.action_clip(variant)
    fit(model, *train, nb.prompt_ids((*nb.ACTIONS, ZORGLE)), 160, seed)
    x, labels = joined(vectors("new"), vectors("zorgle_train"))
    few = torch.isin(labels, torch.cat([held(), labels[-1:]]))
    test = joined(vectors("test"), vectors("zorgle_test"))
    found = new_only(model, vectors("test"), nb.prompt_ids(nb.ACTIONS))
    return found | dict(shots=list(SHOTS)) | by_shots(model, train, (x[few], labels[few]), test, SHOTS, 40, seed)


# ---------------------------------------------------------------- beside the runs


@recorder.extra
def figure() -> list:
    """The shipped model's answers to the films of the chapter's first figure: the action, and its probability."""
    model, ids, answers = nb.load_shift(), nb.prompt_ids(nb.ACTIONS), []
    for batch in nb.postcard_films():
        prob, best = model.predict_probs(nb.half_size(batch["frames"]), ids)[0].max(0)
        answers.append([nb.ACTIONS[best], round(prob.item(), 3)])
    return answers


# ---------------------------------------------------------------- the probe


@recorder.probe
def probe() -> dict:
    """Two steps of each kind of training, and each measurement of the model that ships."""
    train, test, found = drawn(50, TRAIN), nb.labelled_films(32, nb.TEST_SEED), {}
    for variant in ("shift", "random"):
        model = tower(variant, 0)
        found[f"inside.{variant}_loss"] = train_tower(model, train, 2, 0, batch=8)[-1]
    few, ids = (encoded(train[0]), train[1]), nb.prompt_ids(nb.ACTIONS)
    for variant in ("conv1d_released", "transf"):
        torch.manual_seed(0)
        found[f"heads.{variant}_loss"] = fit(nb.action_clip(variant), *few, ids, 2, 0, batch=8)[-1]
    for variant in ("kl_4", "ce_4"):
        found[f"losses.{variant}_loss"] = train_loss(variant, few, 2, 0)[1][-1]
    torch.manual_seed(0)
    model, numbers, loss = rival("onehot")
    rows = first_of_each(few[1], 2, 0)
    found["data.onehot_loss"] = fit(model, few[0][rows], few[1][rows], numbers, 2, 0, batch=8, loss=loss)[-1]
    return found | probe_measures(nb.load_shift(), test, few)


def probe_measures(model: nn.Module, test: Films, few: Films) -> dict:
    """What the studies measure, on few films, of the model that ships; few: other films as frozen vectors."""
    ids, found = nb.prompt_ids(nb.ACTIONS, nb.TEMPLATES[:2]), {}
    row = judged(model, test, ids, nb.film_objects(len(test[0]), nb.TEST_SEED))
    found["inside.frames_tell"], found["inside.frames_hide"] = nb.split_pairs(row["pairs"])
    found["inside.probs"] = model.predict_probs(test[0], ids).max(1).values.mean()
    row |= new_only(model, test, ids)
    found |= {f"inside.{key}": row[key] for key in ("accuracy", "names", "new_all", "new_among")}
    found["coarse.labels"] = coarsened(test[1])[1].float().mean()
    found["coarse.moves"] = fine_accuracy(model, test, ids)["an object moves"]
    known, blinking = without_held(few), zorgles(4, ZORGLE_TRAIN)
    pool = encoded(blinking[0]), blinking[1]
    shots = by_shots(nb.action_clip("mean"), known, pool, joined(few, pool), (2,), 2, 0)
    return found | {f"new.{key}": sum(values) for key, values in shots.items()}


if __name__ == "__main__":
    sys.exit(recorder.main())
