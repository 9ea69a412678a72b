"""Train a tiny CLIP on the toy world: captions and the symmetric contrastive loss, nothing else.

    python recordings/tiny/train.py --out build/tiny.safetensors --images 1200000
    torchrun --standalone --nproc-per-node 2 recordings/tiny/train.py --out build/tiny.safetensors --images 4000000

Needs torch, numpy, pillow and safetensors. Stop it at any time, or kill it: the same command goes on from the state,
`build/tiny.state`, which is written every minute, and ends with the same weights as a run that was not stopped; on a
CPU, bit for bit. The learning rate is constant, then falls to zero over the last part (--decay): a run that is resumed
with fewer --images anneals at once. Pictures start small and grow (--sizes): cost follows tokens (Li et al. 2023,
CLIPA). Rendered pictures wait in a pool and are seen --reuse times on average.
"""

import argparse
import json
import math
import os
import sys
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # two busy ranks on two cores: waiting threads must not spin
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from clipnotes import grammar, toyworld
from clipnotes.clip import CLIP, CLIPConfig, clip_loss, load_clip, save_clip
from clipnotes.files import atomic_write, digest, lock
from clipnotes.tokenizer import tokenize
from clipnotes.weights import load_weights, save_weights, toy_world

LENGTH, VOCABULARY, PATCH = 40, 49408, 8
LEDGER = Path(__file__).resolve().parents[1] / "ledger.md"
SAVE_SECONDS = 60.0
FILL = 256  # pictures that are rendered at a time when a pool is filled
KIND = "training state"
# What a resumed run may do otherwise than it began: how long it is, how fast it learns.
FREE = {"images", "decay", "sizes", "lr", "muon", "compile"}


# ---------------------------------------------------------------- the command


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. Ends the program with one sentence where an option is impossible."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--images", type=int, required=True, help="pictures to be seen, all ranks together")
    p.add_argument("--arch", choices=("vit", "rn"), default="vit")
    p.add_argument("--pool", choices=("tok", "avg"), default="tok", help="how the ViT makes one vector of its tokens")
    p.add_argument("--layers", type=int, default=5)
    p.add_argument("--batch", type=int, default=256, help="pictures a step, all ranks together")
    p.add_argument("--lr", type=float, default=1e-3, help="of AdamW, for vectors and embeddings")
    p.add_argument("--muon", type=float, default=4e-3, help="learning rate of Muon, for matrices; 0: AdamW for all")
    p.add_argument("--decay", type=float, default=0.3, help="last share of the run, in which the learning rate falls")
    p.add_argument("--sizes", default="32:0.35,48:0.7,64:0.93,96:1",
                   help="side of the pictures : share of the run until which it holds")
    p.add_argument("--names", type=int, default=None, help="only so many names (a fixed random choice)")
    p.add_argument("--reuse", type=float, default=2.0, help="how often a rendered picture is seen, on average")
    p.add_argument("--pool-size", type=int, default=16384, help="rendered pictures that wait, a rank")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16",
                   help="bfloat16: twice as fast where the processor has it (AMX, AVX-512), else ten times slower")
    p.add_argument("--compile", action="store_true", help="compile the image tower (needs a C++ compiler)")
    p.add_argument("--warm-start", type=Path, help="a checkpoint whose weights to begin with")
    p.add_argument("--minutes", type=float, default=math.inf, help="stop, resumable, after so many minutes")
    args = p.parse_args(argv)
    try:
        check(args, int(os.environ.get("WORLD_SIZE", 1)))
    except ValueError as error:
        p.error(str(error))
    return args


def check(args: argparse.Namespace, world: int = 1) -> None:
    """ValueError, in one sentence, for numbers that make no run, and for a target that cannot be written."""
    def need(good: bool, sentence: str) -> None:
        if not good:
            raise ValueError(sentence)

    for name in ("images", "layers", "batch"):
        need(getattr(args, name) >= 1, f"--{name} is a whole number above 0, not {getattr(args, name)}.")
    need(args.batch % world == 0, f"--batch {args.batch} is no multiple of {world}, the number of ranks.")
    need(0 < args.lr < math.inf, f"--lr is a number above 0, not {args.lr}.")
    need(0 <= args.muon < math.inf, f"--muon is 0 or a number above it, not {args.muon}.")
    need(0 <= args.decay <= 1, f"--decay is a share of the run, from 0 to 1, not {args.decay}.")
    need(0 < args.reuse < math.inf, f"--reuse is a number above 0, not {args.reuse}.")
    need(args.pool_size >= FILL, f"--pool-size is at least {FILL}, not {args.pool_size}.")
    need(fresh(args, world) <= args.pool_size // FILL * FILL,
         f"--pool-size {args.pool_size} is too small: {fresh(args, world)} new pictures come with each step.")
    need(args.seed >= 0, f"--seed is 0 or a whole number above it, not {args.seed}.")
    need(args.minutes >= 0, f"--minutes is 0 or a number above it, not {args.minutes}.")
    known = len(grammar.concepts())
    need(args.names is None or 1 <= args.names <= known, f"--names is a number from 1 to {known}, not {args.names}.")
    check_sizes(args)
    check_target(args.out)


