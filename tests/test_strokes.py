"""Strokes: the picture against brute force, the gradient against differences, and the traps of both."""

import io
import sys
import types
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from clipnotes import check, strokes
from clipnotes.strokes import bezier, bezier_slope, cover, half_plane, render, render_naive, to_svg

SOFT = [("ramp", 1.0), ("gaussian", 3.0), ("gaussian", 1.0), ("gaussian", 0.4)]
DIAGONAL = torch.tensor([[10.0, 10], [20, 20], [30, 30], [40, 40]])  # runs through the centres of pixels
CUSP = torch.tensor([[8.0, 40], [56, 8], [8, 8], [56, 40]])
HAIRPIN = torch.tensor([[10.0, 30], [70, 30], [70, 33], [10, 33]])
POINT = torch.full((4, 2), 20.3)
BACK_AND_FORTH = torch.tensor([[10.0, 20.0], [60, 20], [-20, 20], [40, 20]])


def sketch(number, size, batch=1, seed=0, dtype=torch.float32):
    """Random strokes B×N×4×2, about a third of the canvas long; some leave it."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.rand(batch, number, 1, 2, generator=draw, dtype=dtype)
    return size * (start + (0.15 * torch.randn(batch, number, 4, 2, generator=draw, dtype=dtype)).cumsum(2))


def samples_of(curves, width, size, samples=12):
    """The share of white among samples×samples regular samples a pixel: discs are stamped along each curve N×4×2."""
    inked = np.zeros((size * samples,) * 2, bool)
    t, radius = np.linspace(0, 1, 4000)[:, None], width * samples
    for p in curves.double().numpy() * samples:
        points = (1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2] + t**3 * p[3]
        way = np.concatenate([[0], np.hypot(*np.diff(points, axis=0).T).cumsum()])
        stamps = np.unique(np.searchsorted(way, np.arange(0, way[-1], samples / 10)).tolist() + [len(t) - 1])
        for x, y in points[stamps]:
            rows, columns = (np.arange(max(0, int(v - radius - 1)), min(len(inked), int(v + radius + 2)))
                             for v in (y, x))
            inside = (rows[:, None] + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 <= radius**2
            inked[np.ix_(rows, columns)] |= inside
    return torch.from_numpy(1 - inked.reshape(size, samples, size, samples).mean((1, 3))).float()


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


def total_loss(points, size, target=None, **options):
    target = torch.rand(3, size, size, generator=torch.Generator().manual_seed(9)) if target is None else target
    return (render(points, size=size, **options) - target.to(points.dtype)).square().mean()


def differences(function, x, step=1e-6):
    """Central differences of a scalar function, one number after the other."""
    found = torch.zeros_like(x).flatten()
    for i in range(x.numel()):
        change = torch.zeros_like(found)
        change[i] = step
        found[i] = (function(x + change.view_as(x)) - function(x - change.view_as(x))).item() / (2 * step)
    return found.view_as(x)


# ---------------------------------------------------------------- curves and coverage


def test_a_curve_starts_and_ends_at_its_outer_points_and_its_slope_is_the_derivative():
    points, t = sketch(3, 10)[0].double(), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    at = bezier(points[:, None], t)
    assert at.shape == (3, 3, 2)
    assert torch.allclose(at[:, 0], points[:, 0]) and torch.allclose(at[:, -1], points[:, -1])
    slope = (bezier(points[:, None], t + 1e-6) - bezier(points[:, None], t - 1e-6)) / 2e-6
    assert torch.allclose(bezier_slope(points[:, None], t), slope, atol=1e-6)


@pytest.mark.parametrize("length", [4.0, 9.0])
def test_pieces_are_short_and_nearly_straight(length):
    curves = torch.cat([sketch(6, 224)[0], CUSP[None], HAIRPIN[None], POINT[None]]).double()
    curve, low, high = strokes.pieces_of(curves, length)
    t = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, 33, dtype=torch.float64)
    on = bezier(curves[curve][:, None], t)
    assert on.diff(dim=1).norm(dim=-1).sum(1).max() <= length
    straight = torch.lerp(on[:, :1], on[:, -1:], torch.linspace(0, 1, 33, dtype=torch.float64)[:, None])
    assert (on - straight).norm(dim=-1).max() <= length / 8
    for k in range(len(curves)):
        assert torch.equal(low[curve == k][1:], high[curve == k][:-1])
        assert low[curve == k][0] == 0 and high[curve == k][-1] == pytest.approx(1)


@pytest.mark.parametrize("angle", [0.0, 0.2, 0.785398, 1.2, 1.570796, 3.0, 4.1])
def test_the_share_behind_an_edge_is_what_a_million_samples_say(angle):
    direction = torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)
    grid = (torch.arange(1000) + 0.5) / 1000 - 0.5
    along = grid[:, None] * direction[0] + grid * direction[1]
    for edge in (-0.9, -0.5, -0.2, 0.0, 0.35, 0.69, 0.9):
        share = (along <= edge).float().mean()
        assert half_plane(torch.tensor(edge), direction) == pytest.approx(share.item(), abs=6e-3)


@pytest.mark.parametrize(("kind", "sigma"), SOFT)
def test_coverage_keeps_the_ink_and_falls_with_the_distance(kind, sigma):
    distance = torch.linspace(0, 20, 20001)
    for width in (0.2, 1.5, 4.0):
        share = cover(distance, torch.tensor(width), kind, sigma)
        assert share.max() <= 1 and share.min() >= 0 and (share.diff() <= 1e-6).all()
        assert 2 * share.sum() * 1e-3 == pytest.approx(2 * width, rel=0.07)  # both sides of the curve


def test_a_line_has_the_ink_of_its_length_and_its_round_ends():
    line = torch.tensor([[14.0, 32.3], [34, 32.3], [54, 32.3], [114, 32.3]])
    for width in (1.0, 2.0, 4.0, 8.0):  # the width is a radius, as in pydiffvg
        for coverage in ("ramp", "area"):
            ink = (1 - render(line[None, None], width, (64, 128), coverage)[0, 0]).sum()
            assert ink == pytest.approx(200 * width + np.pi * width**2, rel=0.01)


# ---------------------------------------------------------------- the picture


ODD = torch.stack([CUSP, HAIRPIN, POINT, BACK_AND_FORTH, DIAGONAL, DIAGONAL + 100, CUSP - 30])


@pytest.mark.parametrize(("kind", "sigma"), SOFT)
@pytest.mark.parametrize("points", [sketch(3, 48, batch=2), ODD[None]], ids=["random", "odd"])
def test_the_sparse_picture_is_the_dense_one(kind, sigma, points):
    ours, dense = (f(points.double(), 1.5, (40, 48), kind, sigma, **extra)
                   for f, extra in ((render, {}), (render_naive, {"pieces": 600})))
    assert ours.shape == (len(points), 3, 40, 48)
    assert (ours - dense).abs().max() < 1e-3 and (ours - dense).abs().mean() < 5e-6
    assert dense.min() < 0.5  # there is ink


def test_colours_opacities_and_widths_of_strokes_that_overlap():
    draw = torch.Generator().manual_seed(3)
    colour, opacity, width = (torch.rand(2, 9, *last, generator=draw) for last in ((3,), (), ()))
    arguments = (sketch(9, 32, 2), 0.5 + 2 * width, 32, "ramp", 1.0, opacity)
    ours, dense = render(*arguments, colour), render_naive(*arguments, colour, pieces=400)
    assert (ours - dense).abs().max() < 2e-3 and (ours - dense).abs().mean() < 2e-5
    assert (ours - render(*arguments, colour.flip(1))).abs().max() > 0.1
    black = render(*arguments)
    assert torch.allclose(black, render(*arguments, torch.zeros(3)), atol=1e-5)


def test_the_last_stroke_lies_on_top():
    line, colours = DIAGONAL.expand(1, 3, 4, 2), torch.eye(3)
    for order in ([0, 1, 2], [2, 0, 1]):
        pixel = render(line, 2.0, 50, colour=colours[order])[0, :, 25, 25]
        assert torch.allclose(pixel, colours[order[-1]], atol=1e-5)


@pytest.mark.parametrize("coverage", ["ramp", "area"])
@pytest.mark.parametrize(("number", "bar"), [(16, 44), (32, 40)])
def test_the_picture_against_twelve_by_twelve_samples(coverage, number, bar):
    for seed in range(2):
        points = sketch(number, 224, seed=seed)
        truth = samples_of(points[0], 1.5, 224)
        ours = psnr(render(points, 1.5, 224, coverage)[0, 0], truth)
        assert ours >= bar
        assert ours > psnr(samples_of(points[0], 1.5, 224, samples=2), truth) + 5  # as many samples as CLIPasso takes


def fine(points, width, size):
    """The picture at three times the size, averaged."""
    return F.avg_pool2d(render(3 * points, 3 * width, 3 * size, "area"), 3)


def test_pydiffvg_draws_the_same_and_has_the_same_gradient(capsys):
    assert check.parity("clipasso.rasteriser", fine) <= 0.05
    assert "equal to the release (at most 0.05)" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [
    lambda p, w, s: fine(p, w / 2, s),
    lambda p, w, s: fine(p.flip(-1), w, s),
    lambda p, w, s: fine(p - 0.5, w, s),
    lambda p, w, s: fine(p.detach() + 1.1 * (p - p.detach()), w, s),
    lambda p, w, s: 0.98 * fine(p, w, s),
], ids=["diameter", "rows first", "corners", "gradient", "pale"])
def test_another_picture_or_gradient_is_refused(wrong):
    with pytest.raises(AssertionError, match="^clipasso.rasteriser differs.*\nUsual causes: the width is a radius"):
        check.parity("clipasso.rasteriser", wrong)


def test_pictures_of_a_batch_do_not_touch_each_other():
    points = sketch(5, 40, batch=3)
    alone = torch.cat([render(p[None], 1.5, 40) for p in points])
    assert torch.allclose(render(points, 1.5, 40), alone, atol=1e-5)
    assert torch.equal(render(points, 1.5, 40), render(points, 1.5, 40))


def test_a_canvas_is_a_window():
    points = sketch(12, 64)
    whole, part = render(points, 1.5, 64), render(points - torch.tensor([20.0, 9]), 1.5, (30, 40))
    assert torch.allclose(whole[..., 9:39, 20:60], part, atol=1e-4)


# ---------------------------------------------------------------- the gradient


@pytest.mark.parametrize(("kind", "sigma"), SOFT)
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_the_picture(kind, sigma, seed):
    points = sketch(4, 32, seed=seed, dtype=torch.float64).requires_grad_()
    loss = partial(total_loss, size=32, coverage=kind, sigma=sigma)
    (gradient,) = torch.autograd.grad(loss(points), points)
    assert (gradient - differences(loss, points.detach())).norm() < 1e-6 * gradient.norm()


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_area_leaves_out_the_turn_of_the_edge(seed):
    points = sketch(4, 32, seed=seed, dtype=torch.float64).requires_grad_()
    loss = partial(total_loss, size=32, coverage="area")
    (gradient,) = torch.autograd.grad(loss(points), points)
    numeric = differences(loss, points.detach())
    assert F.cosine_similarity(gradient.flatten(), numeric.flatten(), 0) >= 0.98


@pytest.mark.parametrize("name", ["width", "opacity", "colour", "one width", "opaque"])
def test_gradients_of_what_is_not_a_point(name):
    points, draw = sketch(4, 32, dtype=torch.float64), torch.Generator().manual_seed(1)
    start = {"width": 1 + torch.rand(1, 4, generator=draw), "opacity": torch.rand(4, generator=draw) / 2 + 0.2,
             "colour": torch.rand(1, 4, 3, generator=draw), "one width": torch.tensor(1.3),
             "opaque": torch.ones(4)}[name].double().requires_grad_()
    key = {"one width": "width", "opaque": "opacity"}.get(name, name)
    extra = {"colour": torch.rand(4, 3, generator=draw)} if name == "width" else {}
    loss = lambda value: total_loss(points, 32, **{key: value}, **extra)  # noqa: E731
    (gradient,) = torch.autograd.grad(loss(start), start)
    numeric, bar = differences(loss, start.detach()) if name != "opaque" else None, 1e-4
    if name == "opaque":  # there is no opacity above 1: one-sided
        numeric, bar = torch.stack([(loss(start) - loss(start - 1e-3 * e)) / 1e-3 for e in torch.eye(4).double()]), 0.01
    assert gradient.norm() > 0 and (gradient - numeric).norm() < bar * gradient.norm()


@pytest.mark.parametrize("width", [0.2, 0.5, 1.5, 6.0])
@pytest.mark.parametrize("coverage", ["ramp", "gaussian", "area"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_nan_where_a_curve_runs_through_the_centres_of_pixels(width, coverage, dtype):
    points = ODD[None].to(dtype).requires_grad_()
    drawn = [render(points, width, 64, coverage)]
    drawn += [render_naive(points, width, 64, coverage, pieces=20)] if coverage != "area" else []
    for images in drawn:
        (gradient,) = torch.autograd.grad((images * torch.linspace(0, 1, 64)).sum(), points)
        assert torch.isfinite(images).all() and torch.isfinite(gradient).all()
        assert images.min() >= 0 and images.max() <= 1 + 1e-6 and images[0, 0, 25, 25] < 0.99


def test_a_thin_line_through_the_centres_is_as_dark_as_one_beside_them():
    shift = torch.tensor([0.01, -0.01])
    for coverage in ("ramp", "area"):
        on, beside = (render(p[None, None], 0.2, 50, coverage)[0, 0].diagonal()[15:35].mean()
                      for p in (DIAGONAL, DIAGONAL + shift))
        assert on == pytest.approx(beside.item(), abs=0.01)


@pytest.mark.parametrize("width", [1.0, 1.5, 3.0])
@pytest.mark.parametrize(("points", "bar", "fine_bar"), [(CUSP, 40, 44), (BACK_AND_FORTH, 40, 44), (HAIRPIN, 28, 38)],
                         ids=["cusp", "back and forth", "hairpin"])
def test_cusps_and_hairpins_are_drawn(points, bar, fine_bar, width):
    """Where both sides of a hairpin meet within a pixel, the nearer one alone counts: finer pixels help."""
    truth = samples_of(points[None], width, 64)
    assert psnr(render(points[None, None], width, 64)[0, 0], truth) > bar
    assert psnr(fine(points[None, None], width, 64)[0, 0], truth) > fine_bar


def test_no_length_is_a_dot():
    points = POINT[None, None].clone().requires_grad_()
    image = render(points, 3.0, 40, "area")
    assert (1 - image[0, 0]).sum().item() == pytest.approx(np.pi * 9, rel=0.02)
    (gradient,) = torch.autograd.grad((image[0, 0] * torch.arange(40)).sum(), points)
    assert gradient[..., 0].sum() == pytest.approx(-np.pi * 9, rel=0.05)  # what it hides is lighter by 1


def test_off_the_canvas_there_is_neither_ink_nor_gradient():
    points = torch.stack([DIAGONAL + 100, DIAGONAL - 100, CUSP + torch.tensor([5000.0, 0])])[None].requires_grad_()
    image = render(points, 1.5, 64)
    assert torch.equal(image, torch.ones(1, 3, 64, 64))
    assert torch.equal(torch.autograd.grad(image.sum(), points)[0], torch.zeros_like(points))


def test_a_blurred_stroke_is_felt_from_further_away():
    target = render(DIAGONAL[None, None] + torch.tensor([6.0, -6.0]), 1.5, 50)

    def pull(**options):
        points = DIAGONAL[None, None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad((render(points, 1.5, 50, **options) - target).square().mean(), points)
        return -gradient.sum((0, 1, 2))

    near, far = pull(), pull(coverage="gaussian", sigma=3.0)
    assert far[0] > 5e-4 and far[1] < -5e-4  # towards the target, up and to the right
    assert abs(near[0]) < far[0] / 10


def test_a_stroke_finds_its_target():
    target, points = render(CUSP[None, None], 1.5, 64), (CUSP[None, None] + 4).requires_grad_()
    adam, first = torch.optim.Adam([points], lr=0.5), None
    for step in range(60):
        loss = (render(points, 1.5, 64, "gaussian", max(0.4, 3 - step / 15)) - target).square().mean()
        first = first or loss.item()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert (render(points, 1.5, 64) - target).square().mean() < first / 20


# ---------------------------------------------------------------- memory and work


def saved_bytes(points, **options):
    """Bytes of all different tensors that wait for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        image = render(points.requires_grad_(), **options)
        assert image.requires_grad
        return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("coverage", ["ramp", "area"])
