"""The answers to chapter 7's exercises."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes.check.exercises import Exercise
from clipnotes.strokes import bezier


def halving(points: Tensor, which: int) -> Tensor:
    """De Casteljau's scheme at 1/2: of each round the first point (0) or the last (-1)."""
    kept = [points[which]]
    while len(points) > 1:
        points = torch.lerp(points[:-1], points[1:], 0.5)
        kept.append(points[which])
    return torch.stack(kept)


def curves() -> list[tuple[Tensor]]:
    g = torch.Generator().manual_seed(0)
    curve = torch.tensor([[5.0, 60.0], [20.0, 0.0], [45.0, 75.0], [60.0, 5.0]])
    return [(curve,), (50 * torch.rand(4, 2, generator=g),)]


def attentions() -> list[tuple[Tensor]]:
    """Probabilities layers×heads×T×T with a class token before 16 and before 4 patches."""
    g = torch.Generator().manual_seed(6)
    return [(torch.randn(*sizes, generator=g).softmax(-1),) for sizes in ((3, 2, 17, 17), (2, 4, 5, 5))]


def square(row: Tensor) -> Tensor:
    return row.view(math.isqrt(len(row)), -1)


def class_view(attention: Tensor) -> Tensor:
    return square(attention[-1].mean(0)[0, 1:])


def scaled(view: Tensor) -> Tensor:
    return (view - view.min()) / (view.max() - view.min())


def pushed(images: Tensor, g: torch.Generator) -> Tensor:
    """Views that need nothing of the chapter, B×3×H×W -> B·3×3×H×W: each as it is, then pushed about twice."""
    views = [images]
    for i in range(2):
        step = 3 * i + int(torch.randint(1, 4, (1,), generator=g))
        views.append(images.roll((step, 2 * step), (2, 3)))
    return torch.stack(views, 1).flatten(0, 1)


def both_alike(sketch: Tensor, image: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    state = g.get_state()
    return pushed(sketch, g), pushed(image, g.set_state(state))


def both_anew(sketch: Tensor, image: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return pushed(sketch, g), pushed(image, g.manual_seed(g.initial_seed() + 1))


def both_plain(sketch: Tensor, image: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return sketch.repeat_interleave(3, 0), image.repeat_interleave(3, 0)


def sketch_twice(sketch: Tensor, image: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    views = pushed(sketch, g)
    return views, views


def facts_of_views(answer, same: bool, seed: int) -> dict:
    """What holds of the views that an answer gives: of two equal pictures, or of two different ones."""
    g = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(2, 2, 3, 8, 8, generator=g).flatten(0, 1), (64, 64), mode="bilinear")
    sketch, other = smooth.split(2)
    image = sketch.clone() if same else other
    views = answer(sketch, image, torch.Generator().manual_seed(seed))
    first, second = views
    shapes = [tuple(v.shape) for v in (first, second)]
    if shapes != [(6, 3, 64, 64)] * 2:
        return dict(shapes=torch.tensor(shapes[0]))

    def differ(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() > 1e-4)

    return dict(shapes=torch.tensor(shapes[0]),
                plain=not differ(first[::3], sketch) and not differ(second[::3], image),
                views=differ(first[1], first[0]) and differ(first[2], first[1]) and differ(first[2], first[0]),
                equal=not differ(first, second))


def raised(points: Tensor, share: float = 2 / 3) -> Tensor:
    start, middle, end = points.unbind(-2)
    return torch.stack([start, start.lerp(middle, share), end.lerp(middle, share), end], -2)


def quadratics() -> list[tuple[Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.tensor([[[5.0, 50.0], [30.0, -20.0], [60.0, 40.0]]]),), (50 * torch.rand(3, 2, generator=g),)]


def losses(sketch: dict, target: dict, weights: dict[str, float], norm: str = "L2",
           slip: str = "") -> dict[str, Tensor]:
    parts = {}
    for layer, weight in weights.items():
        gap = sketch[layer] - target[layer]
        gap = gap.square() if norm == "L2" or slip == "norm" else gap.abs()
        distance = gap.sum() if slip == "sum" else gap.mean()
        distance = distance.sqrt() if slip == "root" and norm == "L2" else distance
        if layer == "fc" and slip != "fc":
            distance = 1 - F.cosine_similarity(sketch[layer], target[layer]).mean()
        parts[layer] = distance if slip == "weight" else weight * distance
    return parts


def slipped(slip: str):
    return lambda sketch, target, weights, norm="L2": losses(sketch, target, weights, norm, slip)


EXERCISES = {
    "first_half": Exercise(
        reference=lambda points: halving(points, 0),
        twins=[(lambda points: points[:1].lerp(points, 0.5),
                "that is the whole curve, made smaller. Interpolate neighbours, round after round."),
               (lambda points: bezier(points, torch.linspace(0, 0.5, 4)),
                "these points lie on the curve; control points mostly do not."),
               (lambda points: halving(points, -1).flip(0),
                "that is the second half: keep the first point of each round.")],
        hint="keep the first point of each round of interpolation.",
        cases=curves,
        tolerance=1e-4,
    ),
    "last_layer": Exercise(
        reference=class_view,
        twins=[(lambda attention: square(attention.mean((0, 1))[0, 1:]), "that is the mean over all layers still."),
               (lambda attention: square(attention[-1].mean(0)[1:, 0]),
                "rows look, columns are looked at: you took how much the patches look at the class token."),
               (lambda attention: square(attention[-1].mean(0)[1:, 1:].mean(0)),
                "that is the view of the mean query, not of the class token."),
               (lambda attention: scaled(class_view(attention)),
                "leave the probabilities as they are, not scaled to [0, 1].")],
        hint="attention[-1] is the last layer; mean over heads; row 0; without column 0.",
        cases=attentions,
    ),
    "repaired_pair": Exercise(
        reference=both_alike,
        twins=[(both_plain, "views are to differ from the plain image, and from each other."),
               (sketch_twice, "the picture has to pass through the views, too, not the sketch twice.")],
        hint="draw the grids once, and use them for both; two views and the plain image of each picture.",
        bug=both_anew,
        cases=lambda: [(True, 3), (False, 4)],
        use=facts_of_views,
    ),
    "elevate": Exercise(
        reference=raised,
        twins=[(lambda points: points[..., [0, 1, 1, 2], :],
                "a doubled point gives another curve: it bends too far."),
               (lambda points: raised(points).flip(-2), "right points, but the curve runs backwards."),
               (lambda points: raised(points, 1 / 3),
                "one third is too near to the end: this curve bends too little.")],
        hint="two thirds of the way from the end towards the middle point.",
        cases=quadratics,
        tolerance=1e-4,
    ),
    "my_losses": Exercise(
        reference=losses,
        twins=[(slipped("sum"), "the mean over all elements, not the sum."),
               (slipped("root"), "L2 is the mean of the squares here, without a root."),
               (slipped("fc"), "the pooled vector is compared by one minus the cosine."),
               (slipped("norm"), "L1 is the absolute difference."),
               (slipped("weight"), "each part is multiplied by its weight.")],
        hint="mean squared (L2) or absolute (L1) difference of the maps; for fc one minus the cosine; times the "
             "weight.",
        component="clipasso.losses",
        anew=["feature_losses"],
    ),
}
