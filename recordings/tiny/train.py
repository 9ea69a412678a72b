"""Train a tiny CLIP on the toy world: captions and the symmetric contrastive loss, nothing else.

    python tools/train_clip.py --out build/tiny.safetensors --images 1200000
    torchrun --standalone --nproc-per-node 2 tools/train_clip.py --out build/tiny.safetensors --images 4000000

Needs torch, numpy, pillow and safetensors. Stop it at any time: it resumes from `<out>.state` with the same command.
The learning rate is constant, then falls to zero over the last part (--decay): a run that is resumed with fewer
--images anneals at once. Pictures start small and grow (--sizes): cost follows tokens (Li et al. 2023, CLIPA).
Rendered pictures wait in a pool and are seen --reuse times on average.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # two busy ranks on two cores: waiting threads must not spin
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.distributed as dist
import torch.nn.functional as F

from clipnotes import grammar, toyworld
from clipnotes.clip import CLIP, CLIPConfig, clip_loss, load_clip, save_clip
from clipnotes.tokenizer import tokenize
from clipnotes.weights import toy_world

LENGTH, VOCABULARY = 40, 49408


def parse(argv: list[str] | None = None) -> argparse.Namespace:
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
    p.add_argument("--compile", action="store_true", help="compile the image tower (needs a C++ compiler)")
    p.add_argument("--warm-start", type=Path, help="a checkpoint whose weights to begin with")
    p.add_argument("--minutes", type=float, default=math.inf, help="stop, resumable, after so many minutes")
    return p.parse_args(argv)


def config(args: argparse.Namespace, tokens: int) -> CLIPConfig:
    text = dict(context_length=LENGTH, vocab_size=tokens, text_width=128, text_layers=3, text_heads=2)
    if args.arch == "rn":
        return CLIPConfig(128, 128, (1, 2, 2, 1), 16, None, **text)
    return CLIPConfig(128, 64, args.layers, 128, 8, **text, pool=args.pool, vision_heads=2)


def trained_ids() -> torch.Tensor:
    """The ids of all tokens that captions can hold, in order: their places are the ids used in training."""
    words = sorted(grammar.words())
    return tokenize(words, LENGTH).unique()


class Pool:
    """Rendered pictures and the ids of their captions; each draw replaces 1/reuse of a batch by new ones."""

    def __init__(self, args, size: int, ids: torch.Tensor, rank: int, world: int, start: int):
        self.args, self.size, self.ids, self.rank, self.world = args, size, ids, rank, world
        self.names = None
        if args.names:
            order = torch.randperm(len(grammar.concepts()), generator=torch.Generator().manual_seed(0))
            self.names = [grammar.concepts()[i].name for i in order[: args.names].tolist()]
        self.fresh = max(16, round(args.batch // world / args.reuse))
        self.step, self.cursor, n = start, 0, args.pool_size
        self.images = torch.zeros(n, 3, size, size, dtype=torch.uint8)
        self.texts = torch.zeros(n, LENGTH, dtype=torch.long)
        self.generator = torch.Generator().manual_seed(args.seed * 1000 + rank + 7919 * start)
        while self.cursor + 256 <= n:
            self.put(256)
        self.filled, self.cursor = self.cursor, 0

    def put(self, n: int) -> None:
        seed = toyworld.batch_seed(self.args.seed, self.step, self.rank, self.world)
        batch = toyworld.pretraining(n, seed, self.size, names=self.names)
        self.step += 1
        at = slice(self.cursor, self.cursor + n)
        self.images[at] = (batch["images"] * 255).round().byte()
        texts = tokenize(batch["captions"], LENGTH)
        self.texts[at] = torch.searchsorted(self.ids, texts) * (texts > 0)
        self.cursor += n

    def draw(self, n: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.cursor + self.fresh > self.filled:
            self.cursor = 0
        self.put(self.fresh)
        pick = torch.randint(0, self.filled, (n,), generator=self.generator)
        images = self.images[pick].float() / 255
        if side != self.size:
            images = F.interpolate(images, (side, side), mode="area")
        return jitter(images, self.generator), self.texts[pick]


def jitter(images: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """A little scale, shift and turn, so that a picture seen again is new; no mirror: captions know left from right."""
    n = len(images)
    scale, angle = 1 + 0.3 * (torch.rand(n, generator=g) - 0.5), 0.25 * (torch.rand(n, generator=g) - 0.5)
    shift = 0.2 * (torch.rand(n, 2, 1, generator=g) - 0.5)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.cat([torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2), shift], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def encode_texts(model: CLIP, ids: torch.Tensor) -> torch.Tensor:
    """Short texts apart from long ones: padding is not computed."""
    ends = ids.argmax(-1)
    order = ends.argsort()
    parts = [model.encode_ids(ids[part, : ends[part].max() + 1]) for part in order.chunk(3)]
    return torch.cat(parts)[order.argsort()]


class Gather(torch.autograd.Function):
    """The rows of all ranks, in their order; the gradient comes back from all ranks."""

    @staticmethod
    def forward(ctx, mine: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def gathered_loss(image_emb, text_emb, scale, world: int) -> torch.Tensor:
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


def optimizers(model: CLIP, args) -> list[torch.optim.Optimizer]:
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


def rate(seen: int, args) -> float:
    warm = min(1.0, (seen + args.batch) / 20_000)
    return warm * min(1.0, max(0.0, (args.images - seen) / (args.decay * args.images)))


def side_at(seen: int, args) -> int:
    for part in args.sizes.split(","):
        side, until = part.split(":")
        if seen < float(until) * args.images:
            return int(side) if args.arch == "vit" else int(side) * 2 // 32 * 32
    return int(side)


@dataclass
class Progress:
    """How far a run is: pictures seen, minutes spent, [pictures, loss, in-batch top-1] a minute, options over time."""

    seen: int = 0
    minutes: float = 0.0
    curve: list = field(default_factory=list)
    history: list = field(default_factory=list)


def options(args) -> dict:
    """What of the command decides the weights, as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("out", "minutes")}


