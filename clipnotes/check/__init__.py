"""Truth in assertions: claims, parity with the releases, self-checks, quizzes, cards.

When the environment variable CLIPNOTES_RECORDS names a folder, claims and parity results are also written
there, one JSON file a chapter: the book's results, parity and notes-map pages are made from these files.
`clipnotes.start` removes the chapter's file first, so a file holds one run.
"""

import html
import json
import math
import os
import random
import sys
from collections.abc import Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes.check.claims import claim, rounded, shown  # noqa: F401

# ---------------------------------------------------------------- parity

Pairs = list[tuple]  # what the candidate gives, what the release gives and, where it is not 1e-5, what is allowed
_RELEASES = {"clip": "openai/CLIP at d05afc4", "lseg": "isl-org/lang-seg at bb00b21",
             "groupvit": "NVlabs/GroupViT at 13b7861",
             "clipasso": "yael-vinker/CLIPasso at 92262f7", "clipasso.rasteriser": "BachiLi/diffvg at 85802a7",
             "clip4clip": "ArrowLuo/CLIP4Clip at 508ffa3",
             "actionclip": "sallymmx/ActionCLIP at 31c34df",
             "pointclip": "ZrrSkywalker/PointCLIP at 8656f2c",
             **dict.fromkeys(("pointclip.v2_project", "pointclip.v2_grid"), "yangyangyang127/PointCLIP_V2 at 0b5aee8"),
             "depthclip": "Adonis-galaxy/DepthCLIP at e247c87"}
_SAME_FILE = {"groupvit.gumbel": "groupvit.grouping_block", "groupvit.contrastive": "groupvit.multilabel_loss",
              "clipasso.rasteriser": "rasteriser", "clipasso.saliency": "clipasso.saliency_init",
              "clipasso.xdog": "clipasso.saliency_init", "clipasso.sampling": "clipasso.saliency_init",
              "clip4clip.loss": "clip4clip.meanP",
              "actionclip.conv1d_released": "actionclip.conv1d",
              "pointclip.views": "pointclip.project", "pointclip.v2_grid": "pointclip.v2_project"}
