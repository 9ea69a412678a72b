"""GroupViT (chapter 3): the grouping block, the hard choice, the encoder, both losses, the segmentation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes.check.parity import Config, Pairs, Tensors, accepted, build, cases, component, load

RELEASE = "NVlabs/GroupViT at 13b7861"


@component()
def grouping_block(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(width, heads, groups, outputs) -> module, (segments B×S×D, group tokens B×G×D) -> (new segments B×M×D,
    soft map B×M×S).

    Usual mistakes: softmax over the groups, dim=-2; scores divided by sqrt(width); one head; the mean divides
    by the number of members plus 1; norms on group tokens and segments; the pre-assignment block is x +
    attn(x), then x + mlp(norm2(x)), then norm_post; new + mlp_channels(norm_new_x(new)); exact GELU.
    """
    segments, group_tokens = tensors["in/x"], tensors["in/group_tokens"]
    named = dict(width=segments.shape[-1], heads=config["heads"], groups=group_tokens.shape[1],
                 outputs=tensors["out/new_x"].shape[1])
    new, soft = load(build(candidate, **named), tensors)(segments, group_tokens)
    yield new, tensors["out/new_x"]
    yield soft, tensors["out/assign_soft"][:, 0]
    yield _chosen(soft), tensors["out/assign_hard"][:, 0].long()


def _chosen(soft: Tensor) -> Tensor:
    """The hard assignment of a soft map: 1 for each column's largest entry."""
    return F.one_hot(soft.argmax(-2), soft.shape[-2]).transpose(-1, -2)


@component("groupvit_grouping_block")
def gumbel(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(logits, noise, tau) -> one-hot along dim -2, with the gradient of the soft values.

    Usual mistakes: noise is added before the division by tau; one-hot of the largest along dim=-2; the
    gradient is that of the softmax (hard + soft - soft.detach()).
    """
    noise, upstream = tensors["in/gumbel_noise"], tensors["in/gumbel_upstream_grad"]
    for tau in cases(tensors, r"out/gumbel_hard_tau([\d.]+)"):
        with torch.enable_grad():
            logits = tensors["in/gumbel_logits"].clone().requires_grad_()
            hard = candidate(logits, noise, float(tau))
            hard = hard + 0 * logits  # where it has no gradient, that is nothing
            gradient = torch.autograd.grad((hard * upstream).sum(), logits)[0]
        yield hard, tensors[f"out/gumbel_hard_tau{tau}"]
        yield gradient, tensors[f"out/gumbel_hard_tau{tau}_grad"]


@component()
def encoder(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(image_size, patch_size, width, depths, heads, group_tokens, output_groups), or a function of these ->
    module, standardised images B×3×H×W -> (tokens B×G×D, list of soft maps). `output_groups` has one entry
    fewer than `depths`.

    Usual mistakes: no class token; a norm after the patches; the second stage's tokens are its own parameter
    plus the projected tokens of the first stage after its blocks; a final norm; maps are B×M×S.
    """
    stages = cases(tensors, r"out/assign_soft_(\d+)")
    named = dict(image_size=config["img_size"], patch_size=config["patch_size"], width=config["embed_dim"],
                 depths=tuple(config["depths"]), heads=config["num_heads"][0],
                 group_tokens=tuple(config["num_group_tokens"]),
                 output_groups=tuple(config["num_output_groups"][: len(stages)]))
    tokens, maps = load(build(candidate, **named), tensors)(tensors["in/image"])
    yield tokens, tensors["out/feat"]
    yield tokens.mean(1), tensors["out/x"]
    for stage, soft in zip(sorted(stages, key=int), maps, strict=True):
        yield soft, tensors[f"out/assign_soft_{stage}"][:, 0]
        yield _chosen(soft), tensors[f"out/assign_hard_{stage}"][:, 0].long()


def _loss(candidate: Any, tensors: Tensors, config: Config, texts: str, kind: str) -> Pairs:
    image_emb, text_emb = (F.normalize(tensors[f"in/{key}"], dim=-1) for key in ("image", texts))
    for case in cases(tensors, "in/scale_(.+)"):
        factor = tensors[f"in/scale_{case}"].clamp(max=config["clamp_max"])
        yield candidate(image_emb, text_emb, factor), tensors[f"out/{kind}_{case}"]


@component("groupvit_multilabel_loss")
def contrastive(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(unit image vectors B×E, unit text vectors B×E, the factor) -> loss.

    Usual mistakes: features are unit vectors; the scale is the factor, at most 100; both directions.
    """
    yield from _loss(candidate, tensors, config, "text", "contrastive")


@component()
def multilabel_loss(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(unit image vectors B×E, unit text vectors B×K×E, the factor) -> loss.

    Usual mistakes: each image has K right texts of weight 1/K among B·K; each text has one right image; the
    mean over rows of each direction, then half of the sum.
    """
    yield from _loss(candidate, tensors, config, "text_multi", "multilabel")


@component()
def segment(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(tokens 1×G×D, list of soft maps, projector, text_emb K×E, the factor, grid, size, threshold or None)
    -> planes 1×K×H×W, with a threshold 1×(1+K)×H×W, the background first. May take `top_k`, how many names
    compete.

    Usual mistakes: soft maps are multiplied, enlarged, then argmax over groups; p·q, where q is the softmax
    over the five best names of the pooled image; background below min(threshold, the best score of all
    groups).
    """
    stages = sorted(cases(tensors, r"in/assign_soft_(\d+)"), key=int)
    maps = [tensors[f"in/assign_soft_{stage}"][:, 0] for stage in stages]
    factor, grid = tensors["in/logit_scale"].exp().clamp(max=100).item(), tuple(config["grid"])
    inputs = (tensors["in/feat"], maps, _projector(tensors), tensors["in/text_embedding"], factor, grid,
              tuple(tensors["in/image_size"].tolist()))
    constants = accepted(candidate, top_k=config.get("top_k"))
    yield candidate(*inputs, None, **constants), tensors["out/pred_nobg"]
    for digits in cases(tensors, r"out/pred_bg(\d+)"):
        yield candidate(*inputs, float(f"0.{digits}"), **constants), tensors[f"out/pred_bg{digits}"]


def _projector(tensors: Tensors) -> Any:
    """The release's projector, tokens …×D -> …×E: a linear map, batch norm and ReLU, then a linear map."""
    w = {k.removeprefix("weights/img_projector."): v for k, v in tensors.items() if k.startswith("weights/")}
    norm = [w[f"linear_hidden.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]

    def project(x: Tensor) -> Tensor:
        shape = x.shape[:-1]
        x = F.conv1d(x.reshape(-1, x.shape[-1], 1), w["linear_hidden.0.weight"], w["linear_hidden.0.bias"])
        x = F.conv1d(F.relu(F.batch_norm(x, *norm)), w["linear_out.weight"], w["linear_out.bias"])
        return x.view(*shape, -1)

    return project
