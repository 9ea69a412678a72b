"""The answers to chapter 1's exercises."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes.check.exercises import Exercise
from clipnotes.check.parity import golden
from clipnotes.clip import ResidualAttentionBlock, VisionTransformer, clip_loss


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def texts() -> list[tuple[Tensor]]:
    """Unit vectors T×K×D, of templates and names; in the second as many templates as names."""
    return [(unit(3, 4, 5, seed=1),), (unit(4, 4, 6, seed=2),), (unit(1, 2, 3, seed=3),)]


def scaled_pairs() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Pairs of unit vectors and the logarithm of a factor."""
    return [(*unit(2, n, 4, seed=n), torch.tensor(factor).log()) for n, factor in ((6, 14.3), (3, 50.0), (1, 2.0))]


def one_way(image_emb: Tensor, text_emb: Tensor, factor: Tensor) -> Tensor:
    return F.cross_entropy(factor * image_emb @ text_emb.T, torch.arange(len(image_emb)))


def sigmoid_cases() -> list[tuple]:
    return [(*unit(2, 6, 4, seed=3), 10.0, -10.0), (*unit(2, 3, 5, seed=4), 5.0, -1.0),
            (*unit(2, 2, 2, seed=5), 1.0, 0.0)]


def sigmoid_terms(image_emb: Tensor, text_emb: Tensor, factor: float, offset: float) -> Tensor:
    z = 2 * torch.eye(len(image_emb)) - 1
    return -F.logsigmoid(z * (factor * image_emb @ text_emb.T + offset))


class OtherActivation(ResidualAttentionBlock):
    """Exact GELU."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        self.mlp = nn.Sequential(OrderedDict(c_fc=self.mlp.c_fc, gelu=nn.GELU(), c_proj=self.mlp.c_proj))


class NormAfter(ResidualAttentionBlock):
    """Each norm behind the sum."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.ln_1(x + self.attn(x, mask))
        return self.ln_2(x + self.mlp(x))


class NothingAdded(ResidualAttentionBlock):
    """No shortcut around the MLP."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.mlp(self.ln_2(x + self.attn(self.ln_1(x), mask)))


def in_the_tower(block: type[nn.Module], flipped: bool) -> Tensor:
    """The features that the image tower gives with this block and the official weights."""
    tensors, config = golden("clip.vit")
    sizes = {key: config[key] for key in ("patch_size", "width", "layers", "heads")}
    tower = VisionTransformer(config["input_resolution"], **sizes, embed_dim=config["output_dim"])
    blocks = [block(sizes["width"], sizes["heads"]) for _ in range(sizes["layers"])]
    tower.transformer.resblocks = nn.ModuleList(blocks)
    prefix = "weights/visual."
    tower.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith("weights/")})
    image = tensors["in/image"]
    return tower.eval()(image.flip(3) if flipped else image)


EXERCISES = {
    "negatives": Exercise(
        reference=lambda pairs, groups: groups * ((pairs // groups) ** 2 - pairs // groups),
        twins=[(lambda pairs, groups: pairs * pairs - pairs, "pairs of different groups never meet: there are several "
                "small tables."),
               (lambda pairs, groups: groups * ((pairs // groups) ** 2 - 1),
                "a table of n pairs has n true ones, not one."),
               (lambda pairs, groups: (pairs // groups) ** 2 - pairs // groups,
                "that is one group; count all of them.")],
        hint="how large is the table of one group, and how many of its entries are true pairs?",
        cases=lambda: [(64, 1), (64, 8), (12, 3), (5, 5)],
    ),
    "ensemble": Exercise(
        reference=lambda text_emb: F.normalize(text_emb.mean(0), dim=-1),
        twins=[(lambda text_emb: text_emb.mean(0),
                "the mean of unit vectors is shorter than one: names whose templates disagree would lose."),
               (lambda text_emb: F.normalize(text_emb.mean(1), dim=-1),
                "that is the mean over names; templates come first."),
               (lambda text_emb: text_emb[0], "that is the first template alone.")],
        hint="which axis are the templates? And how long is the mean of several unit vectors?",
        cases=texts,
        anew=["class_embeddings"],
    ),
    "repaired_loss": Exercise(
        reference=lambda image_emb, text_emb, s: clip_loss(image_emb, text_emb, s.exp()),
        twins=[(clip_loss, "both directions are there; the factor is still its logarithm (mistake 2)."),
               (lambda image_emb, text_emb, s: one_way(image_emb, text_emb, s.exp()), "columns are not asked yet."),
               (lambda image_emb, text_emb, s: 2 * clip_loss(image_emb, text_emb, s.exp()), "the two directions are "
                "averaged, not added.")],
        hint="compare equation 1.2: how many directions are asked? And what does the model store, the factor or its "
             "logarithm?",
        bug=one_way,
        cases=scaled_pairs,
        anew=["clip_loss", "clip_loss_naive"],
    ),
    "sigmoid_loss": Exercise(
        reference=lambda image_emb, *given: sigmoid_terms(image_emb, *given).sum() / len(image_emb),
        twins=[(lambda *given: sigmoid_terms(*given).mean(),
                "the sum runs over all entries and is divided by N, not by N times N."),
               (lambda image_emb, text_emb, factor, offset:
                -F.logsigmoid(factor * image_emb @ text_emb.T + offset).sum() / len(image_emb),
                "z is missing: off the diagonal the right answer is no.")],
        hint="z is 2 on the diagonal minus 1 everywhere: 2 * torch.eye(N) - 1. Sum over all entries, divide by N. "
             "F.logsigmoid helps.",
        cases=sigmoid_cases,
        tolerance=1e-4,
    ),
    "my_block": Exercise(
        reference=ResidualAttentionBlock,
        twins=[(OtherActivation, "the activation is QuickGELU, not GELU."),
               (NormAfter, "each norm stands before its part, not behind the sum."),
               (NothingAdded, "the MLP adds to its input, too.")],
        hint="x plus attention of the norm of x; then x plus the MLP of its norm; QuickGELU inside.",
        cases=lambda: [(False,), (True,)],
        use=in_the_tower,
        anew=["ResidualAttentionBlock"],
    ),
}