_CAUSES = {  # what is usually wrong; shown with a failure
    "actionclip.kl_loss": "the target is softmax(10 * same label) over a row; KL(target || softmax(logits)), summed "
    "over columns and averaged over rows (batchmean); the mean of both directions; the scale is the factor itself.",
    "actionclip.shift": "the first C/div channels come from the next frame, as many from the one before, zeros at the "
    "ends; nothing wraps; the class token stays.",
    "actionclip.transf": "positions are added for the blocks, not for the shortcut; norms with eps 1e-12; QuickGELU; "
    "no mask; the shortcut is the frames themselves; then the mean over time.",
    "actionclip.lstm": "one layer, batch first, in one direction; plus the frames; then the mean over time.",
    "actionclip.conv1d": "depthwise kernel of 3 over time, so B×T×C has to be transposed; no bias; plus the frames; "
    "then the mean over time.",
    "actionclip.conv1d_released": "B×T×C is reinterpreted as B×C×T without moving a number; the result is transposed.",
    "pointclip.views": "the transpose of Rx Ry Rz; sides (k 90, 0, 90 degrees), corners (225 or 315, -+45, 90) for ten "
    "views, ends (0, -+90, 90) last; the translation is minus the distance along z.",
    "pointclip.project": "subtract the translation after the rotation; x gives the row, y the column; ceil(t - 0.5), "
    "not ceil; the harmonic mean n / sum(1/z) in a pixel; what lies beyond the canvas is dropped.",
    "pointclip.adapter": "views times fusion_ratio only for the global vector; one batch norm a channel for all views; "
    "a ReLU at the end of the correction; ratio times correction plus (1 - ratio) times the views as they came.",
    "pointclip.fuse": "zero-shot: each view unit, then one behind the other; few-shot: the whole unit; the text is "
    "repeated and then made unit, so each view counts cos / sqrt(V); weights multiply unit views.",
    "pointclip.smooth_loss": "1 - eps for the right class, eps / (K - 1) for each other one; the mean over the batch.",
    "pointclip.v2_grid": "centre by the bounding box, divide by half of its largest side; pixels by ceil, clipped to "
    "[1, R - 2]; the slot is ceil of a value clipped to [1, depth - 2]; the largest value stays.",
    "pointclip.v2_project": "window 7x7 with padding 2, blur 3x3 with padding 1 (a normalised kernel), the maximum "
    "over depth, divided by the picture's maximum, then one minus it.",
    "clip.vit": "the class token comes first; ln_pre after the positions; x + f(LN(x)) in each block; "
    "QuickGELU, not GELU; scores divided by sqrt(width / heads); ln_post on the class token only, then proj.",
    "clip.resnet": "three stem convolutions, each with batch norm and ReLU, then an average pool; a stride "
    "is an average pool after the second ReLU and before the shortcut's convolution; ReLU after the sum; in "
    "the attention pool only the mean token asks, and positions are added to it too.",
    "clip.text": "causal mask; ln_final before the pick; the state at the first place of the largest id; "
    "then times text_projection; padding is not masked.",
    "clip.loss": "the features come as unit vectors and the scale as the factor itself, exp already taken; "
    "the target is the diagonal; cross entropy over rows and over columns, and their mean (not the sum).",
    "clip.tokens": "text is repaired, unescaped twice, stripped, lower-cased; the last byte of a word "
    "carries </w>; the lowest rank merges first; start and end ids around.",
    "lseg.decoder_block": "a residual unit is x + bn2(conv2(relu(bn1(conv1(relu(x)))))), its convolutions "
    "without bias; path + resConfUnit1(skip), then resConfUnit2; twice as large, align_corners=True; out_conv "
    "last.",
    "lseg.spatial_block_bottleneck": "one filter 1x1x3x3 for all labels; plus the maximum over labels of the "
    "block's input, not of the filter's output; then the activation, unless it is the last application.",
    "lseg.spatial_block_depthwise": "one filter 1x1x3x3 for all labels, a bias of one number; no term across "
    "labels; then the activation, unless it is the last application.",
    "lseg.head": "head1, then unit length per pixel (dim=1); unit texts; divide by 0.07; the block, if there is "
    "one, on the logits; then twice as large, align_corners=True.",
    "groupvit.grouping_block": "softmax over the groups, dim=-2; scores divided by sqrt(width); one head; the "
    "mean divides by the number of members plus 1; norms on group tokens and segments; the pre-assignment block "
    "is x + attn(x), then x + mlp(norm2(x)), then norm_post; new + mlp_channels(norm_new_x(new)); exact GELU.",
    "groupvit.gumbel": "noise is added before the division by tau; one-hot of the largest along dim=-2; the "
    "gradient is that of the softmax (hard + soft - soft.detach()).",
    "groupvit.encoder": "no class token; a norm after the patches; the second stage's tokens are its own parameter "
    "plus the projected tokens of the first stage after its blocks; a final norm; maps are B×M×S.",
    "groupvit.contrastive": "features are unit vectors; the scale is the factor, at most 100; both directions.",
    "groupvit.multilabel_loss": "each image has K right texts of weight 1/K among B·K; each text has one right "
    "image; the mean over rows of each direction, then half of the sum.",
    "groupvit.segment": "soft maps are multiplied, enlarged, then argmax over groups; p·q, where q is the softmax "
    "over the five best names of the pooled image; background below min(threshold, the best score of all groups).",
    "clipasso.losses": "the mean over all elements of the squared (L2) or absolute (L1) difference of the maps, not "
    "the sum; fc: the weight times one minus the cosine; every part times its weight.",
    "clipasso.saliency": "the class token's row, [..., 0, 1:]; mean over heads and over all layers; bicubic, "
    "align_corners=False; then from 0 to 1.",
    "clipasso.xdog": "grey by 0.2125, 0.7154, 0.0721; the border pixel is repeated in the mirror (c b a a b c); radius "
    "4 sigma; 1 where the difference is below -0.1; scaled to [0, 1] before Otsu's threshold.",
    "clipasso.sampling": "saliency from 0 to 1, times one minus the edges; the softmax runs over the pixels above 0 "
    "alone, after the division by 0.3; the others get 0.",
    "clipasso.rasteriser": "the width is a radius; round caps; points are (x, y); the pixel in row i, column j has its "
    "centre at (j + 0.5, i + 0.5); what a hairpin encloses needs finer pixels: draw three times as large, and average.",
    "clip4clip.meanP": "each frame to unit length before the mean; the mean over real frames only; then unit length "
    "again; unit texts; times the factor; rows are texts.",
    "clip4clip.loss": "the right pairs are on the diagonal; cross entropy over rows and over columns, and their mean.",
    "clip4clip.seqLSTM": "frames enter as they are, not unit; the outputs are added to the frames; then the mean head.",
    "clip4clip.seqTransf": "positions are added before the blocks and not to the residual; -1e6 on padding as keys; "
    "norms with eps 1e-12; QuickGELU; the blocks' output plus the frames without positions; then the mean head.",
    "clip4clip.tightTransf": "the text's token comes first; positions run over text and frames together; no token "
    "types, nothing of unit length, no factor; pooler: norm, the first token, linear, QuickGELU; then linear to one.",
    "depthclip.head": "unit length over all channels first, then every second channel, not made unit again; 100 / "
    "temperature times the products with unit texts; softmax over the bins; the weighted sum; no attention pool.",
    "depthclip.errors": "the prediction stands at rows 56 to 471, columns 60 to 603; rows 45 to 470 and columns 46 to "
    "600 count, if the truth lies between 1e-3 and 10 and the prediction above 1e-3; clamped; a picture's mean first.",
    "clip4clip.metrics": "ranks from 0; sort each row from the largest; every place that holds the right answer's "
    "score is an entry of its own, row by row.",
}


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The official inputs, weights and outputs of one component, and its constants. name: as in `parity`.

    Keys start with "in/", "weights/" or "out/". Raises ValueError where there is no such file.
    """
    from safetensors import safe_open

    here = Path(__file__).resolve().parent
    for folder in (here.parent / "golden", here.parent.parent / "tests" / "golden"):
        path = folder / f"{_SAME_FILE.get(name, name).replace('.', '_')}.safetensors"
        if path.exists():
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}
                return tensors, json.loads(file.metadata()["config"])
    raise ValueError(f"There are no official numbers for {name!r}. There are some for: {', '.join(_CAUSES)}.")


def _build(candidate: Any, **named: Any) -> Any:
    """A module as it is; else candidate(**named), or by position where the reader chose other names."""
    if isinstance(candidate, nn.Module):
        return candidate
    try:
        signature(candidate).bind(**named)
    except TypeError:
        return candidate(*named.values())
    return candidate(**named)


def _load(
    module: nn.Module, tensors: dict[str, Tensor], prefix: str, ignore: tuple[str, ...] = ()
) -> nn.Module:
    """Load the official weights strictly; name what is missing or left over, but for keys in `ignore`."""
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    own = {
        k for k in module.state_dict() if not k.endswith("num_batches_tracked") and not k.startswith(ignore)
    }
    missing, extra = sorted(set(weights) - own), sorted(own - set(weights))
    assert not missing and not extra, (
        f"The weights have other names than in the release. Only there: {', '.join(missing[:3]) or 'none'}; "
        f"only in yours: {', '.join(extra[:3]) or 'none'}."
    )
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise AssertionError(f"A weight has another shape than in the release: {error}") from error
    return module.eval()


def _clip_vit(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    same = ("patch_size", "width", "layers", "heads")
    named = dict(image_size=config["input_resolution"]) | {key: config[key] for key in same}
    return _image_tower(_build(candidate, **named, embed_dim=config["output_dim"]), tensors)


def _clip_resnet(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    named = dict(image_size=config["input_resolution"], layers=tuple(config["layers"]))
    named |= dict(width=config["width"], heads=config["heads"], embed_dim=config["output_dim"])
    return _image_tower(_build(candidate, **named), tensors)


def _image_tower(module: nn.Module, tensors: dict[str, Tensor]) -> Pairs:
    return [(_load(module, tensors, "weights/visual.")(tensors["in/image"]), tensors["out/image_features"])]


def _clip_text(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    named = {key: config[key] for key in ("embed_dim", "context_length", "vocab_size")}
    named |= {f"text_{key}": config[f"transformer_{key}"] for key in ("width", "layers", "heads")}
    if not isinstance(candidate, nn.Module) and list(signature(candidate).parameters) == ["config"]:
        from clipnotes.clip import CLIPConfig

        unused = dict(image_size=32, vision_layers=1, vision_width=64, patch_size=32)
        named = dict(config=CLIPConfig(**unused, **named))
    module = _load(_build(candidate, **named), tensors, "weights/", ignore=("visual.", "logit_scale"))
    encode = getattr(module, "encode_ids", module)
    return [(encode(tensors["in/text"]), tensors["out/text_features"])]


def _clip_loss(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    image_emb, text_emb = (F.normalize(tensors[f"in/{side}_features"], dim=-1) for side in ("image", "text"))
    scales = {case: tensors[f"in/logit_scale_{case}"].exp() for case in "ab"}
    return [(candidate(image_emb, text_emb, scales[case]), tensors[f"out/loss_{case}"]) for case in "ab"]


def _clip_tokens(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    pairs = []
    for text, ids, length in zip(config["strings"], tensors["out/ids"], tensors["out/length"], strict=True):
        got = torch.as_tensor(candidate(text))
        whole = len(got) and got[0] == ids[0]
        pairs.append((got, ids[:length] if whole else ids[1 : length - 1]))
    return pairs


def _lseg_decoder_block(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    module = _load(_build(candidate, features=8), tensors, "weights/")
    path, skip = tensors["in/path"], tensors["in/skip"]
    return [(module(path), tensors["out/one_input"]), (module(path, skip), tensors["out/two_inputs"])]


def _lseg_spatial_block(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    pairs = []
    for name, activation in (("relu", F.relu), ("lrelu", F.leaky_relu), ("tanh", torch.tanh)):
        block = _load(_build(candidate, activation=activation), tensors, "weights/")
        for depth in config["depths"]:
            x = tensors["in/x"]
            for step in range(depth):
                x = block(x, step < depth - 1)
            pairs.append((x, tensors[f"out/{name}_depth{depth}"]))
    return pairs


def _lseg_head(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    pairs, inputs = [], (tensors["in/path_1"], tensors["in/text_features"])
    for block, depth, name in (("none", 0, "logits"), ("bottleneck", 2, "logits_bottleneck_depth2")):
        module = candidate(features=16, embed_dim=24, block=block, depth=depth)
        kept = {k: v for k, v in tensors.items() if depth or "head_block" not in k}
        pairs.append((_load(module, kept, "weights/scratch.")(*inputs), tensors[f"out/{name}"]))
    return pairs


def _groupvit_grouping_block(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    groups, outputs = tensors["in/group_tokens"].shape[1], tensors["out/new_x"].shape[1]
    named = dict(width=tensors["in/x"].shape[-1], heads=config["heads"], groups=groups, outputs=outputs)
    new, soft = _load(_build(candidate, **named), tensors, "weights/")(tensors["in/x"], tensors["in/group_tokens"])
    return [(new, tensors["out/new_x"]), (soft, tensors["out/assign_soft"][:, 0]),
            (_chosen(soft), tensors["out/assign_hard"][:, 0].long())]


def _chosen(soft: Tensor) -> Tensor:
    """The hard assignment of a soft map: 1 for each column's largest entry."""
    return F.one_hot(soft.argmax(-2), soft.shape[-2]).transpose(-1, -2)


