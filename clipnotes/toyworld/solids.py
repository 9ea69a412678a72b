"""Solids made by code: primitives put together, sampled as points with normals, drawn as shaded renders.

A solid is a list of parts; a part is a primitive with a size and a place, in a unit box with y up. Points are the one
representation: chapter 12 projects them, the renders that CLIP sees in training splat them.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch

# (primitive, half sizes or radii (x, y, z), centre (x, y, z)); cylinder, cone and torus stand along y.
_LEGS4 = lambda w, h, y, d: [("box", (0.05, h, 0.05), (sx * w, y, sz * d)) for sx in (-1, 1) for sz in (-1, 1)]  # noqa: E731
PARTS = {
    "cube": [("box", (0.6, 0.6, 0.6), (0, 0, 0))],
    "sphere": [("ball", (0.8, 0.8, 0.8), (0, 0, 0))],
    "cylinder": [("tube", (0.5, 0.8, 0.5), (0, 0, 0))],
    "cone": [("cone", (0.65, 0.8, 0.65), (0, 0, 0))],
    "pyramid": [("pyramid", (0.75, 0.7, 0.75), (0, 0, 0))],
    "torus": [("ring", (0.8, 0.26, 0.8), (0, 0, 0))],
    "capsule": [("tube", (0.35, 0.5, 0.35), (0, 0, 0)), ("ball", (0.35,) * 3, (0, 0.5, 0)),
                ("ball", (0.35,) * 3, (0, -0.5, 0))],
    "chair": [("box", (0.45, 0.06, 0.45), (0, -0.05, 0)), ("box", (0.45, 0.45, 0.05), (0, 0.45, -0.42)),
              *_LEGS4(0.4, 0.38, -0.48, 0.4)],
    "table": [("box", (0.9, 0.06, 0.6), (0, 0.3, 0)), *_LEGS4(0.8, 0.45, -0.2, 0.5)],
    "stool": [("tube", (0.45, 0.06, 0.45), (0, 0.3, 0)), *_LEGS4(0.28, 0.45, -0.2, 0.28)],
    "bench": [("box", (0.95, 0.06, 0.28), (0, 0.05, 0)), ("box", (0.06, 0.28, 0.25), (-0.75, -0.25, 0)),
              ("box", (0.06, 0.28, 0.25), (0.75, -0.25, 0))],
    "bed": [("box", (0.55, 0.16, 0.95), (0, -0.2, 0)), ("box", (0.55, 0.4, 0.05), (0, 0.05, -0.92)),
            ("box", (0.35, 0.09, 0.18), (0, 0.05, -0.65))],
    "sofa": [("box", (0.9, 0.18, 0.4), (0, -0.2, 0)), ("box", (0.9, 0.35, 0.12), (0, 0.15, -0.35)),
             ("box", (0.12, 0.3, 0.4), (-0.85, -0.05, 0)), ("box", (0.12, 0.3, 0.4), (0.85, -0.05, 0))],
    "lamp": [("tube", (0.35, 0.05, 0.35), (0, -0.85, 0)), ("tube", (0.05, 0.6, 0.05), (0, -0.25, 0)),
             ("cone", (0.5, 0.35, 0.5), (0, 0.55, 0))],
    "shelf": [("box", (0.6, 0.04, 0.25), (0, y, 0)) for y in (-0.85, -0.3, 0.25, 0.8)]
             + [("box", (0.04, 0.85, 0.25), (x, 0, 0)) for x in (-0.6, 0.6)],
    "cup": [("tube", (0.45, 0.5, 0.45), (-0.1, 0, 0)), ("hoop", (0.3, 0.07, 0.3), (0.42, 0, 0))],
    "bottle": [("tube", (0.32, 0.5, 0.32), (0, -0.4, 0)), ("cone", (0.32, 0.25, 0.32), (0, 0.3, 0)),
               ("tube", (0.1, 0.3, 0.1), (0, 0.6, 0))],
    "barbell": [("tubex", (0.8, 0.06, 0.06), (0, 0, 0)), ("ball", (0.32,) * 3, (-0.75, 0, 0)),
                ("ball", (0.32,) * 3, (0.75, 0, 0))],
    "arch": [("box", (0.16, 0.6, 0.2), (-0.6, -0.2, 0)), ("box", (0.16, 0.6, 0.2), (0.6, -0.2, 0)),
             ("box", (0.8, 0.15, 0.22), (0, 0.5, 0))],
    "stairs": [("box", (0.5, 0.1 * i, 0.2), (0, -0.8 + 0.1 * i, 1 - 0.4 * i)) for i in range(1, 5)],
    "airplane": [("tubex", (0.9, 0.13, 0.13), (0, 0, 0)), ("box", (0.2, 0.03, 0.9), (0.1, 0, 0)),
                 ("box", (0.12, 0.25, 0.03), (-0.75, 0.22, 0)), ("box", (0.1, 0.03, 0.3), (-0.78, 0.05, 0))],
    "rocket": [("tube", (0.22, 0.55, 0.22), (0, -0.1, 0)), ("cone", (0.22, 0.25, 0.22), (0, 0.7, 0)),
               ("box", (0.5, 0.15, 0.03), (0, -0.6, 0)), ("box", (0.03, 0.15, 0.5), (0, -0.6, 0))],
}


def _circle(n: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    angle = 2 * math.pi * torch.rand(n, generator=g)
    return angle.cos(), angle.sin()


def _box(n, size, g):
    x, y, z = size
    area = torch.tensor([y * z, x * z, x * y])
    axis = torch.multinomial(area, n, replacement=True, generator=g)
    p = torch.rand(n, 3, generator=g) * 2 - 1
    sign = torch.randint(0, 2, (n,), generator=g).float() * 2 - 1
    p[torch.arange(n), axis] = sign
    normal = torch.zeros(n, 3)
    normal[torch.arange(n), axis] = sign
    return p * torch.tensor(size), normal


def _ball(n, size, g):
    p = torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=1)
    return p * torch.tensor(size), p


def _turned(n, size, g, tip: float):
    """A cylinder (tip 1) or a cone (tip 0): side and caps, sampled by area, standing along y."""
    r, h, _ = size
    side = 2 * math.pi * r * (1 + tip) / 2 * math.hypot(2 * h, r * (1 - tip))
    part = torch.multinomial(torch.tensor([side, math.pi * r * r, math.pi * r * r * tip * tip]), n, True, generator=g)
    c, s = _circle(n, g)
    u = torch.rand(n, generator=g)
    # radius shrinks linearly from 1 at the foot to `tip` at the top; the root makes the density uniform
    radius = torch.sqrt(1 + u * (tip * tip - 1))
    y = (1 - radius) / max(1 - tip, 1e-6) * 2 - 1 if tip < 1 else 2 * u - 1
    disc = torch.sqrt(u)
    on_side = part == 0
    rho = torch.where(on_side, radius, disc * torch.where(part == 1, 1.0, tip))
    y = torch.where(on_side, y, torch.where(part == 1, -1.0, 1.0))
    slope = r * (1 - tip) / (2 * h)
    flat = torch.stack([torch.zeros(n), torch.where(part == 1, -1.0, 1.0), torch.zeros(n)], 1)
    around = torch.nn.functional.normalize(torch.stack([c, torch.full((n,), slope), s], 1), dim=1)
    return torch.stack([r * rho * c, h * y, r * rho * s], 1), torch.where(on_side[:, None], around, flat)


def _ring(n, size, g):
    major, minor, _ = size
    c, s = _circle(n, g)
    d, e = _circle(n, g)
    rho = (major - minor) + minor * d
    return torch.stack([rho * c, minor * e, rho * s], 1), torch.stack([d * c, e, d * s], 1)


def _pyramid(n, size, g):
    x, h, z = size
    corners = torch.tensor([[-x, -h, -z], [x, -h, -z], [x, -h, z], [-x, -h, z], [0, h, 0]])
    faces = torch.tensor([[0, 4, 1], [1, 4, 2], [2, 4, 3], [3, 4, 0], [0, 1, 2], [0, 2, 3]])
    a, b, c = (corners[faces[:, i]] for i in range(3))
    cross = torch.linalg.cross(b - a, c - a)
    pick = torch.multinomial(cross.norm(dim=1), n, True, generator=g)
    u, v = torch.rand(n, generator=g), torch.rand(n, generator=g)
    u, v = torch.where(u + v > 1, 1 - u, u)[:, None], torch.where(u + v > 1, 1 - v, v)[:, None]
    normal = torch.nn.functional.normalize(cross, dim=1)
    outward = torch.sign((normal * ((a + b + c) / 3)).sum(1, keepdim=True))
    return a[pick] + u * (b - a)[pick] + v * (c - a)[pick], (normal * outward)[pick]


def _swap(pair, order):
    return pair[0][:, order], pair[1][:, order]


def _sample(kind, n, size, g):
    if kind == "box":
        return _box(n, size, g)
    if kind == "ball":
        return _ball(n, size, g)
    if kind == "tube":
        return _turned(n, size, g, 1.0)
    if kind == "tubex":  # a tube lying along x: sizes are (half length, radius, radius)
        return _swap(_turned(n, (size[1], size[0], size[1]), g, 1.0), [1, 0, 2])
    if kind == "cone":
        return _turned(n, size, g, 0.0)
    if kind == "ring":
        return _ring(n, size, g)
    if kind == "hoop":  # a ring standing upright
        return _swap(_ring(n, size, g), [0, 2, 1])
    return _pyramid(n, size, g)


def _area(kind, size) -> float:
    x, y, z = size
    return x * y + y * z + x * z if kind != "ball" else 1.5 * x * x


def sample(name: str, n: int = 1024, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on the surface of a solid and their outward normals: two float tensors n x 3, y up, in [-1, 1].

    Points inside another part are dropped before sampling is balanced, so hidden faces do not show.
    Raises ValueError for an unknown name.
    """
    if name not in PARTS:
        raise ValueError(f"unknown solid {name!r}; there are: {', '.join(PARTS)}")
    g = torch.Generator().manual_seed(seed)
    parts = PARTS[name]
    share = torch.tensor([_area(k, s) for k, s, _ in parts])
    counts = (share / share.sum() * n).ceil().long().tolist()
    points, normals = [], []
    for (kind, size, centre), count in zip(parts, counts, strict=True):
        p, v = _sample(kind, count, size, g)
        points.append(p + torch.tensor(centre))
        normals.append(v)
    keep = torch.randperm(sum(counts), generator=g)[:n]
    return torch.cat(points)[keep], torch.cat(normals)[keep]


