"""CLIPasso (chapter 7): the losses, where strokes begin, and the rasteriser."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes.check.parity import Config, Pairs, Tensors, accepted, cases, component, load

RELEASE = "yael-vinker/CLIPasso at 92262f7"
START = "clipasso_saliency_init"


@component(note="1e-4 of the largest is allowed for the gradient, 1e-5 for the losses")
def losses(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(maps of the sketch, maps of the target, weights, "L2" or "L1") -> {layer: weighted loss}; the first
    three are dicts, a layer each, "fc" for the pooled vector.

    Usual mistakes: the mean over all elements of the squared (L2) or absolute (L1) difference of the maps,
    not the sum;
    fc: the weight times one minus the cosine; every part times its weight.
    """
    layers = zip(LAYERS, config["conv_layer_weights"], strict=True)
    weights = {key: weight for key, weight in layers if weight}
    weights |= {"fc": config["fc_weight"]} if config["fc_weight"] else {}
    read = _reader(tensors, config, weights)
    target = read(tensors["in/target"])
    for norm in cases(tensors, "out/(.+)_total"):
        parts = [candidate(read(tensors["in/sketch"]), target, weights, norm)]
        if all(f"out/{side}_{key}" in tensors for side in ("sketch", "target") for key in weights):
            given = [{key: tensors[f"out/{side}_{key}"] for key in weights} for side in ("sketch", "target")]
            parts.append(candidate(*given, weights, norm))
        for part in parts:
            for key in weights:
                named = key if key == "fc" else f"clip_conv_loss_layer{LAYERS.index(key)}"
                yield part[key].mean(), tensors[f"out/{norm}_{named}"]
            yield sum(part.values()).mean(), tensors[f"out/{norm}_total"]
        with torch.enable_grad():
            sketch = tensors["in/sketch"].clone().requires_grad_()
            total = sum(candidate(read(sketch), target, weights, norm).values()).mean()
            gradient = torch.autograd.grad(total, sketch)[0]
        expected = tensors[f"out/{norm}_grad_sketch"]
        yield gradient / expected.abs().max(), expected / expected.abs().max(), 1e-4


LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4")  # in the order of the release's list of weights


def _reader(tensors: Tensors, config: Config, weights: dict[str, float]) -> Any:
    """Pictures B×3×H×W in [0, 1] -> the ResNet's maps that have a weight, and "fc", the pooled vector."""
    from clipnotes.clip import IMAGE_MEAN, IMAGE_STD, ModifiedResNet

    width = tensors["weights/visual.conv3.weight"].shape[0]
    embed_dim = tensors["weights/visual.attnpool.c_proj.bias"].shape[0]
    size, layers = tensors["in/sketch"].shape[-1], tuple(config["layers"])
    visual = load(ModifiedResNet(size, layers, width, config["heads"], embed_dim), tensors, "weights/visual.")
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))

    def read(images: Tensor) -> dict[str, Tensor]:
        maps = visual.layers((images - mean) / std)
        return {key: maps[key] if key != "fc" else visual.attnpool(maps["layer4"]) for key in weights}

    return read


@component(START)
def saliency(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(attention layers×heads×T×T, size) -> size×size.

    Usual mistakes: the class token's row, [..., 0, 1:]; mean over heads and over all layers; bicubic,
    align_corners=False; then from 0 to 1.
    """
    expected = tensors["out/saliency"]
    yield candidate(tensors["in/attn_probs"], expected.shape[-1]), expected


@component(START)
def xdog(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(picture 3×H×W) -> H×W: 0 where there is an edge, 1 elsewhere. May take `sigma`, `k`, `gamma`, `phi`,
    `eps`.

    Usual mistakes: grey by 0.2125, 0.7154, 0.0721; the border pixel is repeated in the mirror (c b a a b c);
    radius 4 sigma; 1 where the difference is below -0.1; scaled to [0, 1] before Otsu's threshold.
    """
    constants = accepted(candidate, **{key: config.get(key) for key in ("sigma", "k", "gamma", "phi", "eps")})
    yield candidate(tensors["in/image"].permute(2, 0, 1), **constants), tensors["out/xdog"].long()


@component(START)
def sampling(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(saliency H×W, XDoG H×W or None) -> probabilities H×W. May take `temperature`.

    Usual mistakes: saliency from 0 to 1, times one minus the edges; the softmax runs over the pixels above 0
    alone, after the division by 0.3; the others get 0.
    """
    constants = accepted(candidate, temperature=config.get("softmax_temperature"))
    for edges, case in ((tensors["out/xdog"], ""), (None, "_no_xdog")):
        found = candidate(tensors["in/saliency_small"], edges, **constants)
        yield 1000 * found, tensors[f"out/sampling_prob{case}_x1000"]


@component("rasteriser", release="BachiLi/diffvg at 85802a7",
           note="the release draws random samples, 12×12 a pixel: 0.05 is allowed a pixel, 0.005 on average, "
                "3 % for the gradient of a loss and for its change when a point moves")
def rasteriser(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(points B×N×4×2, width, size) -> B×3×H×W, or B×1×H×W. size: a number, or (H, W) where the canvas is not
    square.

    Usual mistakes: the width is a radius; round caps; points are (x, y); the pixel in row i, column j has its
    centre at (j + 0.5, i + 0.5); what a hairpin encloses needs finer pixels: draw three times as large, and
    average.
    """
    strokes, height, width = tensors["in/strokes"], config["height"], config["width"]
    size = width if height == width else (height, width)
    for radius in tensors["in/widths"].tolist():
        for points, case in ((strokes[None], "all"), (strokes[:, None], "each")):
            expected = tensors[f"out/image_{case}_w{radius:g}"].view(-1, height, width)
            got = candidate(points, radius, size)[:, 0]
            yield got, expected, 0.05
            yield (got - expected).abs().mean(), torch.zeros(()), 0.005

    def losses(points: Tensor) -> Tensor:
        drawn = candidate(points, config["fd_width"], size)[:, 0]
        return (drawn - tensors["in/target"]).square().mean((1, 2))

    yield losses(strokes[None])[0], tensors["out/loss"], 2e-3
    step = config["fd_step"] * torch.eye(strokes.numel()).view(-1, *strokes.shape)
    differences = (losses(strokes + step) - losses(strokes - step)) / (2 * config["fd_step"])
    with torch.enable_grad():
        points = strokes.clone().requires_grad_()
        gradient = torch.autograd.grad(losses(points[None]).sum(), points)[0]
    one = torch.ones(())
    for got, case in ((differences, "fd"), (gradient, "reverse")):
        got, expected = 1000 * got.flatten(), tensors[f"out/grad_{case}_x1000"].flatten()
        yield F.cosine_similarity(got, expected, 0), one, 1e-3
        yield got.norm() / expected.norm(), one, 0.03
