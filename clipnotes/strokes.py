"""Bézier strokes on paper, differentiable in their control points. Chapter 7 builds this module.

A stroke is a cubic Bézier curve: four control points (x, y) in pixels; x points right, y points down, and the pixel in
row i and column j covers [j, j+1) × [i, i+1). `width` is a radius, as in pydiffvg: 1.5 draws a line of 3 px with round
ends. Strokes are black and opaque on white paper, unless `opacity` and `colour` say otherwise.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bezier", "bezier_slope", "composite", "cover", "distance_naive", "render", "render_naive", "to_svg",
           "touched"]

FAR = 1e4  # pixels: nobody draws there
PIECE = 4.0  # pixels of curve that are looked at together
# Torch gives an operation on more numbers than this to several threads, and where the processor is busy they wait for
# each other far longer than they work. Indexing by [] and repeat_interleave divide even less: hence index_select below.
BLOCK = 2**15

# ---------------------------------------------------------------- curves


def bezier(points: Tensor, t: Tensor) -> Tensor:
    """Points of cubic curves: control points ...×4×2 at t ... -> ...×2. The leading sizes broadcast."""
    s = 1 - t
    weights = torch.stack([s**3, 3 * s**2 * t, 3 * s * t**2, t**3], -1)
    return (weights[..., None] * points).sum(-2)


def bezier_slope(points: Tensor, t: Tensor) -> Tensor:
    """The derivative of `bezier` with respect to t: control points ...×4×2 at t ... -> ...×2."""
    s = 1 - t
    weights = torch.stack([3 * s**2, 6 * s * t, 3 * t**2], -1)
    return (weights[..., None] * points.diff(dim=-2)).sum(-2)


# ---------------------------------------------------------------- how much of a pixel is covered


def half_plane(edge: Tensor, direction: Tensor) -> Tensor:
    """Exact share of a pixel that lies behind a straight edge.

    edge: ..., signed distance from the pixel's centre to the edge along `direction`, unit vectors ...×2.
    """
    # Seen along the direction, a square is a trapezoid: two boxes, as wide as the direction's two parts, convolved.
    short, long = direction.abs().clamp(min=1e-2).aminmax(dim=-1)
    outer, inner = (long + short) / 2, (long - short) / 2
    edge = edge.minimum(outer).maximum(-outer)
    rise = (edge + outer) ** 2 - (edge + inner).relu() ** 2 - (edge - inner).relu() ** 2
    return (rise / (2 * long * short)).clamp(max=1)


def cover(distance: Tensor, width: Tensor, kind: str, sigma: float = 1.0, direction: Tensor | None = None) -> Tensor:
    """Share of each pixel that a stroke covers, from the distance of the pixel's centre to the curve.

    kind "ramp": the stroke, seen through a box one pixel wide. "gaussian": seen through a blur of `sigma` pixels, so
    that pixels further away feel it, too. "area": the exact area between two straight edges across `direction`, unit
    vectors ...×2 from the curve to the pixel. distance, width: ..., `width` is the radius.
    """
    if kind == "ramp":
        begin, end = torch.maximum(-width, distance - 0.5), torch.minimum(width, distance + 0.5)
        return (end - begin).clamp(0, 1)
    if kind == "gaussian":
        scale = sigma * math.sqrt(2)
        blurred = (torch.erf((distance + width) / scale) - torch.erf((distance - width) / scale)) / 2
        return (blurred - 0.00135).relu()  # what is left 3 sigma behind the edge: `render` looks no further
    if direction is None:
        raise ValueError('"area" needs the direction in which the edge is met: `render` knows it, `render_naive` not.')
    return half_plane(width - distance, direction) - half_plane(-width - distance, direction)


# ---------------------------------------------------------------- the first version: every pixel, every curve


def distance_naive(points: Tensor, size: tuple[int, int], pieces: int = 32) -> Tensor:
    """Distance of every pixel's centre to every curve, as a chain of straight pieces: B×N×4×2 -> B×N×H×W."""
    y, x = (torch.arange(side, dtype=points.dtype, device=points.device) + 0.5 for side in size)
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # H×W×2
    knots = bezier(points[:, :, None], torch.linspace(0, 1, pieces + 1, dtype=points.dtype, device=points.device))
    start, chord = knots[..., None, None, :-1, :], knots.diff(dim=-2)[..., None, None, :, :]
    offset = centres[:, :, None] - start  # B×N×H×W×pieces×2
    share = (offset * chord).sum(-1) / chord.square().sum(-1).clamp(min=1e-12)
    gap = offset - share.clamp(0, 1)[..., None] * chord
    return (gap.square().sum(-1).amin(-1) + 1e-12).sqrt()  # the root of 0 has no slope: NaN without the 1e-12


