"""One mesh file -> triangles -> a cloud of points on its surface, in double precision until it stands in the unit ball.

Faces of .obj, .off and .ply may have any number of corners, dents included; other kinds have triangles only.
"""

import io
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import trimesh

Polygons = list[list[int]]
EPS = 1e-12  # of areas, in a face whose farthest corner lies at 1


def cloud(path: str | Path, points: int, seed: int = 0) -> np.ndarray:
    """P points on the surface of a mesh, sampled by area: P×3 float32, their mean at 0, the farthest at distance 1.

    Raises ValueError, which names the file, where it holds no surface that can be read (see `surface`).
    """
    corners, triangles = surface(path)
    mesh = trimesh.Trimesh(corners, triangles, process=False)
    found = np.array(trimesh.sample.sample_surface(mesh, points, seed=seed)[0], dtype=np.float64)
    found -= found.mean(0)  # before it is rounded: survey coordinates have seven digits before the point
    return (found / np.linalg.norm(found, axis=1).max()).astype(np.float32)


def surface(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Corners V×3 float64, and triangles F×3 of their numbers from 0; several objects of a file become one.

    Raises ValueError, which names the file, for: a kind that trimesh cannot read, numbers that are none or not finite,
    a face that names a corner which is not there, crosses itself or has no inside, and a mesh without faces.
    """
    path = Path(path)
    try:
        with np.errstate(all="ignore"):  # of corners that lie 1e200 away
            corners, faces = {".obj": _obj, ".off": _off, ".ply": _ply}.get(path.suffix.lower(), _others)(path)
            _check(corners, faces)
            triangles = triangulate(corners, faces)
            area = trimesh.triangles.area(corners[triangles]).sum() if len(triangles) else 0.0
        if not 0 < area < np.inf:
            raise ValueError(f"it has no surface to sample points from (its area is {area:g})")
    except Exception as error:  # readers of broken files raise a dozen kinds
        raise ValueError(f"{path.name!r} is not a mesh that can be read: {str(error).rstrip('.!')}.") from error
    return corners, triangles


def _check(corners: Sequence, faces: Polygons) -> None:
    if not np.isfinite(corners).all():
        raise ValueError("a corner lies nowhere (nan or infinite)")
    numbers = {number for face in faces for number in face}
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(corners):
        raise ValueError(f"a face names a corner which is not among the {len(corners)}")


def _obj(path: Path) -> tuple[np.ndarray, Polygons]:
    """Wavefront: corners are numbered from 1, or backwards from the last one that stands before the face."""
    rows, faces, backwards = [], [], False
    text = path.read_text("utf-8-sig", errors="replace").replace("\\\n", " ")  # names may be in any code page
    for number, line in enumerate(text.split("\n"), 1):
        word, *rest = line.split("#")[0].split() or [""]
        try:
            if word == "v":
                x, y, z = map(float, rest[:3])
                rows.append((x, y, z))
            elif word == "f":
                face = [int(corner.split("/")[0]) for corner in rest]
                faces.append([i - 1 if i > 0 else len(rows) + i if i else -1 for i in face])
                backwards |= min(face) < 0
        except ValueError as error:
            raise ValueError(f"line {number} is {line.strip()[:60]!r} (numbers need a decimal point)") from error
    corners = np.array(rows, dtype=np.float64).reshape(-1, 3)
    _check(corners, faces)
    if backwards or not all(len(face) == 3 or _is_fan(_flat(corners[face])) for face in faces):
        return corners, faces
    return _others(io.StringIO(text), "obj")  # the same surface, in the order in which trimesh always gave it


def _off(path: Path) -> tuple[np.ndarray, Polygons]:
    """Object File Format: the numbers of corners and faces, a line each; some files glue them to the first word."""
    head, found, body = path.read_text("utf-8-sig", errors="replace").partition("OFF")
    if not found or len(head.strip()) > 4:
        raise ValueError("it does not begin with OFF")
    lines = [line for line in (row.split("#")[0].split() for row in body.split("\n")) if line]
    count, faces = int(lines[0][0]), int(lines[0][1])
    if len(lines) < 1 + count + faces:
        raise ValueError(f"it ends before its {count} corners and {faces} faces")
    corners = np.array([line[:3] for line in lines[1 : 1 + count]], dtype=np.float64).reshape(-1, 3)
    return corners, [[int(i) for i in line[1 : int(line[0]) + 1]] for line in lines[1 + count : 1 + count + faces]]


def _ply(path: Path) -> tuple[np.ndarray, Polygons]:
    """Stanford's format, text or binary, by trimesh; its faces as they stand in the file."""
    with open(path, "rb") as file:
        read = trimesh.exchange.ply.load_ply(file)
    table = read["metadata"]["_ply_raw"].get("face", {}).get("data", {})
    names = table if isinstance(table, dict) else table.dtype.names
    name = next((n for n in ("vertex_indices", "vertex_index") if n in names), None)
    faces = [] if name is None else table[name] if isinstance(table, dict) else table[name]["f1"]
    return np.array(read["vertices"], dtype=np.float64), [[int(i) for i in face] for face in faces]


def _others(file: Path | io.StringIO, kind: str | None = None) -> tuple[np.ndarray, Polygons]:
    mesh = trimesh.load(file, file_type=kind, force="mesh", skip_materials=True)
    corners, faces = (np.array(getattr(mesh, name, ())) for name in ("vertices", "faces"))  # of nothing: a list
    return corners.astype(np.float64).reshape(-1, 3), faces.tolist()


def triangulate(corners: np.ndarray, faces: Polygons) -> np.ndarray:
    """Faces of any number of corners -> triangles F×3. Faces of one or two corners are left out.

    A fan from the first corner where it sees the whole face; else ears are cut off. ValueError for a face that crosses
    itself.
    """
    found: Polygons = []
    for face in faces:
        if len(face) == 3:
            found.append(face)
        elif len(face) > 3:
            flat = _flat(corners[face])
            parts = _fan(len(face)) if _is_fan(flat) else _ears(flat)
            found += [[face[i] for i in part] for part in parts]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _flat(polygon: np.ndarray) -> np.ndarray:
    """Corners N×3 -> N×2 in their plane, counter-clockwise, at most 1 from the first; Newell's sums give the normal."""
    polygon = polygon - polygon[0]
    polygon = polygon / max(np.abs(polygon).max(), np.finfo(float).tiny)
    normal = np.cross(polygon, np.roll(polygon, -1, 0)).sum(0)
    if np.abs(normal).max() < EPS < np.linalg.svd(polygon)[1][1] ** 2:  # its halves turn against each other
        raise ValueError("a face crosses itself")
    u, v = np.linalg.svd(normal[None])[2][1:]
    return polygon @ np.stack([u, v if np.cross(u, v) @ normal > 0 else -v], 1)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Twice the area of a triangle, negative if it turns clockwise."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _fan(count: int) -> Polygons:
    return [[0, i, i + 1] for i in range(1, count - 1)]


def _is_fan(flat: np.ndarray) -> bool:
    """Does the first corner see the whole face?"""
    return all(_turn(*flat[part]) >= -EPS for part in _fan(len(flat)))


def _ears(flat: np.ndarray) -> Polygons:
    """The triangles of a face with dents: a corner that points outwards and holds no other corner is cut off, again
    and again."""
    sides = list(zip(range(len(flat)), [*range(1, len(flat)), 0], strict=True))
    if any(_cross(*flat[[*one, *other]]) for one, other in combinations(sides, 2)):
        raise ValueError("a face crosses itself")
    rest, parts = list(range(len(flat))), []
    while len(rest) > 2:
        ears = ((rest[k - 1], rest[k], rest[(k + 1) % len(rest)]) for k in range(len(rest)))
        ear = next((ear for ear in ears if _is_ear(flat, ear, rest)), None)
        if ear is None:
            raise ValueError("a face crosses itself")
        parts.append(list(ear))
        rest.remove(ear[1])
    return parts


def _is_ear(flat: np.ndarray, ear: tuple[int, int, int], rest: list[int]) -> bool:
    a, b, c = flat[list(ear)]
    others = [flat[i] for i in rest if i not in ear]
    inside = any(min(_turn(a, b, p), _turn(b, c, p), _turn(c, a, p)) > EPS for p in others)
    return _turn(a, b, c) >= -EPS and not inside


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Do the lines from a to b and from c to d cross, each inside the other?"""
    return _turn(a, b, c) * _turn(a, b, d) < -EPS and _turn(c, d, a) * _turn(c, d, b) < -EPS
