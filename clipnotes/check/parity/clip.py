"""CLIP (chapter 1): the image towers, the text tower, the loss, the tokenizer."""

from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from clipnotes.check.parity import Config, Pairs, Tensors, build, cases, component, load

RELEASE = "openai/CLIP at d05afc4"


@component()
def vit(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(image_size, patch_size, width, layers, heads, embed_dim) -> module, standardised images B×3×H×W ->
    B×E.

    Usual mistakes: the class token comes first; ln_pre after the positions; x + f(LN(x)) in each block;
    QuickGELU, not GELU; scores divided by sqrt(width / heads); ln_post on the class token only, then proj.
    """
    named = dict(image_size=config["input_resolution"])
    named |= {key: config[key] for key in ("patch_size", "width", "layers", "heads")}
    module = load(build(candidate, **named, embed_dim=config["output_dim"]), tensors, "weights/visual.")
    yield module(tensors["in/image"]), tensors["out/image_features"]


@component()
def resnet(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(image_size, layers, width, heads, embed_dim) -> module, standardised images B×3×H×W -> B×E.

    Usual mistakes: three stem convolutions, each with batch norm and ReLU, then an average pool; a stride is
    an average pool after the second ReLU and before the shortcut's convolution; ReLU after the sum; in the
    attention pool only the mean token asks, and positions are added to it too.
    """
    named = dict(image_size=config["input_resolution"], layers=tuple(config["layers"]))
    named |= dict(width=config["width"], heads=config["heads"], embed_dim=config["output_dim"])
    module = load(build(candidate, **named), tensors, "weights/visual.")
    yield module(tensors["in/image"]), tensors["out/image_features"]


@component()
def text(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(embed_dim, context_length, vocab_size, text_width, text_layers, text_heads), or one `config` with
    these fields, -> module, ids N×T -> N×E by its `encode_ids`, or by calling it.

    Usual mistakes: causal mask; ln_final before the pick; the state at the first place of the largest id;
    then times text_projection; padding is not masked.
    """
    named = {key: config[key] for key in ("embed_dim", "context_length", "vocab_size")}
    named |= {f"text_{key}": config[f"transformer_{key}"] for key in ("width", "layers", "heads")}
    if not isinstance(candidate, nn.Module) and list(signature(candidate).parameters) == ["config"]:
        from clipnotes.clip import CLIPConfig

        unused = dict(image_size=32, vision_layers=1, vision_width=64, patch_size=32)
        named = dict(config=CLIPConfig(**unused, **named))
    module = load(build(candidate, **named), tensors, ignore=("visual.", "logit_scale"))
    encode = getattr(module, "encode_ids", module)
    yield encode(tensors["in/text"]), tensors["out/text_features"]


@component()
def loss(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(unit image vectors B×E, unit text vectors B×E, the scale's factor) -> loss.

    Usual mistakes: the features come as unit vectors and the scale as the factor itself, exp already taken;
    the target is the diagonal; cross entropy over rows and over columns, and their mean (not the sum).
    """
    image_emb, text_emb = (F.normalize(tensors[f"in/{side}_features"], dim=-1) for side in ("image", "text"))
    for case in cases(tensors, "in/logit_scale_(.+)"):
        factor = tensors[f"in/logit_scale_{case}"].exp()
        yield candidate(image_emb, text_emb, factor), tensors[f"out/loss_{case}"]


@component()
def tokens(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """text -> list of ids, with both the start and the end id or with neither.

    Usual mistakes: text is repaired, unescaped twice, stripped, lower-cased; the last byte of a word carries
    </w>; the lowest rank merges first; start and end ids around.
    """
    for text, ids, length in zip(config["strings"], tensors["out/ids"], tensors["out/length"], strict=True):
        got = torch.as_tensor(candidate(text))
        whole = len(got) and got[0] == ids[0]
        yield got, ids[:length] if whole else ids[1 : length - 1]