def turn(yaw: torch.Tensor, pitch: torch.Tensor) -> torch.Tensor:
    """Rotation matrices B x 3 x 3: about y by `yaw`, then about x by `pitch` (radians)."""
    cy, sy, cp, sp = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()
    zero, one = torch.zeros_like(cy), torch.ones_like(cy)
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).view(-1, 3, 3)
    about_x = torch.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], -1).view(-1, 3, 3)
    return about_x @ about_y


def splat(points: torch.Tensor, normals: torch.Tensor, size: int = 64) -> torch.Tensor:
    """The nearest normals seen along z by a camera in front: B x 4 x size x size (normal, coverage).

    `points`, `normals`: B x n x 3, already turned. A z-buffer on integers (depth above point number), then holes of
    one pixel are filled from their neighbours.
    """
    b, n, _ = points.shape
    pixel = ((points[..., :2] * torch.tensor([1.0, -1.0]) * 0.46 + 0.5) * size).long().clamp(0, size - 1)
    cell = pixel[..., 1] * size + pixel[..., 0]
    depth = ((2 - points[..., 2]) * 4096).long()
    key = torch.where(normals[..., 2] > 0, depth * 2**20 + torch.arange(n), 2**40)  # faces turned away are unseen
    key = torch.full((b, size * size), 2**40).scatter_reduce(1, cell, key, "amin")
    seen = key < 2**40
    index = (key % 2**20 * seen).unsqueeze(-1).expand(-1, -1, 3)
    image = torch.cat([normals.gather(1, index) * seen.unsqueeze(-1), seen.unsqueeze(-1).float()], 2)
    image = image.transpose(1, 2).reshape(b, 4, size, size)
    around = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    hole = (image[:, 3:] == 0) & (around[:, 3:] > 0.5)
    return torch.where(hole, around / around[:, 3:].clamp(min=1e-6), image)