def check_sizes(args: argparse.Namespace) -> None:
    """ValueError where --sizes are not sides that patches divide, with shares that grow to 1."""
    try:
        parts = sizes(args)
    except ValueError:
        raise ValueError(f"--sizes are sides and shares, as in 32:0.5,64:1, not {args.sizes!r}.") from None
    step = PATCH if args.arch == "vit" else 16  # a ResNet sees twice the side, and divides it by 32
    for side, _ in parts:
        if side < step or side % step:
            raise ValueError(f"--sizes: a side is a multiple of {step} pixels, not {side}.")
    shares = [0.0, *(share for _, share in parts)]
    if shares[-1] != 1 or not all(a < b for a, b in zip(shares, shares[1:], strict=False)):
        raise ValueError(f"--sizes: the shares grow, and end with 1: {args.sizes!r} does not.")


def check_target(out: Path) -> None:
    """ValueError where the model could not be written at last."""
    if out.suffix != ".safetensors" or out.is_dir():
        raise ValueError(f"--out is a file that ends in .safetensors, not {out}.")
    probe = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written ({error.strerror}).") from error


def options(args: argparse.Namespace) -> dict:
    """What of the command decides the weights, as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("out", "minutes")}


def sizes(args: argparse.Namespace) -> list[tuple[int, float]]:
    """The sides of pictures, each with the share of the run until which it holds."""
    parts = [part.split(":") for part in args.sizes.split(",")]
    return [(int(side), float(share)) for side, share in parts]


def fresh(args: argparse.Namespace, world: int) -> int:
    """How many pictures of a rank's pool each step replaces."""
    return max(16, round(args.batch // world / args.reuse))


def rate(seen: int, args: argparse.Namespace) -> float:
    """The learning rate as a share of its base: it warms up, holds, and falls to zero."""
    warm = min(1.0, (seen + args.batch) / 20_000)
    left = (args.images - seen) / (args.decay * args.images) if args.decay else 1.0
    return warm * min(1.0, max(0.0, left))


def side_at(seen: int, args: argparse.Namespace) -> int:
    """The side of the pictures, in pixels, after so many of them."""
    side = next((side for side, share in sizes(args) if seen < share * args.images), sizes(args)[-1][0])
    return side if args.arch == "vit" else side * 2 // 32 * 32


# ---------------------------------------------------------------- the model and its data


def config(args: argparse.Namespace, tokens: int) -> CLIPConfig:
    """The shape of the model while it is trained: its vocabulary is the tokens that captions hold."""
    text = dict(context_length=LENGTH, vocab_size=tokens, text_width=128, text_layers=3, text_heads=2)
    if args.arch == "rn":
        return CLIPConfig(128, 128, (1, 2, 2, 1), 16, None, **text)
    return CLIPConfig(128, 64, args.layers, 128, PATCH, **text, pool=args.pool, vision_heads=2)


def trained_ids() -> Tensor:
    """The ids of all tokens that captions can hold, in order: their places are the ids used in training."""
    words = sorted(grammar.words())
    return tokenize(words, LENGTH).unique()


def chosen_names(count: int | None) -> list[str]:
    """All shipped names, or the `count` names of a short run (--names)."""
    everything = [c.name for c in grammar.concepts()]
    if not count:
        return everything
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    return [everything[i] for i in order[:count].tolist()]


class Pool:
    """Rendered pictures and the ids of their captions; each draw replaces 1/reuse of a batch by new ones.

    Which pictures it holds after so many draws follows from `start`, the first of the seeds: so it is not stored, but
    rendered again.
    """

    def __init__(self, args: argparse.Namespace, size: int, ids: Tensor, rank: int, world: int, start: int,
                 draws: int = 0):
        self.args, self.size, self.ids, self.rank, self.world = args, size, ids, rank, world
        self.names = chosen_names(args.names) if args.names else None
        self.start, self.draws, self.fresh = start, draws, fresh(args, world)
        self.filled = args.pool_size // FILL * FILL
        self.images = torch.zeros(self.filled, 3, size, size, dtype=torch.uint8)
        self.texts = torch.zeros(self.filled, LENGTH, dtype=torch.long)
        self.generator = torch.Generator().manual_seed(args.seed * 1000 + rank + 7919 * start)
        self.step, self.cursor = start + self.filled // FILL, 0
        parts = [(start + i, i * FILL, FILL) for i in range(self.filled // FILL)]
        parts += [self.next_part() for _ in range(draws)]
        for part in visible(parts, self.filled):
            self.put(*part)

    def next_part(self) -> tuple[int, int, int]:
        """The number, place and length of the part that a draw renders; and on to the one after it."""
        if self.cursor + self.fresh > self.filled:
            self.cursor = 0
        part = (self.step, self.cursor, self.fresh)
        self.step, self.cursor = self.step + 1, self.cursor + self.fresh
        return part

    def put(self, step: int, place: int, n: int) -> None:
        """Render n pictures of this step's seed into the pool."""
        seed = toyworld.batch_seed(self.args.seed, step, self.rank, self.world)
        batch = toyworld.pretraining(n, seed, self.size, names=self.names)
        at = slice(place, place + n)
        self.images[at] = (batch["images"] * 255).round().byte()
        texts = tokenize(batch["captions"], LENGTH)
        self.texts[at] = torch.searchsorted(self.ids, texts) * (texts > 0)

    def draw(self, n: int, side: int) -> tuple[Tensor, Tensor]:
        """n pictures, n×3×side×side, a little changed, and the ids of their captions, n×LENGTH."""
        self.put(*self.next_part())
        self.draws += 1
        pick = torch.randint(0, self.filled, (n,), generator=self.generator)
        images = self.images[pick].float() / 255
        if side != self.size:
            images = F.interpolate(images, (side, side), mode="area")
        return jitter(images, self.generator), self.texts[pick]


def visible(parts: list[tuple[int, int, int]], size: int) -> list[tuple[int, int, int]]:
    """Of parts (number, place, length) that were written one over the other, those of which something is left."""
    covered, left = torch.zeros(size, dtype=torch.bool), []
    for part in reversed(parts):
        at = slice(part[1], part[1] + part[2])
        if not covered[at].all():
            covered[at] = True
            left.append(part)
    return left[::-1]


def jitter(images: Tensor, g: torch.Generator) -> Tensor:
    """A little scale, shift and turn, so that a picture seen again is new; no mirror: captions know left from right."""
    n = len(images)
    scale, angle = 1 + 0.3 * (torch.rand(n, generator=g) - 0.5), 0.25 * (torch.rand(n, generator=g) - 0.5)
    shift = 0.2 * (torch.rand(n, 2, 1, generator=g) - 0.5)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.cat([torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2), shift], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def encode_texts(model: CLIP, ids: Tensor) -> Tensor:
    """Short texts apart from long ones: padding is not computed."""
    ends = ids.argmax(-1)
    order = ends.argsort()
    parts = [model.encode_ids(ids[part, : ends[part].max() + 1]) for part in order.chunk(3)]
    return torch.cat(parts)[order.argsort()]


# ---------------------------------------------------------------- several ranks


class Gather(torch.autograd.Function):
    """The rows of all ranks, in their order; the gradient comes back from all ranks."""

    @staticmethod
    def forward(ctx, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gathered_loss(image_emb: Tensor, text_emb: Tensor, scale: Tensor, world: int) -> Tensor:
    """The loss over the pictures of all ranks, with gradients through the gathering."""
    if world > 1:
        image_emb, text_emb = Gather.apply(image_emb), Gather.apply(text_emb)
    return clip_loss(image_emb, text_emb, scale)


def share_gradients(parameters: list, world: int) -> None:
    """The mean of the ranks' gradients: with `gathered_loss` exactly the gradient of one process."""
    if world > 1:
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        for p, g in zip(parameters, flat.div_(world).split([p.numel() for p in parameters]), strict=True):
            p.grad.copy_(g.view_as(p))


def of_first_rank(values: Tensor, world: int) -> Tensor:
    """What the first rank says, for all: clocks differ, and ranks that disagree would wait for each other for ever."""
    if world > 1:
        dist.broadcast(values, 0)
    return values


def of_all_ranks(values: Tensor, world: int) -> list[Tensor]:
    """What each rank says, in their order."""
    if world == 1:
        return [values]
    said = [torch.empty_like(values) for _ in range(world)]
    dist.all_gather(said, values)
    return said


# ---------------------------------------------------------------- the run


@dataclass
class Progress:
    """How far a run is: pictures seen, minutes spent, [pictures, loss, in-batch top-1] a minute, options over time."""

    seen: int = 0
    minutes: float = 0.0
    curve: list = field(default_factory=list)
    history: list = field(default_factory=list)


def optimizers(model: CLIP, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else; weight decay on what has two dimensions or more."""
    hidden, other, vectors = [], [], []
    for name, p in model.named_parameters():
        block = "resblocks" in name and p.ndim == 2
        (hidden if block and args.muon else vectors if p.ndim < 2 else other).append(p)
    adam = torch.optim.AdamW([dict(params=other, weight_decay=0.05), dict(params=vectors, weight_decay=0.0)],
                             lr=args.lr, betas=(0.9, 0.98), eps=1e-6)
    muon = [torch.optim.Muon(hidden, lr=args.muon, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")] if hidden else []
    for optimizer in (adam, *muon):
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
    return [adam, *muon]


class Training:
    """A run: its model, optimizers, pool and progress; one rank of it, where there are several."""

    def __init__(self, args: argparse.Namespace, rank: int = 0, world: int = 1, device: str = "cpu"):
        torch.manual_seed(args.seed)
        self.args, self.rank, self.world, self.device = args, rank, world, device
        self.ids, self.done, self.pool = trained_ids(), Progress(), None
        self.model = CLIP(config(args, len(self.ids))).to(device).train()
        self.state = args.out.with_suffix(".state")
        if args.warm_start and not self.state.exists():
            self.begin_with(args.warm_start)
        self.optimizers = optimizers(self.model, args)
        self.parameters = list(self.model.parameters())
        self.visual = torch.compile(self.model.visual, dynamic=False) if args.compile else self.model.visual
        self.sums = torch.zeros(3)  # loss, in-batch top-1, steps since they were last told
        if self.state.exists():
            self.restore()
        if not self.done.history or self.done.history[-1][1] != options(args):
            self.done.history.append([self.done.seen, options(args)])

    def begin_with(self, path: Path) -> None:
        """Take the weights of another run. ValueError, in one sentence, where there are none, or they do not fit."""
        try:
            state = load_clip(path).state_dict()
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"--warm-start: {error}") from error
        state["token_embedding.weight"] = state["token_embedding.weight"][self.ids]
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"--warm-start: the model in {path} has another shape than this one.") from error

    def step(self) -> None:
        """See one batch."""
        args, done, side = self.args, self.done, side_at(self.done.seen, self.args)
        if self.pool is None or side > self.pool.size:
            start = done.seen // args.batch * 4 + 1
            self.pool = Pool(args, max(64, side), self.ids, self.rank, self.world, start)
        images, texts = (t.to(self.device) for t in self.pool.draw(args.batch // self.world, side))
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=args.precision == "bfloat16"):
            image_emb, text_emb = self.visual(self.model.standardise(images)), encode_texts(self.model, texts)
        image_emb, text_emb = F.normalize(image_emb.float(), dim=-1), F.normalize(text_emb.float(), dim=-1)
        loss = gathered_loss(image_emb, text_emb, self.model.logit_scale.exp(), self.world)
        loss.backward()
        self.update()
        done.seen += args.batch
        hits = (image_emb @ text_emb.T).argmax(1).cpu() == torch.arange(len(image_emb))
        self.sums += torch.tensor([loss.item(), hits.float().mean().item(), 1.0])

    def precise(self) -> AbstractContextManager:
        """torch's Muon orthogonalises in bfloat16, whatever its matrices are; in float32 where that is asked."""
        wide = self.args.precision == "float32"
        return patch.object(Tensor, "bfloat16", Tensor.float) if wide else nullcontext()

    def update(self) -> None:
        """One step of the optimizers along the ranks' common gradient."""
        share_gradients(self.parameters, self.world)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * rate(self.done.seen, self.args)
            with self.precise():
                optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))  # the paper's clip

    def run(self) -> bool:
        """Train until all pictures are seen or the minutes are over. Returns whether a step was made."""
        first, before = self.done.seen, self.done.minutes
        begun = told = time.monotonic()
        while self.done.seen < self.args.images:
            now = time.monotonic()
            flags = torch.tensor([(now - begun) / 60 >= self.args.minutes, now - told > SAVE_SECONDS])
            stop, save = of_first_rank(flags.byte().to(self.device), self.world).tolist()
            if save or stop:
                self.done.minutes = before + (now - begun) / 60
                self.tell(now - told)
                self.save()
                told = time.monotonic()
            if stop:
                break
            self.step()
        else:
            self.done.minutes = before + (time.monotonic() - begun) / 60
            self.tell(time.monotonic() - told)
            self.save()
        return self.done.seen > first

    def tell(self, seconds: float) -> None:
        """Print and keep how the last steps went."""
        loss, top1, steps = self.sums.tolist()
        self.sums.zero_()
        if not steps:
            return
        done = self.done
        done.curve.append([done.seen, round(loss / steps, 4), round(top1 / steps, 4)])
        if self.rank == 0:
            print(f"{done.minutes:6.1f} min {done.seen:9,} pictures  side {side_at(done.seen - 1, self.args)}  "
                  f"loss {loss / steps:.3f}  in-batch top-1 {top1 / steps:.3f}  "
                  f"scale {self.model.logit_scale.exp().item():.1f}  "
                  f"{steps * self.args.batch / seconds:.0f}/s", flush=True)

    # ---------------------------------------------------------------- files

    def save(self) -> None:
        """Write all that the rest of the run follows from: weights, optimizers, each rank's generator, the position."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for j, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{key}": value for key, value in values.items()}
        card = asdict(self.done) | toy_world()
        if self.pool:
            card["drawn"] = dict(size=self.pool.size, start=self.pool.start, draws=self.pool.draws)
            generators = of_all_ranks(self.pool.generator.get_state().to(self.device), self.world)
            tensors |= {f"generator.{rank}": generator for rank, generator in enumerate(generators)}
        if self.rank == 0:
            tensors = {key: value.cpu() for key, value in tensors.items()}
            save_weights(tensors, self.state, KIND, options(self.args) | {"ranks": self.world}, card)

    def restore(self) -> None:
        """Go on where a state says. ValueError, in one sentence, where it is damaged or of another run."""
        try:
            tensors, begun, card = load_weights(self.state, KIND)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{error} To begin anew, delete {self.state}.") from error
        now = options(self.args) | {"ranks": self.world}
        other = [f"{key} {begun.get(key)}, not {now[key]}" for key in now.keys() - FREE if begun.get(key) != now[key]]
        if other:
            other = "; ".join(sorted(other))
            raise ValueError(f"{self.state} is of a run with {other}: give the same, or another --out.")
        self.model.load_state_dict(part(tensors, "model."))
        for i, optimizer in enumerate(self.optimizers):
            values: dict[int, dict[str, Tensor]] = {}
            for key, value in part(tensors, f"optimizer.{i}.").items():
                number, name = key.split(".")
                values.setdefault(int(number), {})[name] = value
            optimizer.load_state_dict(dict(state=values, param_groups=optimizer.state_dict()["param_groups"]))
        self.done = Progress(**{key: card[key] for key in asdict(self.done)})
        drawn = card.get("drawn")
        if drawn and side_at(self.done.seen, self.args) <= drawn["size"] and self.done.seen < self.args.images:
            self.pool = Pool(self.args, drawn["size"], self.ids, self.rank, self.world, drawn["start"], drawn["draws"])
            self.pool.generator.set_state(tensors[f"generator.{self.rank}"])
        if self.rank == 0:
            print(f"resumed at {self.done.seen:,} pictures", flush=True)

    def export(self) -> None:
        """Write the model as it ships: ids of the full vocabulary, fp16, a card."""
        full = CLIP(CLIPConfig(**asdict(self.model.config) | dict(vocab_size=VOCABULARY)))
        state = {k: v.cpu() for k, v in self.model.state_dict().items()}
        rows = state.pop("token_embedding.weight")
        table = torch.zeros(VOCABULARY, rows.shape[1])
        table[self.ids] = rows
        full.load_state_dict(state | {"token_embedding.weight": table})
        done = self.done
        card = dict(options(self.args), images=done.seen, minutes=round(done.minutes, 1), date=str(date.today()),
                    curve=done.curve, history=done.history, **toy_world())
        save_clip(full, self.args.out, self.ids, card)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def log_run(program: str, path: Path, minutes: float, images: int, seed: int) -> None:
    """One line in the ledger: what was spent on what."""
    sha = digest(path)[:12]
    row = f"| {program} | {path.name} | {minutes:.0f} | {images} | {seed} | {sha} |\n"
    with lock(LEDGER):
        atomic_write(LEDGER, LEDGER.read_text("utf-8") + row)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    cuda = torch.cuda.is_available()
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    try:
        training = Training(args, rank, world, device)
    except ValueError as error:  # a file that does not fit: no work was done yet
        raise SystemExit(f"train.py: {error}") from error
    trained = training.run()
    if rank == 0:
        done = training.done
        training.export()
        if trained and done.seen >= args.images:
            log_run("tiny/train", args.out, done.minutes, done.seen, args.seed)
        print(json.dumps(dict(out=str(args.out), images=done.seen, minutes=round(done.minutes, 1))))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