def test_little_is_kept_for_the_backward_pass(coverage):
    assert 1e4 < saved_bytes(sketch(16, 224), size=224, coverage=coverage) < 4e6


INSIDE = sketch(16, 96).clamp(3, 93)  # a larger canvas shows no more of it


def test_memory_grows_with_ink_and_not_with_strokes_times_pixels():
    def kept(points, side):
        return saved_bytes(points.clone(), size=side) - 4 * side**2  # the image itself

    once = kept(INSIDE, 96)
    assert kept(INSIDE + 150, 396) < 1.1 * once  # the dense version: 17 times as much
    assert 1.6 * once < kept(2 * INSIDE, 192) < 2.4 * once  # twice as long; dense: four times
    assert 0.3 * once < kept(INSIDE[:, :8], 96) < 0.7 * once


class Operations(TorchDispatchMode):
    """All operations: their names, and how many numbers each returns."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.found.append((function.overloadpacket.__name__, result.numel()))
        return result


def work(points, size, reach=2.0):
    with Operations() as operations:
        strokes.distances(points.flatten(0, 1), reach, (size, size))
    return sum(number for _, number in operations.found)


def test_work_grows_with_ink_and_not_with_strokes_times_pixels():
    once = work(INSIDE, 96)
    assert work(INSIDE + 150, 396) < 1.1 * once
    assert 1.6 * once < work(2 * INSIDE, 192) < 2.4 * once
    assert 0.3 * once < work(INSIDE[:, :8], 96) < 0.7 * once


@pytest.mark.parametrize(("coverage", "sigma", "bar"), [("ramp", 1.0, 16), ("gaussian", 3.0, 90)])
def test_operations_are_small_enough_for_one_thread(coverage, sigma, bar):
    size, batch = 112, 3
    points = sketch(16, size, batch).requires_grad_()
    with Operations() as operations:
        image = render(points, 1.5, size, coverage, sigma)
        torch.autograd.grad(image, points, torch.ones_like(image))
    large = [name for name, number in operations.found if number > strokes.BLOCK]
    assert len(operations.found) > 300 and len(large) < bar  # of the whole picture, and of all pairs at once
    assert "repeat_interleave" not in {name for name, _ in operations.found}
    assert not any(name == "index" and number > 1000 for name, number in operations.found)


# ---------------------------------------------------------------- what cannot be drawn


@pytest.mark.parametrize("backend", ["torch"])
@pytest.mark.parametrize("shape", [(2, 0, 4, 2), (0, 3, 4, 2)])
def test_no_strokes_leave_the_paper_white(backend, shape):
    points = torch.zeros(shape, requires_grad=True)
    for colour in (None, torch.zeros(3)):
        image = render(points, size=(5, 7), colour=colour, backend=backend)
        assert torch.equal(image, torch.ones(shape[0], 3, 5, 7))
        image.sum().backward()
    assert torch.equal(render_naive(points, size=(5, 7)), torch.ones(shape[0], 3, 5, 7))
    assert "<path" not in to_svg(torch.zeros(0, 4, 2))


def test_a_canvas_of_one_pixel():
    line = torch.tensor([[-3.0, 0.5], [0, 0.5], [1, 0.5], [3, 0.5]])[None, None]
    assert render(line, 2.0, 1).max() < 1e-5
    assert render(line, 0.25, 1)[0, 0, 0, 0] == pytest.approx(0.5, abs=1e-3)
    assert render(line + 9, 0.25, 1).min() == 1


GOOD = DIAGONAL[None, None]


@pytest.mark.parametrize(("arguments", "options", "reason"), [
    ((GOOD * torch.nan,), {}, "not a number.*lower the learning rate"),
    ((GOOD / 0,), {}, "over 10000 px away"),
    ((GOOD + 1e5,), {}, "over 10000 px away"),
    ((GOOD[0],), {}, r"B×N×4×2, not \(1, 4, 2\): one sketch needs points\[None\]"),
    ((GOOD[..., :3, :],), {}, "B×N×4×2"),
    ((GOOD.long(),), {}, "not torch.int64: call .float()"),
    (([[0, 0]],), {}, "not list"),
    ((GOOD,), {"size": 0}, "at least one whole pixel, not 0"),
    ((GOOD,), {"size": (3, 4, 5)}, "at least one whole pixel"),
    ((GOOD,), {"size": 11.5}, "at least one whole pixel, not 11.5"),
    ((GOOD,), {"width": 0}, "width is a number of pixels above 0, not 0"),
    ((GOOD,), {"width": torch.tensor(torch.nan)}, "width is a number of pixels above 0"),
    ((GOOD,), {"width": torch.ones(3, 1)}, r"the shape \(1, 1\) is needed, not \(3, 1\)"),
    ((GOOD,), {"coverage": "gaussian", "sigma": 0}, "sigma is a number"),
    ((GOOD,), {"coverage": "box"}, 'no coverage \'box\': write "ramp", "gaussian" or "area"'),
    ((GOOD,), {"opacity": 1.5}, r"opacity lies in \[0, 1\].*sigmoid"),
    ((GOOD,), {"colour": torch.tensor([0.0, 255, 0])}, r"colour lies in \[0, 1\]"),
    ((GOOD,), {"backend": "cairo"}, 'no backend \'cairo\': write "torch" or "pydiffvg"'),
])
def test_what_cannot_be_drawn_is_refused(arguments, options, reason):
    with pytest.raises(ValueError, match=reason):
        render(*arguments, **options)


def test_the_dense_version_has_no_area():
    with pytest.raises(ValueError, match='"area" needs the direction'):
        render_naive(GOOD, coverage="area")


# ---------------------------------------------------------------- other ways to draw


@pytest.mark.browser
@pytest.mark.parametrize("coloured", [False, True])
def test_a_browser_shows_the_same(browser, coloured):
    draw = torch.Generator().manual_seed(0)
    extra = dict(opacity=0.3 + 0.7 * torch.rand(18, generator=draw), colour=torch.rand(18, 3, generator=draw))
    points, options = torch.cat([sketch(16, 112), CUSP[None, None], POINT[None, None]], 1), extra if coloured else {}
    width = torch.linspace(1, 3, 18)
    page = browser.new_page(viewport={"width": 160, "height": 112})
    page.set_content(f"<body style='margin:0'>{to_svg(points[0], width, (112, 160), **options)}</body>")
    shot = np.array(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    page.close()
    shown = torch.from_numpy(shot).permute(2, 0, 1).float() / 255
    ours = render(points, width, (112, 160), "area", **options)[0]
    assert psnr(shown, ours) >= 25
    assert psnr(shown, render(points, 2 * width, (112, 160), "area", **options)[0]) < 20


def test_an_svg_holds_a_diameter_and_round_ends():
    svg = to_svg(GOOD[0].requires_grad_(), 1.5, (20, 30), colour=torch.tensor([1.0, 0.5, 0]))
    assert 'width="30" height="20" viewBox="0 0 30 20"' in svg and 'stroke-linecap="round"' in svg
    assert 'd="M 10.000 10.000 C 20.000 20.000, 30.000 30.000, 40.000 40.000"' in svg
    assert 'stroke-width="3.000"' in svg and 'stroke="rgb(255,128,0)"' in svg


def test_without_pydiffvg_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydiffvg", None)
    with pytest.raises(ImportError, match='pydiffvg is not installed: build it.*or leave backend="torch"'):
        render(GOOD, backend="pydiffvg")


@pytest.fixture
def stand_in(monkeypatch):
    """A module with pydiffvg's interface that draws by `render`."""
    calls = []

    class RenderFunction:
        @staticmethod
        def serialize_scene(width, height, shapes, groups):
            assert all(shape.num_control_points.tolist() == [2] and not shape.is_closed for shape in shapes)
            assert [group.shape_ids.tolist() for group in groups] == [[k] for k in range(len(shapes))]
            return shapes, groups

        @staticmethod
        def apply(width, height, samples_x, samples_y, seed, background, shapes, groups):
            calls.append((width, height, samples_x, samples_y, background))
            points = torch.stack([shape.points for shape in shapes])[None]
            widths = torch.stack([shape.stroke_width for shape in shapes])
            rgba = groups[0].stroke_color
            ink = 1 - render(points, widths, (height, width), opacity=rgba[3])[0, :1]
            return torch.cat([rgba[:3, None, None].expand(3, height, width), ink]).permute(1, 2, 0)

    def path(num_control_points, points, is_closed, stroke_width):
        return types.SimpleNamespace(**locals())

    def group(shape_ids, fill_color, stroke_color=None):
        assert fill_color is None
        return types.SimpleNamespace(**locals())

    module = types.ModuleType("pydiffvg")
    module.RenderFunction, module.Path, module.ShapeGroup = RenderFunction, path, group
    module.set_use_gpu = lambda use: calls.append(use)
    monkeypatch.setitem(sys.modules, "pydiffvg", module)
    return calls


