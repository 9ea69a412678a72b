"""The answers to the exercises of chapter 3, GroupViT."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes.check.exercises import Exercise


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def one_hot(soft: Tensor, dim: int = -2) -> Tensor:
    """The hard choice along `dim`, without a gradient."""
    return torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)


# ---------------------------------------------------------------- chained maps, weighted means


def two_maps() -> list[tuple[Tensor, Tensor]]:
    g = generator()
    sizes = [(5, 3, 7), (4, 4, 4)]
    return [(torch.randn(2, m, s, generator=g).softmax(1), torch.randn(2, n, m, generator=g).softmax(1))
            for m, n, s in sizes]


def groups_and_maps() -> list[tuple[Tensor, Tensor]]:
    g = generator()
    return [(torch.randn(2, 3, 4, generator=g), torch.randn(2, 3, 10, generator=g).softmax(1)),
            (torch.randn(1, 5, 2, generator=g), torch.randn(1, 5, 40, generator=g).softmax(1))]


def weighted(tokens: Tensor, weights: Tensor) -> Tensor:
    return (weights[..., None] * tokens).sum(1)


# ---------------------------------------------------------------- the hard choice


def chooser(over: int = -2, of: int = -2, bracket: Callable = lambda logits, soft: soft - soft.detach()) -> Callable:
    """A hard choice: the softmax runs over `over`, the winner is taken along `of`; `bracket` carries the gradient."""
    def choose(logits: Tensor) -> Tensor:
        soft = logits.softmax(over)
        return one_hot(soft, of) + bracket(logits, soft)

    return choose


def nothing(logits: Tensor, soft: Tensor) -> Tensor:
    return (soft - soft).detach()


def choice_and_gradient(choose: Callable, logits: Tensor, upstream: Tensor) -> list[Tensor]:
    """What is chosen, and the gradient that reaches the scores; zeros where none does."""
    with torch.enable_grad():
        logits = logits.clone().requires_grad_()
        choice = choose(logits)
        gradient = torch.autograd.grad((choice * upstream + 0 * logits).sum(), logits)[0]
    return [choice.detach(), gradient]


def scores() -> list[tuple[Tensor, Tensor]]:
    g = generator()
    return [(2 * torch.randn(2, 4, 9, generator=g), torch.randn(2, 4, 9, generator=g)),
            (2 * torch.randn(1, 6, 30, generator=g), torch.randn(1, 6, 30, generator=g))]


# ---------------------------------------------------------------- slots


def slots(over: int = 1, scaled: bool = True, divided: bool = True) -> Callable:
    """Slot attention's update: the softmax over `over`, scores scaled or not, weights divided by their sum or not."""
    def update(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        shares = (queries @ keys.mT / (queries.shape[-1] ** 0.5 if scaled else 1)).softmax(over)
        return shares @ values / (shares.sum(2, keepdim=True) if divided else 1)

    return update


def queries_keys_values() -> list[tuple[Tensor, Tensor, Tensor]]:
    g = generator()
    return [tuple(torch.randn(B, n, D, generator=g) for n in (G, S, S)) for B, G, S, D in ((2, 3, 10, 8), (1, 4, 6, 4))]


# ---------------------------------------------------------------- the grouping block


def mlp(width: int, hidden: int, out: int) -> nn.ModuleDict:
    return nn.ModuleDict(dict(fc1=nn.Linear(width, hidden), fc2=nn.Linear(hidden, out)))


def run_mlp(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    return layers["fc2"](F.gelu(layers["fc1"](x)))


def projections(width: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Linear(width, width) for name in ("q_proj", "k_proj", "v_proj", "proj")})


def project(layers: nn.ModuleDict, groups: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the groups, keys and values of the segments."""
    return layers["q_proj"](groups), layers["k_proj"](segments), layers["v_proj"](segments)


def grouping_block(reads: bool = True, norms: bool = True, plus: float = 1.0, axis: int = -2) -> type[nn.Module]:
    """The released grouping block, or one without a part of it; twins may not inherit from one another."""
    class Block(nn.Module):
        def __init__(self, width: int, heads: int, groups: int, outputs: int):
            super().__init__()
            self.heads = heads
            self.norm_tokens, self.norm_x, self.norm_new_x = (nn.LayerNorm(width) for _ in range(3))
            self.mlp_inter, self.norm_post_tokens = mlp(groups, width // 2, outputs), nn.LayerNorm(width)
            self.pre_assign_attn = nn.ModuleDict(dict(
                attn=projections(width), mlp=mlp(width, 4 * width, width),
                norm2=nn.LayerNorm(width), norm_post=nn.LayerNorm(width)))
            self.assign, self.mlp_channels = projections(width), mlp(width, 4 * width, width)

        def read(self, groups: Tensor, segments: Tensor) -> Tensor:
            part = self.pre_assign_attn
            q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                       for x in project(part["attn"], groups, segments))
            found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            groups = groups + part["attn"]["proj"](found)
            return part["norm_post"](groups + run_mlp(part["mlp"], part["norm2"](groups)))

        def forward(self, segments: Tensor, group_tokens: Tensor) -> tuple[Tensor, Tensor]:
            segments = self.norm_x(segments) if norms else segments
            groups = self.norm_post_tokens(run_mlp(self.mlp_inter, self.norm_tokens(group_tokens).mT).mT)
            groups = self.read(groups, segments) if reads else groups
            q, k, v = project(self.assign, groups, segments)
            soft = (q @ k.mT * q.shape[-1] ** -0.5).softmax(axis)
            hard = one_hot(soft, axis)
            new = groups + self.assign["proj"](hard @ v / (hard.sum(-1, keepdim=True) + plus))
            return new + run_mlp(self.mlp_channels, self.norm_new_x(new)), soft

    return Block


EXERCISES = {
    "chain": Exercise(
        reference=lambda first, second: second @ first,
        twins=[(lambda first, second: one_hot(second) @ one_hot(first),
                "the maps stay soft: choose after they are chained, not before."),
               (lambda first, second: (second @ first).softmax(1),
                "the columns add up to one already: no softmax is missing."),
               (lambda first, second: first.mT @ second.mT,
                "groups come before patches: this is B×S×M2.")],
        hint="sum over the first groups: what of s went into m, times what of m went into g.",
        cases=two_maps,
    ),
    "weighted_mean": Exercise(
        reference=lambda tokens, soft: weighted(tokens, one_hot(soft).mean(2)),
        twins=[(lambda tokens, soft: tokens.mean(1), "every group counts alike still."),
               (lambda tokens, soft: weighted(tokens, soft.mean(2)),
                "these are soft shares: a patch belongs to its best group alone."),
               (lambda tokens, soft: weighted(tokens, one_hot(soft).sum(2)),
                "these are numbers of patches: the weights should add up to one.")],
        hint="hard_one_hot(soft) says who owns what; its mean over patches are the weights.",
        cases=groups_and_maps,
    ),
    "choose_groups": Exercise(
        reference=chooser(),
        twins=[(chooser(bracket=nothing), "the choice is right, but no gradient comes through: what is detached?"),
               (chooser(-1, -1), "a gradient comes through, but each group takes one patch: share the patches out."),
               (chooser(-1, -2), "the winner is taken over the groups, but the softmax still runs over the patches."),
               (chooser(bracket=lambda logits, soft: logits - logits.detach()),
                "the gradient should be that of the softmax, not that of the bare scores."),
               (lambda logits: logits.softmax(-2), "the choice is soft now: it should be ones and zeros.")],
        hint="two slips: an axis, and a term without a gradient.",
        bug=chooser(-1, -1, nothing),
        cases=scores,
        use=choice_and_gradient,
        anew=["hard_one_hot"],
    ),
    "slot_update": Exercise(
        reference=slots(),
        twins=[(slots(over=2, divided=False), "that is ordinary attention: the softmax runs over the inputs."),
               (slots(divided=False), "the weights of a slot do not add up to one yet."),
               (slots(scaled=False), "the scores are divided by the root of D first.")],
        hint="the softmax runs over the slots; then each slot's weights are divided by their sum over the inputs.",
        cases=queries_keys_values,
    ),
    "my_grouping_block": Exercise(
        reference=grouping_block(),
        twins=[(grouping_block(reads=False), "the groups should read the segments once more before they take them."),
               (grouping_block(norms=False), "the segments have a norm of their own, before anything reads them."),
               (grouping_block(plus=1e-6), "the mean divides by the number of members plus one."),
               (grouping_block(axis=-1), "the softmax and the choice run over the groups.")],
        hint="mix and norm the tokens, norm the segments, read, assign, add, one MLP behind a norm.",
        component="groupvit.grouping_block",
        anew=["GroupingBlock"],
    ),
}
