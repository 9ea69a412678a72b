"""PointCLIP (chapter 12): views, projection, fusion, adapter, loss; and the projection of PointCLIP V2."""

from typing import Any

import torch

from clipnotes.check.parity import Config, Pairs, Tensors, accepted, build, cases, component, load

RELEASE = "ZrrSkywalker/PointCLIP at 8656f2c"
V2 = "yangyangyang127/PointCLIP_V2 at 0b5aee8"


@component("pointclip_project")
def views(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(how many views) -> (rotations V×3×3, translations V×3). May take `distance`.

    Usual mistakes: the transpose of Rx Ry Rz; sides (k 90, 0, 90 degrees), corners (225 or 315, -+45, 90) for
    ten views, ends (0, -+90, 90) last; the translation is minus the distance along z.
    """
    for kind in cases(tensors, "out/rotation_(.+)"):
        expected = tensors[f"out/rotation_{kind}"], tensors[f"out/translation_{kind}"]
        constants = accepted(candidate, distance=-config[f"{kind}_trans"])
        yield from zip(candidate(len(expected[0]), **constants), expected, strict=True)


@component()
def project(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(points B×P×3, rotations V×3×3, translations V×3, size) -> B×V×size×size.

    Usual mistakes: subtract the translation after the rotation; x gives the row, y the column; ceil(t - 0.5),
    not ceil; the harmonic mean n / sum(1/z) in a pixel; what lies beyond the canvas is dropped.
    """
    for kind in cases(tensors, "out/depth_(.+)"):
        expected = tensors[f"out/depth_{kind}"]
        view = tensors[f"out/rotation_{kind}"], tensors[f"out/translation_{kind}"]
        yield candidate(tensors[f"in/points_{kind}"], *view, expected.shape[-1]), expected


@component()
def fuse(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(views B×V×D, texts K×D, the factor, weights V or None, whether all views are made unit as one) ->
    logits B×K.

    Usual mistakes: zero-shot: each view unit, then one behind the other; few-shot: the whole unit; the text
    is repeated and then made unit, so each view counts cos / sqrt(V); weights multiply unit views.
    """
    given = tensors["in/view_features"], tensors["in/text_features"], tensors["in/logit_scale"].exp()
    yield candidate(*given, None, False), tensors["out/logits_zero_shot"]
    yield candidate(*given, tensors["in/view_weights"], False), tensors["out/logits_view_weighted"]
    yield candidate(*given, None, True), tensors["out/logits_few_shot"]


@component()
def adapter(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(views, channels, ratio) -> module, (B·V)×C -> B×(V·C).

    Usual mistakes: views times fusion_ratio only for the global vector; one batch norm a channel for all
    views; a ReLU at the end of the correction; ratio times correction plus (1 - ratio) times the views as
    they came.
    """
    views, ratio = tensors["in/view_features"], config["residual_ratio"]
    named = dict(views=len(tensors["weights/fusion_ratio"]), channels=views.shape[1], ratio=ratio)
    yield load(build(candidate, **named), tensors)(views), tensors["out/adapted"]


@component()
def smooth_loss(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(logits B×K, labels B) -> loss. May take `eps`.

    Usual mistakes: 1 - eps for the right class, eps / (K - 1) for each other one; the mean over the batch.
    """
    logits, labels = tensors["in/logits"], tensors["in/labels"]
    constants = accepted(candidate, eps=config.get("eps"))
    yield candidate(logits, labels, **constants), tensors["out/loss"]
    for row in range(len(labels)):
        one = candidate(logits[row : row + 1], labels[row : row + 1], **constants)
        yield one, tensors["out/loss_per_sample"][row]


def _rotations(tensors: Tensors) -> torch.Tensor:
    return tensors["out/rotation_1"] @ tensors["out/rotation_2"]


@component("pointclip_v2_project", release=V2)
def v2_grid(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(points B×P×3, one rotation, size, depth, ratio, bias) -> B×depth×size×size.

    Usual mistakes: centre by the bounding box, divide by half of its largest side; pixels by ceil, clipped to
    [1, size - 2]; the slot is ceil of a value clipped to [1, depth - 2]; the largest value stays.
    """
    constants = [config[key] for key in ("resolution", "depth", "obj_ratio", "depth_bias")]
    grid = candidate(tensors["in/points"], _rotations(tensors)[0], *constants)
    yield grid[0], tensors["out/grid_first_view"]


@component(release=V2)
def v2_project(candidate: Any, tensors: Tensors, config: Config) -> Pairs:
    """(points B×P×3, rotations V×3×3, size, depth, pool, sigma, ratio, bias) -> B×V×(size - 2)×(size - 2).
    May take `pool_padding`, `blur` and `blur_padding`.

    Usual mistakes: window 7×7 with padding 2, blur 3×3 with padding 1 (a normalised kernel), the maximum over
    depth, divided by the picture's maximum, then one minus it.
    """
    names = ("resolution", "depth", "maxpoolxy", "convsigmaxy", "obj_ratio", "depth_bias")
    constants = [config[key] for key in names]
    windows = accepted(candidate, pool_padding=config.get("maxpoolpadxy"), blur=config.get("convxy"),
                       blur_padding=config.get("convpadxy"))
    pictures = candidate(tensors["in/points"], _rotations(tensors), *constants, **windows)
    yield pictures[0], tensors["out/images"]