def test_pydiffvg_is_asked_for_the_same_picture(stand_in):
    points = sketch(4, 30, batch=2).requires_grad_()
    for options in ({}, {"opacity": 0.5, "colour": torch.tensor([0.2, 0.4, 0.9])}):
        theirs, ours = (render(points, 1.5, (20, 30), backend=b, **options) for b in ("pydiffvg", "torch"))
        if not options:
            assert torch.allclose(theirs, ours, atol=1e-5)
            gradients = [torch.autograd.grad(image.square().sum(), points)[0] for image in (theirs, ours)]
            assert torch.allclose(*gradients, atol=1e-4) and gradients[0].norm() > 0
        assert theirs.shape == (2, 3, 20, 30) and (theirs - ours).abs().max() < 0.2
    assert stand_in[:3] == [False, (30, 20, 2, 2, None), (30, 20, 2, 2, None)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{}, {"coverage": "area"}, {"coverage": "gaussian"}, {"colour": torch.rand(16, 3)}])
def test_a_gpu_draws_the_same(options):
    points = sketch(16, 112, batch=2).requires_grad_()
    images = [render(points.to(device), 1.5, 112, **options).cpu() for device in ("cpu", "cuda")]
    assert (images[0] - images[1]).abs().max() < 1e-3
    gradients = [torch.autograd.grad(image.square().sum(), points)[0] for image in images]
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[0].norm()
