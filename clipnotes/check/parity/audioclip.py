"""AudioCLIP (chapter 11): the loss of three matrices, the learnable filters, the front end, the attention gates."""

from typing import Any

import torch
from torch import Tensor

from clipnotes.check.parity import Config, Pairs, Tensors, build, cases, component, load

RELEASE = "AndreyGuzhov/AudioCLIP at 45327aa"


def _matrices(tensors: Tensors, case: str) -> list[Tensor]:
    """The similarity matrices of a case: "three" is all, "audio_text_image_text" two of them."""
    given = {name: tensors[f"in/{name}"] for name in cases(tensors, "in/(.+)")}
    return [matrix for name, matrix in given.items() if case == "three" or name in case]


@component("audioclip_loss", note="of three pairs, where the release's divisor is the number of terms")
def loss(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(a list of similarity matrices B×B) -> loss: the mean of all terms.

    Usual mistakes: the right answers are the diagonal; cross-entropy of the rows and of the columns of each
    matrix, six terms of three; their mean, not their sum.
    """
    yield candidate(_matrices(tensors, "three")), tensors["out/loss_three"]


@component("audioclip_loss")
def loss_released(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(a list of similarity matrices B×B) -> loss, as released.

    Usual mistakes: the sum of all terms, rows and columns, over the factorial of the number of matrices: 1,
    2 or 6.
    """
    for case in cases(tensors, "out/loss_(.+)"):
        yield candidate(_matrices(tensors, case)), tensors[f"out/loss_{case}"]


def _filter_weights(tensors: Tensors) -> Tensors:
    """The parameters of the filters; the release's bias is empty."""
    return {k: v for k, v in tensors.items() if k.startswith("weights/") and v.numel()}


@component()
def fbsp(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(filters K, whether normalised) -> module, frames ...×N, real or complex -> complex ...×K.

    Its parameters are m, fb and fc. Usual mistakes: time runs from -pi to pi, both ends included, plus 1e-8;
    sin(z)/z with z = fb t / (m + 1e-8), to the power m, complex where it is negative; times exp(-i fc t) and
    sqrt(fb); over sqrt(N) if normalised; nothing is conjugated.
    """
    count, frames = len(tensors["weights/fbsp.m"]), tensors["in/frames"]
    complex_frames = torch.view_as_complex(tensors["in/frames_complex"])
    for case, normalised in (("normalized", True), ("plain", False)):
        module = load(build(candidate, filters=count, normalised=normalised), _filter_weights(tensors), "weights/fbsp.")
        filters = module(torch.eye(frames.shape[-1])).T  # of one sample each
        for got, expected in ((filters, "filters"), (module(frames), "spectrum"),
                              (module(complex_frames), "spectrum_complex_input")):
            yield torch.view_as_real(got.contiguous()), tensors[f"out/{expected}_{case}"]


@component()
def frontend(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(n_fft, hop, win, bands) -> module, waves B×samples of 16 bits, as floats -> dB B×bands×bins/bands×T.

    Its filters are `fbsp`. Usual mistakes: (x + 32768) / 65535 * 2 - 1; 1 + ceil((samples - win) / hop)
    frames; what is missing is zeros, half left (rounded down), half right; Blackman-Harris, periodic; zeros
    on both sides up to n_fft; n_fft / 2 + 1 normalised filters; bins beyond a multiple of the bands are left
    out; 10 log10 of the power, 1e-18 where it is 0.
    """
    named = {name: config[name] for name in ("n_fft", "hop", "win", "bands")}
    module = load(build(candidate, **named), _filter_weights(tensors), ignore=("window",))
    yield module(tensors["in/wave"]), tensors["out/spec_db"][:, 0]


@component()
def attention2d(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(channels C, out channels O, kernels a channel, kernel size, padding) -> module, (maps B×C×h×w, (H, W))
    -> gates B×O×H×W.

    Usual mistakes: the largest of each cell (adaptive pooling) first; then a depthwise convolution with bias,
    a 1×1 convolution with bias, batch norm, sigmoid.
    """
    for case in cases(tensors, "in/x_(.+)"):
        x, depth = tensors[f"in/x_{case}"], tensors[f"weights/{case}.conv_depth.weight"]
        named = dict(channels=x.shape[1], out_channels=len(tensors[f"weights/{case}.conv_point.weight"]),
                     kernels=len(depth) // x.shape[1], kernel_size=tuple(depth.shape[2:]),
                     padding=tuple(tensors[f"in/padding_{case}"].tolist()))
        module = load(build(candidate, **named), tensors, f"weights/{case}.")
        yield module(x, tuple(tensors[f"in/size_{case}"].tolist())), tensors[f"out/gate_{case}"]