def save_state(path: Path, model, optims, done: Progress) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optims], progress=asdict(done)),
               temporary)
    os.replace(temporary, path)


def load_state(path: Path, model, optims, device: str) -> Progress:
    state = torch.load(path, weights_only=True, map_location=device)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optims, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    print(f"resumed at {state['progress']['seen']:,} pictures", flush=True)
    return Progress(**state["progress"])


def export(model: CLIP, ids: torch.Tensor, args, done: Progress) -> None:
    """The shipped form: ids of the full vocabulary, fp16, a card."""
    shape = asdict(model.config) | dict(vocab_size=VOCABULARY)
    full = CLIP(CLIPConfig(**shape))
    state = {k: v.cpu() for k, v in model.state_dict().items()}
    rows = state.pop("token_embedding.weight")
    table = torch.zeros(VOCABULARY, rows.shape[1])
    table[ids] = rows
    full.load_state_dict(state | {"token_embedding.weight": table})
    card = dict(options(args), images=done.seen, minutes=round(done.minutes, 1), date=str(date.today()),
                curve=done.curve, history=done.history, **toy_world())
    save_clip(full, args.out, ids, card)


def log_run(program: str, path: Path, minutes: float, images: int, seed: int) -> None:
    """One line in the ledger: what was spent on what."""
    ledger = Path(__file__).parent / "ledger.md"
    if not ledger.exists():
        ledger.write_text("# Ledger\n\nWhat the training programs spent; they write it themselves.\n\n"
                          "| program | file | minutes | images | seed | sha256 |\n|---|---|---|---|---|---|\n", "utf-8")
    sha = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    with ledger.open("a", encoding="utf-8") as file:
        file.write(f"| {program} | {path.name} | {minutes:.0f} | {images} | {seed} | {sha} |\n")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    cuda = torch.cuda.is_available()
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu"
    if not cuda:
        torch.set_num_threads(1 if world > 1 else torch.get_num_threads())
    torch.manual_seed(args.seed)
    ids = trained_ids()
    model = CLIP(config(args, len(ids))).to(device)
    if args.warm_start:
        old = load_clip(args.warm_start)
        state = old.state_dict()
        state["token_embedding.weight"] = state["token_embedding.weight"][ids]
        model.load_state_dict(state)
    optims = optimizers(model, args)
    parameters = list(model.parameters())
    state_file = args.out.with_suffix(".state")
    done = load_state(state_file, model, optims, device) if state_file.exists() else Progress()
    if not done.history or done.history[-1][1] != options(args):
        done.history.append([done.seen, options(args)])
    visual = torch.compile(model.visual, dynamic=False) if args.compile else model.visual
    model.train()
    pool, told, spent = None, time.time(), done.minutes
    begun = time.time()
    sums = torch.zeros(3)
    while done.seen < args.images and (time.time() - begun) / 60 < args.minutes:
        side = side_at(done.seen, args)
        if pool is None or side > pool.size:
            pool = Pool(args, max(64, side), ids, rank, world, start=done.seen // args.batch * 4 + 1)
        images, texts = (t.to(device) for t in pool.draw(args.batch // world, side))
        for optimizer in optims:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * rate(done.seen, args)
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            image_emb, text_emb = visual(model.standardise(images)), encode_texts(model, texts)
        image_emb, text_emb = F.normalize(image_emb.float(), dim=-1), F.normalize(text_emb.float(), dim=-1)
        loss = gathered_loss(image_emb, text_emb, model.logit_scale.exp(), world)
        loss.backward()
        share_gradients(parameters, world)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optims:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))  # the paper's clip
            hits = (image_emb @ text_emb.T).argmax(1).cpu() == torch.arange(len(image_emb))
        done.seen += args.batch
        sums += torch.tensor([loss.item(), hits.float().mean().item(), 1.0])
        if rank == 0 and (time.time() - told > 60 or done.seen >= args.images):
            done.minutes = spent + (time.time() - begun) / 60
            mean = (sums / sums[2]).tolist()
            done.curve.append([done.seen, round(mean[0], 4), round(mean[1], 4)])
            speed = sums[2] * args.batch / (time.time() - told)
            print(f"{done.minutes:6.1f} min {done.seen:9,} pictures  side {side}  loss {mean[0]:.3f}  in-batch top-1 "
                  f"{mean[1]:.3f}  scale {model.logit_scale.exp().item():.1f}  {speed:.0f}/s", flush=True)
            sums.zero_()
            told = time.time()
            save_state(state_file, model, optims, done)
    if rank == 0:
        done.minutes = spent + (time.time() - begun) / 60
        save_state(state_file, model, optims, done)
        export(model, ids, args, done)
        if done.seen >= args.images:
            log_run("train_clip", args.out, done.minutes, done.seen, args.seed)
        print(json.dumps(dict(out=str(args.out), images=done.seen, minutes=round(done.minutes, 1))))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