@cache
def bank(views: int = 24, points: int = 9000) -> torch.Tensor:
    """Normal maps of all solids, the same on every call: solids x views x 4 x 64 x 64 (order of PARTS)."""
    g = torch.Generator().manual_seed(7)
    rows = []
    for i, name in enumerate(PARTS):
        p, v = sample(name, points, seed=i)
        yaw = 2 * math.pi * torch.rand(views, generator=g)
        pitch = 0.15 + 0.55 * torch.rand(views, generator=g)
        r = turn(yaw, pitch)
        rows.append(splat(p @ r.mT, v @ r.mT))
    return torch.stack(rows)


def shade(normal_maps: torch.Tensor, light: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Lambert shading: B x 4 x H x W maps, light B x 3 (unit), colour B x 3 -> premultiplied RGBA B x 4 x H x W."""
    coverage = normal_maps[:, 3:].clamp(0, 1)
    lit = (normal_maps[:, :3] * light[:, :, None, None]).sum(1, keepdim=True).clamp(min=0)
    return torch.cat([(0.3 + 0.7 * lit) * colour[:, :, None, None] * coverage, coverage], 1)


# ---------------------------------------------------------------- clouds, as a scanner might give them


def unit_ball(points: torch.Tensor) -> torch.Tensor:
    """Clouds ... x P x 3, moved and scaled: their mean at 0, their farthest point at distance 1."""
    points = points - points.mean(-2, keepdim=True)
    return points / points.norm(dim=-1).amax(-1)[..., None, None].clamp(min=1e-6)


def clouds(n: int, seed: int = 0, points: int = 1024, *, names: Sequence[str] | None = None, stretch: float = 0.3,
           yaw: float = math.pi, tilt: float = 0.2, missing: float = 0.4, noise: float = 0.02) -> dict:
    """n clouds whose classes go round: a dict of points and normals, n x points x 3, labels n, and the classes' names.

    names: the solids to choose from (None: all). Each cloud is a solid of its own: its axes are longer or shorter by up
    to `stretch`, it is turned about y by up to `yaw` and tilted about x by up to `tilt` (radians); up to the share
    `missing` of its surface is gone, a ball around one of its points, or what lies behind a plane, by turns at random;
    each point is off by `noise` (standard deviation). In the unit ball, y up, as many points as asked for. The same
    seed gives the same solids, whatever the other options. Raises ValueError for options outside their range.
    """
    names = list(PARTS) if names is None else list(names)
    if n < 1 or points < 1 or not names:
        raise ValueError(f"{n} clouds of {points} points of {len(names)} solids: give at least one of each.")
    if not (0 <= stretch < 1 and 0 <= missing < 1 and noise >= 0):
        raise ValueError("stretch and missing are shares from 0 to below 1, and noise is not negative.")
    made = []
    for i in range(n):
        g = torch.Generator().manual_seed(1_000_003 * (seed + 1) + i)
        u = torch.rand(12, generator=g)  # all that makes this cloud its own, whatever the number of its points
        p, v = sample(names[i % len(names)], math.ceil(points / (1 - missing)), seed=int(u[0] * 2**24))
        away = torch.nn.functional.normalize(2 * u[9:] - 1, dim=0)
        order = (p - p[(u[2] * len(p)).long()]).norm(dim=1) if u[1] < 0.5 else p @ away
        left = order.argsort()[int(missing * u[3] * len(p)):]
        left = left[torch.randperm(len(left), generator=g)[:points]]
        scale = 1 + stretch * (2 * u[4:7] - 1)
        r = turn(yaw * (2 * u[7:8] - 1), tilt * (2 * u[8:9] - 1))[0]
        p = (p[left] * scale) @ r.mT + noise * torch.randn(points, 3, generator=g)
        normal = torch.nn.functional.normalize(v[left] / scale, dim=1) @ r.mT
        made.append((unit_ball(p), normal))
    p, v = (torch.stack(side) for side in zip(*made, strict=True))
    return dict(points=p, normals=v, labels=torch.arange(n) % len(names), names=names)


def as_dataset(batch: dict):
    """Clouds as a `datasets.Dataset` with the columns of the real sets: points (P x 3) and label, with its names."""
    from datasets import Array2D, ClassLabel, Dataset, Features

    shape, names = tuple(batch["points"].shape[1:]), batch["names"]
    kinds = Features(points=Array2D(shape, "float32"), label=ClassLabel(names=names))
    return Dataset.from_dict(dict(points=batch["points"].numpy(), label=batch["labels"].tolist()), features=kinds)
