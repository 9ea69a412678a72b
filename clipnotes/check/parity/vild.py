"""ViLD (chapter 4): both heads, the distillation, the class loss, the ensemble's scores.

The release is TensorFlow: pictures are height × width × channels there. Its numbers are turned here, so that a
candidate works on channels × height × width, as everything in the course does.
"""

from typing import Any

import torch
from torch import Tensor

from clipnotes.check.parity import Config, Pairs, Tensors, build, component, load

RELEASE = "tensorflow/tpu at 7dc921f"
_SCOPE = "weights/frcnn_layer_0/fast_rcnn_head/"


def _kernel(name: str, value: Tensor, channels: int) -> Tensor:
    """A kernel as PyTorch keeps it: output first; what follows the flattened region reads channels first."""
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    if name.endswith("fc6"):
        side = round((len(value) // channels) ** 0.5)
        value = value.view(side, side, channels, -1).permute(2, 0, 1, 3).flatten(0, 2)
    return value.T


def _weights(tensors: Tensors, channels: int) -> Tensors:
    """The release's weights under the candidate's names: distill_conv_0/kernel is image_tower.convs.0.weight."""
    parts, found = {"project-to-clip": "project"}, {}
    for key, value in tensors.items():
        if not key.startswith(_SCOPE) or "class-predict" in key:
            continue
        layer, kind = key.removeprefix(_SCOPE).split("/")
        tower = "tower."
        if layer.startswith(("distill_", "distill-")):
            tower, layer = "image_tower.", layer[len("distill_"):]
        name = "box" if layer == "box-predict" else tower + parts.get(layer, layer.replace("conv_", "convs."))
        found[f"{name}.{'weight' if kind == 'kernel' else kind}"] = (
            _kernel(layer, value, channels) if kind == "kernel" else value)
    return found | {"background": tensors[_SCOPE + "background-class-predict/kernel"][:, 0]}


def _head(candidate: Any, tensors: Tensors, config: Config, separate: bool) -> Pairs:
    roi = tensors["in/roi"].permute(0, 1, 4, 2, 3)
    (B, R, C, bins, _), rest = roi.shape, config["max_distill_rois"]
    weights = _weights(tensors, C)
    hidden, E = weights["tower.fc7.bias"].shape[0], weights["background"].shape[0]
    named = dict(channels=C, bins=bins, convs=config["num_convs"], hidden=hidden, embed_dim=E, separate=separate)
    module = load(build(candidate, **named), {f"weights/{key}": value for key, value in weights.items()})
    text_emb = tensors[_SCOPE + "class-predict/kernel"].T
    logits, boxes, image_emb = (value.unflatten(0, (B, R)) for value in module(roi.flatten(0, 1), text_emb))
    yield logits, tensors["out/test_class_outputs"]
    yield boxes, tensors["out/test_box_outputs"]
    yield logits[:, :-rest], tensors["out/train_class_outputs"]
    yield boxes[:, :-rest], tensors["out/train_box_outputs"]
    yield image_emb[:, -rest:], tensors["out/train_distill_feat"]
    if separate:
        yield image_emb, tensors["out/test_distill_feat"]


@component()
def head(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(channels, bins, convs, hidden, embed_dim, separate=True) -> module, (regions N×C×bins×bins, text_emb K×E)
    -> (logits N×(1+K), boxes N×4, image_emb N×E). Weights: tower.convs.i, tower.fc6, tower.fc7, tower.project,
    image_tower with the same, background (E), box.

    Usual mistakes: 3×3 convolutions keep the size, each with a ReLU, then fc6 and fc7 with a ReLU each, project
    without; the embedding is a unit vector; text vectors and the background are made unit vectors, too; logits
    are 100 times the cosines, the background first, without a bias; boxes come from fc7 of the text tower;
    image_emb is the unit vector of image_tower.
    """
    yield from _head(candidate, tensors, config, True)


@component()
def text_head(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(channels, bins, convs, hidden, embed_dim, separate=False) -> module, (regions N×C×bins×bins, text_emb K×E)
    -> (logits N×(1+K), boxes N×4, image_emb N×E). Weights: tower.convs.i, tower.fc6, tower.fc7, tower.project,
    background (E), box.

    Usual mistakes: one tower for both: image_emb is the embedding that is classified; the embedding, the text
    vectors and the background are unit vectors; logits are 100 times the cosines, the background first; boxes
    come from fc7.
    """
    yield from _head(candidate, tensors, config, False)


@component()
def distillation(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(student B×R×E, teacher B×R×E, boxes B×R×4) -> loss. A proposal whose coordinates are all 0 is padding.

    Usual mistakes: the teacher's vectors are made unit vectors; the L1 distance is summed over E; the mean is over
    proposals that are no padding.
    """
    yield candidate(tensors["in/student"], tensors["in/teacher"], tensors["in/roi_boxes"]), tensors["out/loss"]


@component("vild_distillation")
def class_loss(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(logits N×(1+K), labels N, mask 1+K) -> loss; mask: 1 for the background and base names, 0 for novel ones.

    Usual mistakes: the release multiplies the logits by the mask: a novel name's logit is 0, not minus infinity,
    so it stays in the denominator; the mean cross entropy over all proposals.
    """
    logits, labels = tensors["in/class_logits"].flatten(0, 1), tensors["in/class_targets"].flatten()
    mask = tensors["in/base_mask_with_bg"]
    yield candidate(logits, labels, mask), tensors["out/class_loss_masked"]
    yield candidate(logits, labels, torch.ones_like(mask)), tensors["out/class_loss_unmasked"]


@component()
def ensemble(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(text_logits B×R×(1+K), image_logits B×R×K, base K: 1 for base names, 0 for novel ones) -> scores B×R×K.

    Usual mistakes: the text branch's softmax has the background, which is dropped afterwards; the image branch's has
    none; base names: text^(2/3) · image^(1/3); novel names: the other way round.
    """
    yield (candidate(tensors["in/text_logits_with_bg"], tensors["in/image_logits"], tensors["in/base_mask"]),
           tensors["out/scores"])
