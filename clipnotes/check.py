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

from clipnotes import _CHAPTERS

KINDS = ("exact", "live", "shipped", "recorded")

# ---------------------------------------------------------------- records


def _chapter(number_or_name: str) -> str:
    """The chapter of a number or a method: both 01 and clip belong to 01_clip."""
    for chapter in _CHAPTERS:
        if number_or_name in chapter.split("_", 1):
            return chapter
    raise ValueError(f"There is no chapter {number_or_name!r}. An id looks like '01.loss_below_ln_n'.")


def _rounded(value: Any, digits: int = 6) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    return [_rounded(v, digits) for v in value] if isinstance(value, (list, tuple)) else value


def _record(chapter: str, section: str, entry: dict[str, Any]) -> None:
    """Put one entry into the chapter's file, sorted by id, by way of a temporary file."""
    folder = os.environ.get("CLIPNOTES_RECORDS")
    if not folder:
        return
    path = Path(folder) / f"{chapter}.json"
    content = json.loads(path.read_text("utf-8")) if path.exists() else {"claims": [], "parity": []}
    entries = {e["id"]: e for e in content[section]}
    before = entries.get(entry["id"], entry)
    if section == "parity" and (before["worst"] or 0) > (entry["worst"] or 0):
        return  # compared twice, in the text and in an exercise: the larger difference counts
    if section == "claims" and before != entry:
        raise ValueError(f"{entry['id']} is recorded twice with different values. Give each its own id.")
    entries[entry["id"]] = entry
    content[section] = [entries[key] for key in sorted(entries)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, path)


# ---------------------------------------------------------------- claims


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) < 1e9 and value == int(value) else f"{value:.3g}"


def _bar(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {_number(low)} to {_number(high)}"
    if low is not None:
        return f"at least {_number(low)}"
    return "" if high is None else f"at most {_number(high)}"


def _failure(value: float, low: float | None, high: float | None, baseline: float | None,
             lower_is_better: bool, null: bool) -> str:
    """Why the claim fails, or nothing."""
    if not math.isfinite(value):
        return "the value is not a finite number"
    if (low is not None and value < low) or (high is not None and value > high):
        return f"the claim asks for {_bar(low, high)}"
    if baseline is not None and not null and not (value < baseline if lower_is_better else value > baseline):
        return f"the baseline {_number(baseline)} is not beaten"
    return ""


def claim(id: str, value: float, low: float | None = None, high: float | None = None, *, kind: str,
          baseline: float | None = None, paper: float | str | None = None, n: int | None = None,
          note: str = "", interval: tuple[float, float] | None = None, lower_is_better: bool = False,
          null: bool = False) -> None:
    """Assert that a measured figure is as the text says, and print it in one line.

    id: chapter number, dot, name: "01.loss_below_ln_n". value: a number or a tensor of one.
    low, high: the registered bar, both ends included. kind: "exact"; "live" (trained in the notebook);
    "shipped" (from a checkpoint); "recorded" (measured by a program in tools/).
    baseline: what a simpler method reaches; it must be beaten: by a larger value, or with `lower_is_better`
    by a smaller one. paper: the paper's figure, as a number or words. n: how many cases. note: what is
    measured, in words. interval: 95 % interval of the value.
    null=True registers a null result: what the paper claims does not hold here. The bar still has to be
    met. Raises AssertionError where the claim fails, ValueError where it is not a claim.
    """
    value = float(value)
    low, high, baseline = (v if v is None else float(v) for v in (low, high, baseline))
    if kind not in KINDS:
        raise ValueError(f"There is no kind {kind!r}. Write one of: {', '.join(KINDS)}.")
    if low is None and high is None and (baseline is None or null):
        raise ValueError(
            f"{id} claims nothing. Give low, high or a baseline (for a null result low or high)."
        )
    chapter = _chapter(id.split(".")[0])
    failure = _failure(value, low, high, baseline, lower_is_better, null)
    entry = dict(id=id, value=value, low=low, high=high, kind=kind, baseline=baseline, paper=paper, n=n)
    entry |= dict(note=note, interval=interval, lower_is_better=lower_is_better, null=null, holds=not failure)
    if kind == "live":
        entry["seed"] = int(os.environ.get("CLIPNOTES_SEED") or 0)
    _record(chapter, "claims", {key: _rounded(v) for key, v in entry.items()})
    facts = [_bar(low, high)] + [
        f"{name} {_number(v) if isinstance(v, (int, float)) else v}"
        for name, v in (("baseline", baseline), ("paper", paper), ("n", n))
        if v is not None
    ]
    line = f"claim {id}: {_number(value)} ({'; '.join(filter(None, facts))})"
    assert not failure, f"{line} fails: {failure}."
    print(line + (" · null result: the paper's claim does not hold here" if null else " · holds"))


# ---------------------------------------------------------------- parity

Pairs = list[tuple[Any, Tensor]]  # what the candidate gives, and what the release gives
_RELEASES = {"clip": "openai/CLIP at d05afc4", "lseg": "isl-org/lang-seg at bb00b21",
             "groupvit": "NVlabs/GroupViT at 13b7861"}
_SAME_FILE = {"groupvit.gumbel": "groupvit.grouping_block", "groupvit.contrastive": "groupvit.multilabel_loss"}
_CAUSES = {  # what is usually wrong; shown with a failure
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
}


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The official inputs, weights and outputs of one component, and its constants. name: as in `parity`.

    Keys start with "in/", "weights/" or "out/". Raises ValueError where there is no such file.
    """
    from safetensors import safe_open

    here = Path(__file__).resolve().parent
    for folder in (here / "golden", here.parent / "tests" / "golden"):
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
               "groupvit.multilabel_loss": lambda c, t, _: _groupvit_losses(c, t, "multilabel")}
    tensors, config = golden(name)
    tolerance = 1e-5
    try:
        if candidate is None:
            raise NotImplementedError
        pairs = compare[name](candidate, tensors, config)
        worst = max(_difference(got, expected) for got, expected in pairs)
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
    entry = dict(id=name, oracle=_RELEASES[method], tolerance=tolerance, worst=_rounded(worst, 1), note="")
    _record(_chapter(method), "parity", entry)
    bound = "exactly" if worst == 0 else f"to {10.0 ** math.ceil(math.log10(worst)):.0e}"
    print(f"{name}: equal to the release ({bound})")
    return worst


def no_oracle(name: str, why: str) -> None:
    """Say that a component has no official implementation to compare with, and put it on the parity page."""
    entry = dict(id=name, oracle=None, tolerance=None, worst=None, note=why)
    _record(_chapter(name.split(".")[0]), "parity", entry)
    print(f"{name}: no oracle exists ({why})")


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