def _groupvit_gumbel(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    pairs = []
    for tau in (0.5, 1.0):
        with torch.enable_grad():
            logits = tensors["in/gumbel_logits"].clone().requires_grad_()
            hard = candidate(logits, tensors["in/gumbel_noise"], tau)
            upstream = tensors["in/gumbel_upstream_grad"]
            gradient = torch.autograd.grad((hard * upstream).sum(), logits)[0] if hard.requires_grad else 0 * logits
        expected = f"out/gumbel_hard_tau{tau:g}"
        pairs += [(hard, tensors[expected]), (gradient, tensors[f"{expected}_grad"])]
    return pairs


def _groupvit_encoder(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    named = dict(image_size=config["img_size"], patch_size=config["patch_size"], width=config["embed_dim"],
                 depths=tuple(config["depths"]), heads=config["num_heads"][0],
                 group_tokens=tuple(config["num_group_tokens"]),
                 output_groups=tuple(n for n in config["num_output_groups"] if n)[: len(config["depths"]) - 1])
    tokens, maps = _load(_build(candidate, **named), tensors, "weights/")(tensors["in/image"])
    pairs = [(tokens, tensors["out/feat"]), (tokens.mean(1), tensors["out/x"])]
    for k, soft in enumerate(maps, 1):
        pairs += [(soft, tensors[f"out/assign_soft_{k}"][:, 0]),
                  (_chosen(soft), tensors[f"out/assign_hard_{k}"][:, 0].long())]
    return pairs


def _groupvit_losses(candidate: Any, tensors: dict[str, Tensor], kind: str) -> Pairs:
    texts = "text" if kind == "contrastive" else "text_multi"
    image_emb, text_emb = (F.normalize(tensors[f"in/{k}"], dim=-1) for k in ("image", texts))
    scales = {case: tensors[f"in/scale_{case}"].clamp(max=100) for case in "ab"}
    return [(candidate(image_emb, text_emb, scale), tensors[f"out/{kind}_{case}"]) for case, scale in scales.items()]


def _groupvit_segment(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    """candidate: (tokens, maps, projector, text_emb, scale, grid, size, threshold) -> planes."""
    w = {k.removeprefix("weights/img_projector."): v for k, v in tensors.items() if k.startswith("weights/")}
    first, last = w["linear_hidden.0.weight"], w["linear_out.weight"]

    def projector(x: Tensor) -> Tensor:
        shape = x.shape[:-1]
        x = F.conv1d(x.reshape(-1, x.shape[-1], 1), first, w["linear_hidden.0.bias"])
        norm = [w[f"linear_hidden.1.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.conv1d(F.relu(F.batch_norm(x, *norm)), last, w["linear_out.bias"]).view(*shape, -1)

    maps = [tensors[f"in/assign_soft_{k}"][:, 0] for k in (1, 2)]
    tokens, size = tensors["in/feat"], tuple(tensors["in/image_size"].tolist())
    scale = tensors["in/logit_scale"].exp().clamp(max=100).item()
    inputs = (tokens, maps, projector, tensors["in/text_embedding"], scale, tuple(config["grid"]), size)
    return [(candidate(*inputs, threshold), tensors[f"out/pred_{case}"])
            for case, threshold in (("nobg", None), ("bg20", 0.2), ("bg95", 0.95))]


def _clipasso_losses(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    from clipnotes.clip import IMAGE_MEAN, IMAGE_STD, ModifiedResNet

    out, size = tensors["weights/visual.attnpool.c_proj.bias"].shape[0], tensors["in/sketch"].shape[-1]
    width = tensors["weights/visual.conv3.weight"].shape[0]
    visual = _load(ModifiedResNet(size, tuple(config["layers"]), width, config["heads"], out), tensors,
                   "weights/visual.")
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    weights = dict(zip(("stem", "layer1", "layer2", "layer3", "layer4"), config["conv_layer_weights"], strict=True))
    weights = {k: w for k, w in weights.items() if w} | {"fc": config["fc_weight"]}

    def maps(images: Tensor) -> dict[str, Tensor]:
        found = visual.layers((images - mean) / std)
        return {k: found[k] for k in weights if k != "fc"} | {"fc": visual.attnpool(found["layer4"])}

    given = {side: {k: tensors[f"out/{side}_{k}"] for k in weights} for side in ("sketch", "target")}
    target, pairs = maps(tensors["in/target"]), []
    for norm in ("L2", "L1"):
        for parts in (candidate(maps(tensors["in/sketch"]), target, weights, norm),
                      candidate(given["sketch"], given["target"], weights, norm)):
            pairs += [(parts[k].squeeze(), tensors[f"out/{norm}_{k if k == 'fc' else f'clip_conv_loss_{k}'}"])
                      for k in weights]
            pairs.append((sum(parts.values()).squeeze(), tensors[f"out/{norm}_total"]))
        with torch.enable_grad():
            sketch = tensors["in/sketch"].clone().requires_grad_()
            total = sum(candidate(maps(sketch), target, weights, norm).values()).sum()
            gradient = torch.autograd.grad(total, sketch)[0]
        expected = tensors[f"out/{norm}_grad_sketch"]
        pairs.append((gradient / expected.abs().max(), expected / expected.abs().max(), 1e-4))
    return pairs


def _clipasso_saliency(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    return [(candidate(tensors["in/attn_probs"], tensors["out/saliency"].shape[-1]), tensors["out/saliency"])]


def _clipasso_xdog(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    return [(candidate(tensors["in/image"].permute(2, 0, 1)), tensors["out/xdog"].long())]


def _clipasso_sampling(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    return [(1000 * candidate(tensors["in/saliency_small"], edges), tensors[f"out/sampling_prob{tag}_x1000"])
            for edges, tag in ((tensors["out/xdog"], ""), (None, "_no_xdog"))]


def _clipasso_rasteriser(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    """The release draws by random samples, 12x12 a pixel: a right renderer differs by what the golden file allows."""
    strokes, target, size = tensors["in/strokes"], tensors["in/target"], config["width"]
    pairs: Pairs = []
    for width in tensors["in/widths"].tolist():
        for points, case in ((strokes[None], "all"), (strokes[:, None], "each")):
            expected = tensors[f"out/image_{case}_w{width:g}"].view(-1, size, size)
            got = candidate(points, width, size)[:, 0]
            mean = (got - expected).abs().mean()
            pairs += [(got, expected, 0.05), (mean, torch.zeros(()), 0.005)]

    def losses(points: Tensor) -> Tensor:
        return (candidate(points, config["fd_width"], size)[:, 0] - target).square().mean((1, 2))

    pairs.append((losses(strokes[None])[0], tensors["out/loss"], 2e-3))
    step = config["fd_step"] * torch.eye(strokes.numel()).view(-1, *strokes.shape)
    differences = (losses(strokes + step) - losses(strokes - step)) / (2 * config["fd_step"])
    with torch.enable_grad():
        points = strokes.clone().requires_grad_()
        gradient = torch.autograd.grad(losses(points[None]).sum(), points)[0]
    one = torch.ones(())
    for got, name in ((differences, "fd"), (gradient, "reverse")):
        got, expected = 1000 * got.flatten(), tensors[f"out/grad_{name}_x1000"].flatten()
        pairs += [(F.cosine_similarity(got, expected, 0), one, 1e-3), (got.norm() / expected.norm(), one, 0.03)]
    return pairs


def _clip4clip_head(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    """candidate: its head takes (texts N×D, frames B×T×D, mask B×T, factor) and gives logits N×B."""
    tables = [v for k, v in tensors.items() if k.endswith("position_embeddings.weight")]
    named = dict(width=tensors["in/frames"].shape[-1])
    if tables:
        named |= dict(layers=config["layers"], heads=config["heads"], positions=len(tables[0]))
    if any(k.startswith("weights/") for k in tensors):
        candidate = _load(_build(candidate, **named), tensors, "weights/")
    elif isinstance(candidate, type):
        candidate = candidate()
    factor = tensors["in/logit_scale"].exp() if "in/logit_scale" in tensors else 1.0
    inputs = tensors["in/text"][:, 0], tensors["in/frames"], tensors["in/video_mask"], factor
    return [(candidate(*inputs), tensors["out/logits"])]


def _clip4clip_loss(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    logits = tensors["out/logits"]
    return [(candidate(logits[:, : len(logits)]), tensors["out/loss"])]


def _clip4clip_metrics(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    pairs: Pairs = []
    for case in ("distinct", "ties"):
        places = torch.as_tensor(candidate(tensors[f"in/sim_{case}"]))
        pairs.append((places, tensors[f"out/{case}_ranks0"]))
        found = {f"R{k}": 100 * (places < k).double().mean() for k in (1, 5, 10)}
        found |= {"MedianR": places.double().quantile(0.5) + 1, "MeanR": places.double().mean() + 1}
        pairs += [(value, tensors[f"out/{case}_{name}"]) for name, value in found.items()]
    return pairs


def _actionclip_kl_loss(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    given = [F.normalize(tensors[f"in/{k}"], dim=-1) for k in ("video", "text")] + [tensors["in/labels"]]
    return [(candidate(*given, tensors[f"in/scale_{case}"]), tensors[f"out/loss_{case}"]) for case in "ab"]


def _actionclip_shift(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    """candidate: (tokens (B·T)×L×C, T, div, skip) -> the same shape. The release has tokens L×(B·T)×C."""
    tokens, maps, count = tensors["in/tokens"].transpose(0, 1), tensors["in/maps"], int(tensors["in/n_segment"])
    pairs = [(candidate(tokens, 1, 8, 1).transpose(0, 1), tensors["out/tokens_one_frame_div8"])]
    for div in (4, 8):
        pairs.append((candidate(tokens, count, div, 1).transpose(0, 1), tensors[f"out/tokens_div{div}"]))
        moved = candidate(maps.flatten(2).mT, count, div, 0)
        pairs.append((moved.mT.unflatten(2, maps.shape[2:]), tensors[f"out/maps_div{div}"]))
    return pairs


def _actionclip_head(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any],
                     which: str = "") -> Pairs:
    named = dict(width=tensors["in/frames"].shape[-1])
    if "weights/frame_position_embeddings.weight" in tensors:
        named |= {k: config[k] for k in ("layers", "heads")}
        named["positions"] = len(tensors["weights/frame_position_embeddings.weight"])
    module = _load(_build(candidate, **named), tensors, "weights/")
    return [(module(tensors["in/frames"]), tensors[f"out/video_feature{which}"])]


def _depthclip_head(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    """candidate: (layer4 B×C×h×w, unit texts K×D, bins K, temperature) -> B×h×w. The release has layer4 as L×B×C."""
    layer4, text_emb = tensors["in/layer4"].permute(1, 2, 0).unflatten(2, tuple(config["grid"])), tensors["in/text"].T
    return [(candidate(layer4, text_emb, tensors[f"in/bins_{case}"], tensors[f"in/temperature_{case}"].item()),
             tensors[f"out/depth_{case}"][:, 0], 1e-4) for case in ("released", "t1")]


def _depthclip_errors(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    true, predicted = (tensors[f"in/{k}_div8"][:, 0].repeat_interleave(8, 1).repeat_interleave(8, 2)
                       for k in ("gt", "pred"))
    found = candidate(predicted, true)
    return [(torch.as_tensor(found[k]).reshape(()), tensors[f"out/{k}"].reshape(()))
            for k in ("abs_diff", "a1", "a2", "a3", "abs_rel", "log10", "rmse")]


def _pointclip_views(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    pairs: Pairs = []
    for kind in ("zs", "fs"):
        expected = [tensors[f"out/{part}_{kind}"] for part in ("rotation", "translation")]
        pairs += zip(candidate(len(expected[0])), expected, strict=True)
    return pairs


def _pointclip_project(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    pairs: Pairs = []
    for kind in ("zs", "fs"):
        expected = tensors[f"out/depth_{kind}"]
        view = tensors[f"out/rotation_{kind}"], tensors[f"out/translation_{kind}"]
        pairs.append((candidate(tensors[f"in/points_{kind}"], *view, expected.shape[-1]), expected))
    return pairs


def _pointclip_v2(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    rotation = tensors["out/rotation_1"] @ tensors["out/rotation_2"]
    names = ("resolution", "depth", "maxpoolxy", "convsigmaxy", "obj_ratio", "depth_bias")
    return [(candidate(tensors["in/points"], rotation, *(config[n] for n in names))[0], tensors["out/images"])]


def _pointclip_v2_grid(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    rotation = (tensors["out/rotation_1"] @ tensors["out/rotation_2"])[0]
    names = ("resolution", "depth", "obj_ratio", "depth_bias")
    return [(candidate(tensors["in/points"], rotation, *(config[n] for n in names))[0], tensors["out/grid_first_view"])]


def _pointclip_adapter(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    named = dict(views=config["views"], channels=config["channels"], ratio=config["residual_ratio"])
    module = _load(_build(candidate, **named), tensors, "weights/")
    return [(module(tensors["in/view_features"]), tensors["out/adapted"])]


def _pointclip_fuse(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    given = tensors["in/view_features"], tensors["in/text_features"], tensors["in/logit_scale"].exp()
    cases = (("zero_shot", None, False), ("view_weighted", tensors["in/view_weights"], False), ("few_shot", None, True))
    return [(candidate(*given, weights, together), tensors[f"out/logits_{case}"]) for case, weights, together in cases]


def _pointclip_smooth_loss(candidate: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> Pairs:
    one = [candidate(tensors["in/logits"][i : i + 1], tensors["in/labels"][i : i + 1])
           for i in range(len(tensors["in/labels"]))]
    return [(candidate(tensors["in/logits"], tensors["in/labels"]), tensors["out/loss"]),
            (torch.stack([torch.as_tensor(v) for v in one]), tensors["out/loss_per_sample"])]


def _difference(got: Any, expected: Tensor) -> float:
    """Largest difference in units of max(1, largest expected value); shapes and integers must be equal."""
    got = torch.as_tensor(got).detach().cpu()
    assert got.shape == expected.shape, (
        f"The shape is {tuple(got.shape)}, the release's is {tuple(expected.shape)}."
    )
    if not expected.is_floating_point():
        return 0.0 if torch.equal(got.long(), expected.long()) else math.inf
    gap = (got.double() - expected.double()).abs().max() / max(1.0, expected.abs().max().item())
    return gap.item() if torch.isfinite(gap) else math.inf


@torch.no_grad()
def parity(name: str, candidate: Any) -> float | None:
    """Compare the reader's own class or function with the numbers of the official release.

    name, and what candidate must be:
    "clip.vit": (image_size, patch_size, width, layers, heads, embed_dim) -> module, normalised images -> B×E.
    "clip.resnet": (image_size, layers, width, heads, embed_dim) -> module, normalised images -> B×E.
    "clip.text": (embed_dim, context_length, vocab_size, text_width, text_layers, text_heads), or a single
    `config` with these fields, -> module, ids N×T -> N×E by its `encode_ids`, or by calling it.
    "clip.loss": (unit image vectors, unit text vectors, the scale's factor) -> loss.
    "clip.tokens": text -> list of ids, with both the start and the end id or with neither.
    "lseg.decoder_block": (features) -> module, (path, skip or None) B×F×h×w -> B×F×2h×2w.
    "lseg.spatial_block_bottleneck", "lseg.spatial_block_depthwise": (activation) -> module,
    (logits B×K×h×w, activate: bool) -> the same shape.
    "lseg.head": (features, embed_dim, block, depth) -> module, (path_1 B×F×h×w, labels K×E) -> B×K×2h×2w.

    "groupvit.grouping_block": (width, heads, groups, outputs) -> module, (segments B×S×D, group tokens B×G×D)
    -> (new segments B×M×D, soft map B×M×S). "groupvit.encoder": (image_size, patch_size, width, depths, heads,
    group_tokens, output_groups), or a function of these -> module, normalised images -> (tokens, list of maps).
    "groupvit.gumbel": (logits, noise, tau) -> one-hot along dim -2, with the gradient of the soft values.
    "groupvit.contrastive", "groupvit.multilabel_loss": (unit image vectors B×E, unit text vectors B×E or B×K×E,
    the factor) -> loss. "groupvit.segment": (tokens, maps, projector, text_emb, factor, grid, size, threshold)
    -> planes.
    "clipasso.losses": (maps of the sketch, maps of the target, weights, "L2" or "L1") -> {layer: weighted loss}; the
    first three are dicts, a layer each, "fc" for the pooled vector. Allowed for its gradient: 1e-4 of the largest.
    "clipasso.saliency": (attention layers×heads×T×T, size) -> size×size. "clipasso.xdog": (picture 3×H×W) -> H×W.
    "clipasso.sampling": (saliency H×W, XDoG H×W or None) -> probabilities H×W.
    "clipasso.rasteriser": (points B×N×4×2, width, size) -> B×3×size×size. Here the release itself is random: allowed
    is 0.05 a pixel, 0.005 on average, 3 % for the gradient of a loss and for its change when a point moves by 0.3 px.

    "clip4clip.seqLSTM": (width) -> module, "clip4clip.seqTransf", "clip4clip.tightTransf": (width, layers, heads,
    positions) -> module, (texts N×D, frames B×T×D, mask B×T, factor) -> logits N×B; "clip4clip.meanP": such a function,
    or a class without arguments. "clip4clip.loss": (logits N×N) -> loss. "clip4clip.metrics": (similarity N×N) -> the
    release's list of ranks, from 0.

    "actionclip.kl_loss": (unit film vectors B×D, unit text vectors B×D, labels B, the factor) -> loss.
    "actionclip.shift": (tokens (B·T)×L×C, T, div, skip) -> the same shape; the first `skip` tokens stay as they are.
    "actionclip.transf": (width, layers, heads, positions), "actionclip.lstm", "actionclip.conv1d" (over time, as meant)
    and "actionclip.conv1d_released" (axes mixed up): (width) -> module, frames B×T×width -> B×width.

    "depthclip.head": (layer4 B×C×h×w, unit texts K×D, bins K, temperature) -> depth B×h×w; 1e-4 is allowed.
    "depthclip.errors": (predicted B×416×544, true B×480×640, both in metres) -> {"abs_diff", "a1", "a2", "a3",
    "abs_rel", "log10", "rmse"}: numbers.

    "pointclip.views": (how many: 6 or 10) -> (rotations V×3×3, translations V×3). "pointclip.project": (points B×P×3,
    rotations, translations, size) -> B×V×size×size. "pointclip.fuse": (views B×V×D, texts K×D, the factor, weights V
    or None, whether all views are made unit as one) -> logits B×K. "pointclip.adapter": (views, channels, ratio) ->
    module, (B·V)×C -> B×(V·C). "pointclip.smooth_loss": (logits B×K, labels B) -> loss. "pointclip.v2_grid": (points,
    one rotation, size, depth, ratio, bias) -> B×depth×size×size. "pointclip.v2_project": (points, rotations, size,
    depth, pool, sigma, ratio, bias) -> B×V×(size - 2)×(size - 2).

    A module class, an instance, or a function that builds one will do. Arguments are passed by these names,
    or in this order where a reader chose others. Weights are loaded under the release's names, strictly.
    Returns the worst difference in units of max(1, largest expected value), and prints one line: 1e-5 is
    allowed, integers are exact. What was not attempted (None, NotImplementedError) is said to be so: None.
    Raises AssertionError with the usual causes where the candidate differs, ValueError for an unknown name.
    """
    compare = {"clip.vit": _clip_vit, "clip.resnet": _clip_resnet, "clip.text": _clip_text,
               "clip.loss": _clip_loss, "clip.tokens": _clip_tokens,
               "lseg.decoder_block": _lseg_decoder_block, "lseg.head": _lseg_head,
               "lseg.spatial_block_bottleneck": _lseg_spatial_block,
               "lseg.spatial_block_depthwise": _lseg_spatial_block,
               "groupvit.grouping_block": _groupvit_grouping_block, "groupvit.gumbel": _groupvit_gumbel,
               "groupvit.encoder": _groupvit_encoder, "groupvit.segment": _groupvit_segment,
               "groupvit.contrastive": lambda c, t, _: _groupvit_losses(c, t, "contrastive"),
               "groupvit.multilabel_loss": lambda c, t, _: _groupvit_losses(c, t, "multilabel"),
               "clipasso.losses": _clipasso_losses, "clipasso.saliency": _clipasso_saliency,
               "clipasso.xdog": _clipasso_xdog, "clipasso.sampling": _clipasso_sampling,
               "clipasso.rasteriser": _clipasso_rasteriser,
               "clip4clip.loss": _clip4clip_loss, "clip4clip.metrics": _clip4clip_metrics,
               **dict.fromkeys(("clip4clip.meanP", "clip4clip.seqLSTM", "clip4clip.seqTransf",
                                "clip4clip.tightTransf"), _clip4clip_head),
               "actionclip.kl_loss": _actionclip_kl_loss, "actionclip.shift": _actionclip_shift,
               **dict.fromkeys(("actionclip.transf", "actionclip.lstm"), _actionclip_head),
               "actionclip.conv1d": lambda c, t, k: _actionclip_head(c, t, k, "_permuted"),
               "actionclip.conv1d_released": lambda c, t, k: _actionclip_head(c, t, k, "_released"),
               "pointclip.views": _pointclip_views, "pointclip.project": _pointclip_project,
               "pointclip.fuse": _pointclip_fuse, "pointclip.adapter": _pointclip_adapter,
               "pointclip.smooth_loss": _pointclip_smooth_loss, "pointclip.v2_grid": _pointclip_v2_grid,
               "pointclip.v2_project": _pointclip_v2,
               "depthclip.head": _depthclip_head, "depthclip.errors": _depthclip_errors}
    tensors, config = golden(name)
    try:
        if candidate is None:
            raise NotImplementedError
        pairs = compare[name](candidate, tensors, config)
        gaps = [(_difference(*pair[:2]), *pair[2:], 1e-5)[:2] for pair in pairs]
        worst, tolerance = max(gaps, key=lambda gap: gap[0] / gap[1])
    except NotImplementedError:
        print(f"{name}: not attempted")
        return None
    except Exception as error:
        raise AssertionError(
            f"{name} could not be compared. {error}\nUsual causes: {_CAUSES[name]}"
        ) from error
    assert worst <= tolerance, (
        f"{name} differs from the release by {worst:.1e}, {tolerance:.0e} is allowed.\n"
        f"Usual causes: {_CAUSES[name]}"
    )
    method = name.split(".")[0]
    oracle = _RELEASES.get(name) or _RELEASES[method]
    entry = dict(id=name, oracle=oracle, tolerance=tolerance, note="")
    shown("parity", entry, f"{name}: equal to the release (at most {tolerance:g})")
    return worst


def no_oracle(name: str, why: str) -> None:
    """Say that a component has no official implementation to compare with, and put it on the parity page."""
    entry = dict(id=name, oracle=None, tolerance=None, note=why)
    shown("parity", entry, f"{name}: no oracle exists ({why})")


# ---------------------------------------------------------------- exercises


def _same(answer: Any, right: Any, tolerance: float) -> bool:
    if isinstance(right, (str, bool)) or right is None:
        return type(answer) is type(right) and answer == right
    if isinstance(right, dict):
        return (
            isinstance(answer, dict)
            and answer.keys() == right.keys()
            and all(_same(answer[k], right[k], tolerance) for k in right)
        )
    if isinstance(right, (list, tuple)) and any(isinstance(r, (str, Tensor, list, tuple)) for r in right):
        return (
            isinstance(answer, (list, tuple))
            and len(answer) == len(right)
            and all(_same(a, r, tolerance) for a, r in zip(answer, right, strict=True))
        )
    try:
        answer, right = torch.as_tensor(answer).detach().cpu(), torch.as_tensor(right).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return False
    if answer.shape != right.shape:
        return False
    return torch.allclose(answer.double(), right.double(), rtol=tolerance, atol=tolerance)


def expect(
    answer: Any,
    right: Any,
    hint: str,
    *,
    mistakes: Sequence[tuple[Any, str]] = (),
    tolerance: float = 1e-5,
    name: str = "answer",
) -> None:
    """The self-check of an exercise: prints "correct" or "not attempted", or raises AssertionError: a hint.

    answer: a value, or a function without arguments that computes it: `lambda: my_loss(x)`. None and
    NotImplementedError mean that nothing was written yet.
    right: the right value (number, text, tensor, or lists of these, compared within `tolerance`, shapes
    included), or a function that takes the answer and returns True, False, or the hint for what is wrong
    with it.
    hint: what to think of when the answer is wrong. mistakes: pairs of a typical wrong answer and its own
    hint.
    """
    try:
        answer = answer() if callable(answer) else answer
    except NotImplementedError:
        answer = None
    if answer is None:
        print(f"{name}: not attempted")
        return
    verdict = right(answer) if callable(right) else _same(answer, right, tolerance)
    if isinstance(verdict, str):
        verdict, hint = False, verdict
    for wrong, reason in mistakes:
        hint = reason if not verdict and _same(answer, wrong, tolerance) else hint
    if isinstance(answer, Tensor) and isinstance(right, Tensor) and answer.shape != right.shape:
        hint = f"its shape is {tuple(answer.shape)}, not {tuple(right.shape)}. {hint}"
    assert verdict, f"{name}: not yet. Hint: {hint}"
    print(f"{name}: correct")


# ---------------------------------------------------------------- shown in the notebook


def _checked(questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for q in questions:
        right = [a for a in q["answers"] if a.get("correct")]
        if len(right) != 1 or len(q["answers"]) < 2:
            raise ValueError(f"{q['question']!r} needs one right answer and at least one wrong one.")
        if not all(a.get("feedback") for a in q["answers"]):
            raise ValueError(
                f"Each answer of {q['question']!r} needs feedback: a wrong one names its misconception."
            )
    return [{"type": "multiple_choice", **q} for q in questions]


def quiz(questions: list[dict[str, Any]]) -> None:
    """Show multiple-choice questions that also work in the static page, offline.

    questions: dicts {"question": text, "answers": [{"answer": text, "correct": bool, "feedback": text},
    ...]}; one answer is right and each has feedback, or ValueError is raised. Tag the cell nbval-ignore-
    output.
    """
    from IPython.display import display
    from IPython.utils.capture import capture_output
    from jupyterquiz import display_quiz

    questions = _checked(questions)
    state = random.getstate()
    random.seed(json.dumps(questions))  # the quiz draws its element's id: the same at every run
    try:
        with capture_output() as shown:
            display_quiz(questions, colors={"--jq-multiple-choice-bg": "#1f5a96"})
    finally:
        random.setstate(state)
    for output in shown.outputs:  # the script would fetch MathJax from another site where a page has none
        plain = "a quiz: open the page or the notebook to answer it"
        data = {
            k: v.replace("https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-svg.js", "")
            for k, v in output.data.items()
        }
        display({**data, "text/plain": plain}, raw=True)


_CARDS = {
    "run": ("Run by us", "#2f855a", ("gpu", "date", "commit", "weights")),
    "stand-in": ("Run on a stand-in of the same shape, so not a result", "#b7791f", ("stand_in", "shape")),
    "not-run": ("Not run by us", "#718096", ("paper", "expectation", "how")),
}


def card(status: str, **facts: str) -> None:
    """Show under a `full` cell how far it was run.

    status "run" needs gpu, date, commit, weights (their sha256); "stand-in" needs stand_in, shape;
    "not-run" needs paper (its figure), expectation (ours) and how (to run it). More facts are welcome.
    Raises ValueError for another status or a missing fact.
    """
    if status not in _CARDS:
        raise ValueError(f"There is no card {status!r}. Write one of: {', '.join(_CARDS)}.")
    title, colour, needed = _CARDS[status]
    if missing := [fact for fact in needed if not facts.get(fact)]:
        raise ValueError(f"The card {status!r} also needs: {', '.join(missing)}.")
    from IPython.display import display

    rows = [(name.replace("_", "-"), str(value)) for name, value in facts.items()]
    items = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(value)}</li>" for name, value in rows)
    style = f"border-left: 0.4em solid {colour}; padding: 0.3em 1em; margin: 0.5em 0;"
    page = f'<div class="clipnotes-card" style="{style}"><b>{title}</b><ul>{items}</ul></div>'
    text = "; ".join([title, *(f"{name}: {value}" for name, value in rows)])
    display({"text/html": page, "text/plain": text}, raw=True)


def progress(iterable: Iterable | None, desc: str, total: int | None = None) -> Iterable:
    """A progress bar around an iterable; silent in CI and wherever nobody watches."""
    from tqdm.auto import tqdm

    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    watched = sys.stderr.isatty() or hasattr(shell, "kernel")
    return tqdm(
        iterable, desc=desc, total=total, leave=False, disable=bool(os.environ.get("CI")) or not watched
    )