def render_naive(points: Tensor, width: float = 1.5, size: int | tuple[int, int] = 64, coverage: str = "ramp",
                 sigma: float = 1.0, opacity: float | Tensor = 1.0, colour: Tensor | None = None,
                 pieces: int = 32) -> Tensor:
    """What `render` draws, from the distances of all pixels to all curves. No coverage "area" here."""
    size = check_strokes(points, width, size, coverage, sigma, opacity, colour)
    batch, strokes = points.shape[:2]
    distance = distance_naive(points, size, pieces)
    alpha = cover(distance, per_stroke(width, points)[..., None, None], coverage, sigma)
    alpha = alpha * per_stroke(opacity, points)[..., None, None]
    ink = per_stroke(colour, points, 3)
    images = points.new_ones(batch, 3, *size)
    for k in range(strokes):  # the last stroke lies on top
        images = torch.lerp(images, ink[:, k, :, None, None], alpha[:, k, None])
    return images


# ---------------------------------------------------------------- the second version: only where there is ink


def pieces_of(curves: Tensor, length: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cut curves M×4×2 at equal steps of t into pieces of at most `length` pixels.

    Returns for each piece the number of its curve, the t at which it begins and the t at which it ends.
    """
    fastest = 3 * curves.diff(dim=1).norm(dim=-1).amax(1)  # |B'(t)| is never larger
    count = (fastest / length).ceil().clamp(min=8).long()  # from 4 on, a piece bulges by length / 8 at most
    most = max(count.tolist(), default=0)
    curve, place = (torch.arange(most, device=curves.device) < count[:, None]).nonzero().unbind(-1)
    step = (1 / count.to(curves.dtype)).index_select(0, curve)
    return curve, place * step, (place + 1) * step


def pairs_near(begin: Tensor, end: Tensor, reach: float, half: float, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Pairs of a straight piece and a pixel on the canvas whose centre is within reach of it.

    begin, end: P×2, of the pieces; a square of 2·half pixels around a piece's middle holds all its pairs. Returns, for
    each pair, the number of the piece, the pixel's row and column, and where on the piece the nearest point lies, from
    0 to 1.
    """
    side = torch.arange(int(2 * half) + 1, device=begin.device)
    corner = ((begin + end) / 2 - half - 0.5).ceil().long()
    column, row = (corner[..., None] + side).unbind(1)  # P×side each
    x, y = column + 0.5 - begin[:, :1], row + 0.5 - begin[:, 1:]
    chord = end - begin
    unit = chord / chord.square().sum(-1, keepdim=True).clamp(min=1e-12)
    across, down = (x * unit[:, :1])[:, None], (y * unit[:, 1:])[:, :, None]
    share = (across + down).clamp(0, 1)  # P×side×side
    x_gap, y_gap = x[:, None] - share * chord[:, :1, None], y[:, :, None] - share * chord[:, 1:, None]
    inside = ((row >= 0) & (row < size[0]))[:, :, None] & ((column >= 0) & (column < size[1]))[:, None]
    close = (x_gap**2 + y_gap**2 <= reach**2) & inside
    piece, i, j = close.nonzero().unbind(-1)
    column, row = corner.index_select(0, piece).unbind(-1)
    return piece, row + i, column + j, share.masked_select(close)


def nearest(curves: Sequence[Tensor], target: Tensor, t: Tensor, low: Tensor, high: Tensor, rounds: int) -> Tensor:
    """Move t to where the curve comes nearest to the target, by Newton steps that stay in [low, high].

    curves: the four control points, each 2×P, of one curve a pair; target: 2×P; t, low, high: P. Returns 2×P: the new
    t, and the squared distance there.
    """
    p0, p1, p2, p3 = curves
    cubic, square, linear = p3 - 3 * p2 + 3 * p1 - p0, 3 * (p2 - 2 * p1 + p0), 3 * (p1 - p0)
    for _ in range(rounds):
        gap = ((cubic * t + square) * t + linear) * t + p0 - target
        slope, bend = (3 * cubic * t + 2 * square) * t + linear, 6 * cubic * t + 2 * square
        speed = (slope * slope).sum(0)
        curvature = speed + (gap * bend).sum(0)  # half the second derivative of the squared distance
        curvature = torch.where(curvature > speed / 100, curvature, speed)  # where Newton's step would climb or leap
        t = (t - (gap * slope).sum(0) / curvature.clamp(min=1e-12)).minimum(high).maximum(low)
    gap = ((cubic * t + square) * t + linear) * t + p0 - target
    return torch.stack([t, (gap * gap).sum(0)])


def keep_nearest(pair: Tensor, gap: Tensor) -> Tensor:
    """The places of the smallest gap of each pair, in the order of the pairs.

    pair: P integers, in which a pair may stand several times, since several pieces of its curve reach the pixel.
    """
    order = gap.argsort()
    order = order.index_select(0, pair.index_select(0, order).argsort(stable=True))  # by pair, then still by gap
    pair = pair.index_select(0, order)
    first = torch.ones_like(pair, dtype=torch.bool)
    first[1:] = pair[1:] != pair[:-1]
    return order.masked_select(first)


def refine(pieces: Sequence[Tensor], piece: Tensor, pixel: Tensor, t: Tensor, columns: int, rounds: int) -> Tensor:
    """What `nearest` finds for pairs of a piece and a pixel, half a piece beyond either end of the piece at most.

    pieces: the control points 4×2×M of each piece's curve, and the M values of t at which the pieces begin and end;
    piece, pixel, t: P, of the pairs; columns: how many pixels a row of the canvas has.
    """
    shape, low, high = pieces
    target = torch.stack([pixel % columns, pixel // columns]) + 0.5
    begin, end = low.index_select(0, piece), high.index_select(0, piece)
    first, last = torch.lerp(begin, end, -0.5).clamp(min=0), torch.lerp(begin, end, 1.5).clamp(max=1)
    return nearest([points.index_select(1, piece) for points in shape], target, t, first, last, rounds)


def close_pairs(pieces: Sequence[Tensor], ends: Sequence[Tensor], reach: float, length: float,
                size: tuple[int, int]) -> list[Tensor]:
    """All pairs of a piece and a pixel within reach of its curve: the piece, the pixel, t, the squared distance.

    pieces: as for `refine`, of at most `length` pixels; ends: where they begin and end, P×2 each.
    """
    wide = reach + length / 8  # a straight piece is that near where its curve is within reach
    half = wide + length / 2
    block, found = max(1, BLOCK // 2 // int(2 * half + 1) ** 2), []
    for k in range(0, max(1, len(ends[0])), block):
        some = [end[k : k + block] for end in ends]
        piece, row, column, share = pairs_near(*some, wide, half, size)
        piece, pixel = piece + k, row * size[1] + column
        begin, end = (side.index_select(0, piece) for side in pieces[1:])
        t, gap = refine(pieces, piece, pixel, torch.lerp(begin, end, share), size[1], 2)
        kept = gap <= reach**2
        found.append([values.masked_select(kept) for values in (piece, pixel, t, gap)])
    return [torch.cat(values) for values in zip(*found, strict=True)]


@torch.no_grad()
def touched(curves: Tensor, reach: float, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of a curve and a pixel whose centre is within reach of it: the curve, the pixel, the nearest t.

    curves: M×4×2. Curves count from 0 to M - 1, pixels from 0 to H·W - 1, row by row. The pairs are sorted by curve,
    then by pixel.
    """
    length = max(PIECE, reach / 2)
    curve, low, high = pieces_of(curves, length)
    own = curves.index_select(0, curve)
    pieces = own.permute(1, 2, 0).contiguous(), low, high
    ends = bezier(own, low), bezier(own, high)
    piece, pixel, t, gap = close_pairs(pieces, ends, reach, length, size)
    curve = curve.index_select(0, piece)
    order = keep_nearest(curve * size[0] * size[1] + pixel, gap)
    curve, piece, pixel, t = (values.index_select(0, order) for values in (curve, piece, pixel, t))
    return curve, pixel, refine(pieces, piece, pixel, t, size[1], 5)[0]


def edge_direction(offset: Tensor, slope: Tensor) -> Tensor:
    """The direction in which a curve's edge is met: unit vectors along the offset, or across the curve where that is 0.

    offset: P×2, from the nearest point of the curve to the pixel's centre; slope: P×2, the curve's derivative there.
    """
    normal = F.normalize(torch.stack([-slope[:, 1], slope[:, 0]], -1))
    return torch.where(offset.norm(dim=-1, keepdim=True) < 1e-3, normal, F.normalize(offset))


def distances(curves: Tensor, reach: float, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `touched` finds, with gradients: the curve, the pixel, their distance and the direction of the curve's edge.

    curves: M×4×2. Where t is the nearest, a small change of t changes no distance: so t is a constant here.
    """
    curve, pixel, t = touched(curves, reach, size)
    own = curves.index_select(0, curve)
    offset = torch.stack([pixel % size[1], pixel // size[1]], -1) + 0.5 - bezier(own, t)
    direction = edge_direction(offset.detach(), bezier_slope(own.detach(), t))
    return curve, pixel, (offset * direction).sum(-1), direction  # no root, so no NaN where the distance is 0


def few_at_a_time(curves: Tensor, reach: float) -> list[int]:
    """How many of the curves M×4×2 to measure together, group by group, so that each operation stays small."""
    pixels = (curves.detach().diff(dim=1).norm(dim=-1).amax(1) * 3 + 2 * reach) * 2 * reach  # at most so many, each
    group = (pixels.cumsum(0) / (BLOCK // 8)).long()
    return group.unique_consecutive(return_counts=True)[1].tolist() or [0]


def all_distances(curves: Tensor, reach: float, size: tuple[int, int]) -> list[Tensor]:
    """What `distances` finds for all curves M×4×2, measured some at a time."""
    first, found = 0, []
    for some in curves.split(few_at_a_time(curves, reach)):
        curve, *rest = distances(some, reach, size)
        found.append((curve + first, *rest))
        first += len(some)
    return [torch.cat(values) for values in zip(*found, strict=True)]


def composite(alpha: Tensor, pixel: Tensor, ink: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    """Lay P touched pixels over white paper: -> B×3×H×W, for `shape` B, H, W.

    alpha: P, the opacity of a stroke at a pixel, lower strokes first; pixel: P, from 0 to B·H·W - 1; ink: P×3, None for
    black.
    """
    batch, height, width = shape
    if ink is not None:
        order = pixel.argsort(stable=True)
        alpha, pixel, ink = (values.index_select(0, order) for values in (alpha, pixel, ink))
    clear = torch.log1p(-alpha * (1 - 1e-6))  # the logarithm of what shines through: layers multiply, so these add
    if ink is None:  # then the order does not matter
        image = alpha.new_zeros(batch * height * width).index_add(0, pixel, clear).exp()
        return image.view(batch, 1, height, width).repeat(1, 3, 1, 1)
    total = clear.double().cumsum(0)
    last = torch.searchsorted(pixel, pixel, right=True) - 1  # the uppermost stroke of the same pixel
    shown = alpha * (total.index_select(0, last) - total).exp().to(alpha.dtype)
    image = alpha.new_ones(batch * height * width, 3).index_add(0, pixel, shown[:, None] * (ink - 1))
    return image.view(batch, height, width, 3).permute(0, 3, 1, 2).contiguous()


def render(points: Tensor, width: float | Tensor = 1.5, size: int | tuple[int, int] = 224, coverage: str = "ramp",
           sigma: float = 1.0, opacity: float | Tensor = 1.0, colour: Tensor | None = None,
           backend: str = "torch") -> Tensor:
    """Draw strokes on white paper, differentiable in all tensors: B×N×4×2 -> images B×3×H×W in [0, 1].

    points: control points (x, y) in pixels, float32 or float64. width: the radius in pixels; opacity: 0 to 1; both a
    number, or a tensor that broadcasts to B×N. colour: broadcasts to B×N×3, in [0, 1]; None is black. Later strokes lie
    on top. size: H and W, or one number for both.
    coverage: "ramp", "gaussian" (blurred by `sigma` pixels: lower it step by step, and strokes find their way from
    further away) or "area" (most faithful): see `cover`. The work grows with the inked pixels.
    backend "pydiffvg" asks that library instead, where it is installed: it has samples of its own, no coverage.
    Raises ValueError for other shapes, points that are not finite, and arguments out of range.
    """
    size = check_strokes(points, width, size, coverage, sigma, opacity, colour, backend)
    if backend == "pydiffvg":
        return render_pydiffvg(points, width, size, opacity, colour)
    curves, width = points.flatten(0, 1), per_stroke(width, points).flatten()
    wider = {"ramp": 0.5, "gaussian": 3 * sigma, "area": 0.71}[coverage]
    reach = max(width.tolist(), default=0) + wider
    curve, pixel, distance, direction = all_distances(curves, reach, size)
    alpha = cover(distance, width.index_select(0, curve), coverage, sigma, direction)
    alpha = alpha * per_stroke(opacity, points).flatten().index_select(0, curve)
    pixel = pixel + curve // max(1, points.shape[1]) * size[0] * size[1]
    if colour is not None:
        ink = per_stroke(colour, points, 3).flatten(0, 1)
        colour = ink.index_select(0, curve)
    return composite(alpha, pixel, colour, (len(points), *size))


# ---------------------------------------------------------------- other ways to draw


def to_svg(points: Tensor, width: float | Tensor = 1.5, size: int | tuple[int, int] = 224,
           opacity: float | Tensor = 1.0, colour: Tensor | None = None) -> str:
    """One sketch, control points N×4×2, as an SVG file that looks as `render` draws it. Arguments as there."""
    points = points.detach()[None]
    height, side = check_strokes(points, width, size, opacity=opacity, colour=colour)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{height}" viewBox="0 0 {side} {height}">',
             '<rect width="100%" height="100%" fill="white"/>',
             '<g fill="none" stroke-linecap="round" stroke-linejoin="round">']
    widths, opacities = (per_stroke(value, points)[0].tolist() for value in (width, opacity))
    inks = (per_stroke(colour, points, 3)[0] * 255).round().int().tolist()
    for curve, radius, alpha, ink in zip(points[0].tolist(), widths, opacities, inks, strict=True):
        start, *rest = (f"{x:.3f} {y:.3f}" for x, y in curve)
        lines.append(f'<path d="M {start} C {", ".join(rest)}" stroke="rgb({",".join(map(str, ink))})" '
                     f'stroke-width="{2 * radius:.3f}" stroke-opacity="{alpha:.3f}"/>')  # SVG counts diameters
    return "\n".join([*lines, "</g>", "</svg>"]) + "\n"


def render_pydiffvg(points: Tensor, width: float | Tensor, size: tuple[int, int], opacity: float | Tensor = 1.0,
                    colour: Tensor | None = None) -> Tensor:
    """What `render` draws, by pydiffvg with 2×2 samples in a pixel, as CLIPasso uses it. ImportError without it."""
    try:
        import pydiffvg
    except ImportError as error:
        raise ImportError('pydiffvg is not installed: build it from its sources (BachiLi/diffvg on GitHub), or leave '
                          'backend="torch".') from error
    pydiffvg.set_use_gpu(points.is_cuda)
    widths, images = per_stroke(width, points), []
    inks = torch.cat([per_stroke(colour, points, 3), per_stroke(opacity, points)[..., None]], -1)
    canvas = (size[1], size[0])
    for curves, radii, colours in zip(points, widths, inks, strict=True):
        paths = [pydiffvg.Path(torch.tensor([2], dtype=torch.int32), curve, is_closed=False, stroke_width=radius)
                 for curve, radius in zip(curves, radii, strict=True)]
        groups = [pydiffvg.ShapeGroup(torch.tensor([k]), fill_color=None, stroke_color=rgba)
                  for k, rgba in enumerate(colours)]
        scene = pydiffvg.RenderFunction.serialize_scene(*canvas, paths, groups)
        image = pydiffvg.RenderFunction.apply(*canvas, 2, 2, 0, None, *scene)  # H×W×4
        images.append(image[..., :3] * image[..., 3:] + 1 - image[..., 3:])
    return torch.stack(images).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- arguments


def per_stroke(value: float | Tensor | None, points: Tensor, *last: int) -> Tensor:
    """A number, or a tensor that broadcasts, as a value for each stroke of `points`: B×N, or B×N×3 where last is 3.

    None is 0, which as a colour is black.
    """
    value = torch.as_tensor(0.0 if value is None else value, dtype=points.dtype, device=points.device)
    sizes = (*points.shape[:2], *last)
    try:
        return value.expand(sizes)
    except RuntimeError:
        raise ValueError(f"A number or a tensor of the shape {sizes} is needed, not {tuple(value.shape)}.") from None


def check_strokes(points: Tensor, width: float | Tensor = 1.0, size: int | tuple[int, int] = 224,
                  coverage: str = "ramp", sigma: float = 1.0, opacity: float | Tensor = 1.0,
                  colour: Tensor | None = None, backend: str = "torch") -> tuple[int, int]:
    """Refuse what cannot be drawn, and say why. Returns the canvas as (height, width)."""
    if not isinstance(points, Tensor) or points.dtype not in (torch.float32, torch.float64):
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"Control points are a tensor of float32 or float64, not {kind}: call .float().")
    if points.ndim != 4 or points.shape[2:] != (4, 2):
        raise ValueError(f"Control points have the shape B×N×4×2, not {tuple(points.shape)}: "
                         "one sketch needs points[None].")
    if not (points.detach().abs() <= FAR).all():  # nan fails here, too
        raise ValueError(f"A control point is not a number, or over {FAR:.0f} px away: lower the learning rate.")
    if coverage not in ("ramp", "gaussian", "area"):
        raise ValueError(f'There is no coverage {coverage!r}: write "ramp", "gaussian" or "area".')
    if backend not in ("torch", "pydiffvg"):
        raise ValueError(f'There is no backend {backend!r}: write "torch" or "pydiffvg".')
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"A canvas has a height and a width of at least one whole pixel, not {size}.")
    for name, value in (("width", width), ("sigma", sigma)):
        if not (torch.as_tensor(value) > 0).all():
            raise ValueError(f"{name} is a number of pixels above 0, not {value}.")
    for name, value in (("opacity", opacity), ("colour", 0.0 if colour is None else colour)):
        if not ((torch.as_tensor(value) >= 0) & (torch.as_tensor(value) <= 1)).all():
            raise ValueError(f"{name} lies in [0, 1]: pass what you optimise through a sigmoid, or clamp it.")
    return sides
