"""How pictures of the toy world are painted: grounds, recoloured tiles, and where they are placed, in integers."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import grammar
from clipnotes.grammar import REGIONS

UPPER, LOWER = ("sky", "wall"), ("grass", "water", "sand", "floor", "road")
_ONE = 1 << 14  # fixed-point one


# ---------------------------------------------------------------- grounds


def _noise(g: torch.Generator, n: int, size: int, cells: int) -> Tensor:
    """Smooth noise in [-1, 1]: n x 1 x size x size."""
    coarse = torch.randint(-100, 101, (n, 1, cells, cells), generator=g).float() / 100
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)


@cache
def _textures(size: int = 160, variants: int = 6) -> Tensor:
    """One bank of region textures: regions x variants x 3 x size x size in [0, 1]."""
    g = torch.Generator().manual_seed(11)
    colours = {"sky": (120, 185, 235), "grass": (95, 160, 70), "water": (40, 110, 180), "sand": (225, 200, 145),
               "wall": (205, 190, 175), "floor": (160, 115, 75), "road": (105, 105, 110)}
    y = torch.arange(size).view(1, 1, size, 1).float()
    x = torch.arange(size).view(1, 1, 1, size).float()
    bank = []
    for region in REGIONS:
        base = torch.tensor(colours[region]).view(1, 3, 1, 1) / 255
        shift = torch.randint(-100, 101, (variants, 3, 1, 1), generator=g).float() / 100
        fine, coarse = _noise(g, variants, size, size), _noise(g, variants, size, 6)
        medium = _noise(g, variants, size, 24)
        bump = {"sky": 0.16 * coarse.clamp(min=0) + 0.05 * (1 - y / size),
                "grass": 0.10 * fine + 0.06 * medium,
                "water": 0.07 * torch.sin(0.5 * y + 3 * coarse) + 0.05 * medium,
                "sand": 0.05 * fine + 0.03 * coarse,
                "wall": -0.12 * ((y % 16 < 1) | ((x + 12 * ((y // 16) % 2)) % 24 < 1)).float() + 0.02 * fine,
                "floor": -0.12 * (x % 14 < 1).float() + 0.05 * torch.sin(0.8 * y + 4 * coarse) * 0.5 + 0.03 * medium,
                "road": 0.06 * fine + 0.5 * ((x % 80 > 36) & (x % 80 < 42) & (y % 40 < 24)).float()}[region]
        bank.append((base + 0.06 * shift + bump).clamp(0, 1))
    return torch.stack(bank)


def region(g: torch.Generator, which: Tensor, size: int) -> Tensor:
    """A crop of each region's texture: n x 3 x size x size."""
    bank = _textures()
    n, room = len(which), bank.shape[-1] - size + 1
    if room < 1:
        raise ValueError(f"pictures of the toy world are at most {bank.shape[-1]} pixels large, not {size}")
    variant = torch.randint(0, bank.shape[1], (n,), generator=g).tolist()
    corner = torch.randint(0, room, (n, 2), generator=g).tolist()
    rows = zip(which.tolist(), variant, corner, strict=True)
    return torch.stack([bank[r, v, :, y:y + size, x:x + size] for r, v, (y, x) in rows]) if n else bank[:0, 0]


def two_regions(g: torch.Generator, n: int, size: int, horizon: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A far region above a near one: (pictures, region map n x size x size, upper n, lower n)."""
    names = list(REGIONS)
    upper = torch.tensor([names.index(u) for u in UPPER])[torch.randint(0, len(UPPER), (n,), generator=g)]
    lower = torch.tensor([names.index(u) for u in LOWER])[torch.randint(0, len(LOWER), (n,), generator=g)]
    below = torch.arange(size).view(1, size, 1) >= horizon.view(n, 1, 1)
    below = below.expand(n, size, size)
    picture = torch.where(below.unsqueeze(1), region(g, lower, size), region(g, upper, size))
    return picture, torch.where(below, lower.view(n, 1, 1), upper.view(n, 1, 1)), upper, lower


def draw_grounds(g: torch.Generator, n: int, size: int, plain: bool = False) -> tuple[Tensor, list[str], list[str]]:
    """Varied grounds: (pictures, region name or "", colour name or "") — a plain one is white."""
    if plain:
        return torch.full((n, 3, size, size), 0.97), [""] * n, [""] * n
    kind = torch.randint(0, 100, (n,), generator=g)
    which = torch.randint(0, len(REGIONS), (n,), generator=g)
    hue = torch.randint(0, len(grammar.TINTS) + 3, (n,), generator=g)
    palette = torch.tensor([*grammar.TINTS.values(), (245, 245, 245), (25, 25, 30), (128, 128, 128)]) / 255
    flat = palette[hue].view(n, 3, 1, 1).expand(n, 3, size, size)
    random = torch.randint(20, 240, (n, 3, 1, 1), generator=g) / 255
    mottled = random + 0.25 * _noise(g, n, size, 5) + 0.1 * _noise(g, n, size, 16)
    k = kind.view(n, 1, 1, 1)
    picture = torch.where(k < 45, region(g, which, size), torch.where(k < 70, flat, mottled))
    colours = [*grammar.TINTS, "white", "black", "grey"]
    regions = [REGIONS[w] if k < 45 else "" for w, k in zip(which.tolist(), kind.tolist(), strict=True)]
    plains = [colours[h] if 45 <= k < 70 else "" for h, k in zip(hue.tolist(), kind.tolist(), strict=True)]
    return picture.clamp(0, 1), regions, plains


# ---------------------------------------------------------------- drawing


@cache
def _turns() -> Tensor:
    """cos and sin of whole degrees in fixed point: 360 x 2."""
    angles = [math.radians(d) for d in range(360)]
    return torch.tensor([(round(_ONE * math.cos(a)), round(_ONE * math.sin(a))) for a in angles])


class Place:
    """Where n sprites go, in integers: centre, side of the tile in pixels, turn in degrees, mirrored or not."""

    def __init__(self, x: Tensor, y: Tensor, side: Tensor, degrees: Tensor | None = None, flip: Tensor | None = None):
        self.x, self.y, self.side = x, y, side
        degrees = torch.zeros_like(x) if degrees is None else degrees
        self.mirror = torch.ones_like(x) if flip is None else 1 - 2 * flip.long()
        self.cos, self.sin = _turns()[degrees % 360].unbind(-1)

    def boxes(self, hull: Tensor, size: int) -> Tensor:
        """Boxes of the turned outlines, clipped to the picture: n x 4 int64 (x0, y0, x1, y1; x1, y1 outside)."""
        hx, hy = hull[..., 0] * self.mirror[:, None], hull[..., 1]
        c, s, side = self.cos[:, None], self.sin[:, None], self.side[:, None]
        px = self.x[:, None] + (hx * c - hy * s) * side // (128 * _ONE)
        py = self.y[:, None] + (hx * s + hy * c) * side // (128 * _ONE)
        low, high = torch.stack([px.amin(1), py.amin(1)], 1), torch.stack([px.amax(1), py.amax(1)], 1) + 1
        return torch.cat([low, high], 1).clamp(0, size)

    def paint(self, canvas: Tensor, tiles: Tensor, stretch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tiles n x 4 x 64 x 64 (premultiplied, float) over the canvas: (canvas, coverage n x H x W)."""
        n, _, height, width = canvas.shape
        if n == 0:
            return canvas, canvas[:, 0]
        small = self.side <= 36  # a tile drawn at half its size or less is first averaged, or it would sparkle
        if small.any():
            tiles = tiles.clone()
            tiles[small] = F.interpolate(F.avg_pool2d(tiles[small], 2), scale_factor=2.0, mode="bilinear")
        cos, sin = self.cos / _ONE, self.sin / _ONE
        scale = self.side.float()
        sx, sy = (scale, scale) if stretch is None else (scale * stretch, scale / stretch)
        m = self.mirror.float()
        # affine_grid maps output to input coordinates; both run from -1 to 1 over the picture
        theta = torch.stack([
            torch.stack([m * cos * width / sx, m * sin * height / sx,
                         m * (cos * (width - 2 * self.x) + sin * (height - 2 * self.y)) / sx], -1),
            torch.stack([-sin * width / sy, cos * height / sy,
                         (-sin * (width - 2 * self.x) + cos * (height - 2 * self.y)) / sy], -1)], 1)
        grid = F.affine_grid(theta.float(), [n, 4, height, width], align_corners=False)
        drawn = F.grid_sample(tiles, grid, align_corners=False)
        return drawn[:, :3] + canvas * (1 - drawn[:, 3:]), drawn[:, 3]

    def masks(self, opaque: Tensor, size: int) -> Tensor:
        """Nearest-pixel masks of whole objects that are not turned, in integers: n x size x size bool.

        `opaque`: n x 64 x 64 bool, where a tile counts as ink.
        """
        half = 2 * torch.arange(size) + 1  # pixel centres, in half pixels
        side = self.side.view(-1, 1)
        u = ((half - 2 * self.x.view(-1, 1)) * self.mirror.view(-1, 1) * 32).div(side, rounding_mode="floor") + 32
        v = ((half - 2 * self.y.view(-1, 1)) * 32).div(side, rounding_mode="floor") + 32
        inside = ((v >= 0) & (v < 64)).unsqueeze(2) & ((u >= 0) & (u < 64)).unsqueeze(1)
        rows = opaque.gather(1, v.clamp(0, 63).unsqueeze(2).expand(-1, -1, 64))
        return rows.gather(2, u.clamp(0, 63).unsqueeze(1).expand(-1, size, -1)) & inside


def dyes(g: torch.Generator, n: int, share: float) -> Tensor:
    """Tints for n objects: indices into TINTS for a `share` of them, -1 for the others."""
    return torch.where(torch.rand(n, generator=g) < share, torch.randint(0, len(grammar.TINTS), (n,), generator=g), -1)


def recolour(tiles: Tensor, tint: Tensor) -> Tensor:
    """Recolour tiles (premultiplied) by TINTS[tint]; -1 leaves them."""
    if not (tint >= 0).any():
        return tiles
    palette = torch.tensor([*grammar.TINTS.values(), (0, 0, 0)]) / 255
    light = (tiles[:, :3] * torch.tensor([0.3, 0.59, 0.11]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    dyed = palette[tint].view(-1, 3, 1, 1) * (0.35 * tiles[:, 3:] + 0.75 * light)
    return torch.cat([torch.where(tint.view(-1, 1, 1, 1) >= 0, dyed, tiles[:, :3]), tiles[:, 3:]], 1)


def vary(g: torch.Generator, tiles: Tensor, keep_colour: Tensor) -> Tensor:
    """New artists out of the known ones: mixed channels, contrast, grey, blur, dark outlines (training only)."""
    n = len(tiles)
    rgb, alpha = tiles[:, :3], tiles[:, 3:]
    mix = torch.eye(3) + 0.25 * torch.randn(n, 3, 3, generator=g)
    grey = torch.full((3, 3), 1 / 3)
    draw = torch.rand(n, generator=g)
    mix = torch.where((draw < 0.12).view(n, 1, 1), grey, mix)
    mix = torch.where((keep_colour | (draw > 0.65)).view(n, 1, 1), torch.eye(3), mix)
    rgb = torch.einsum("nij,njhw->nihw", mix, rgb)
    gain = 0.75 + 0.5 * torch.rand(n, 1, 1, 1, generator=g)
    lift = 0.3 * torch.rand(n, 1, 1, 1, generator=g) - 0.15
    rgb = torch.minimum((rgb * gain + lift * alpha).clamp(min=0), alpha)
    tiles = torch.cat([rgb, alpha], 1)
    draw = torch.rand(n, generator=g)
    lined, flat = draw < 0.15, draw > 0.88
    if lined.any():  # a dark line around the shape and where its light changes
        part = tiles[lined]
        thick = F.max_pool2d(part[:, 3:], 3, 1, 1)
        line = (thick - -F.max_pool2d(-part[:, 3:], 3, 1, 1)) + (edges(part) - 0.1).clamp(0, 1)
        line = line.clamp(0, 1)
        tiles[lined] = torch.cat([part[:, :3] * (1 - line), torch.maximum(thick, part[:, 3:])], 1)
    if flat.any():  # fewer colours, as a flat icon has
        part = tiles[flat]
        tiles[flat, :3] = torch.minimum((part[:, :3] * 4).round() / 4, part[:, 3:])
    return tiles


def edges(tiles: Tensor) -> Tensor:
    """How fast a tile's light and coverage change: n x 1 x 64 x 64 in [0, 1]."""
    light = tiles[:, :3].mean(1, keepdim=True) + 0.5 * tiles[:, 3:]
    return ((F.max_pool2d(light, 3, 1, 1) + F.max_pool2d(-light, 3, 1, 1)) * 1.6).clamp(0, 1)
