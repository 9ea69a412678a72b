"""Meshes become clouds in double precision; dents and numbers backwards are right, broken files are named."""

import struct

import numpy as np
import pytest
import trimesh

from clipnotes import hub
from clipnotes.meshes import cloud, surface

# A square of 4 by 4 with a triangle of 6 cut out of its upper side.
DENT = [(0, 0, 0), (4, 0, 0), (4, 4, 0), (2, 1, 0), (0, 4, 0)]
TRIANGLE = [(0, 0, 0), (1, 0, 0), (0, 1, 0)]


def obj(corners, *faces) -> str:
    rows = [f"v {x} {y} {z}" for x, y, z in corners]
    return "\n".join(rows + ["f " + " ".join(map(str, face)) for face in faces]) + "\n"


def area(path) -> float:
    corners, triangles = surface(path)
    return trimesh.triangles.area(corners[triangles]).sum()


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("step", [1, -1])
def test_a_dent_is_no_surface(tmp_path, first, step):
    face = [(first + step * i) % 5 + 1 for i in range(5)]
    corners, triangles = surface(written(tmp_path, "dent.obj", obj(DENT, face)))
    assert trimesh.triangles.area(corners[triangles]).sum() == pytest.approx(10)
    x, y, _ = trimesh.sample.sample_surface(trimesh.Trimesh(corners, triangles), 2000, seed=0)[0].T
    assert (y <= 1 + 1.5 * np.abs(x - 2) + 1e-9).all(), "a point hangs in the dent"


def test_faces_of_many_corners_in_space(tmp_path):
    turned = [(x, y, y) for x, y, _ in DENT]
    assert area(written(tmp_path, "x.obj", obj(turned, (1, 2, 3, 4, 5)))) == pytest.approx(10 * 2**0.5)
    star = [(r * np.cos(a), 7, r * np.sin(a)) for a, r in zip(np.arange(10) * np.pi / 5, [1, 0.4] * 5, strict=True)]
    assert area(written(tmp_path, "star.obj", obj(star, range(1, 11)))) == pytest.approx(2 * np.sin(np.pi / 5))
    arrow = [(0, 0, 0), (4, 0, 0), (1, 1, 0), (0, 4, 0)]
    assert area(written(tmp_path, "arrow.obj", obj(arrow, (2, 3, 4, 1)))) == pytest.approx(4)


def ply(kind: str, face=(0, 1, 2, 3, 4)) -> bytes:
    head = (f"ply\nformat {kind} 1.0\nelement vertex 5\nproperty double x\nproperty double y\nproperty double z\n"
            "element face 1\nproperty list uchar int vertex_indices\nend_header\n").encode()
    if kind == "ascii":
        rows = [*DENT, (len(face), *face)]
        return head + "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()
    return head + b"".join(struct.pack("<3d", *c) for c in DENT) + struct.pack(f"<B{len(face)}i", len(face), *face)


OFF = "OFF\n5 1 0\n" + "".join(f"{x} {y} {z}\n" for x, y, z in DENT) + "5 0 1 2 3 4\n"


@pytest.mark.parametrize(("name", "content"), [
    ("x.off", OFF), ("glued.off", OFF.replace("OFF\n", "OFF")), ("x.ply", ply("ascii")),
    ("binary.ply", ply("binary_little_endian"))])
def test_dents_in_other_kinds(tmp_path, name, content):
    assert area(written(tmp_path, name, content)) == pytest.approx(10)


@pytest.mark.parametrize("ending", ["obj", "off", "ply", "stl", "glb"])
def test_a_box_of_every_kind(tmp_path, ending):
    trimesh.creation.box().export(tmp_path / f"box.{ending}")
    assert area(tmp_path / f"box.{ending}") == pytest.approx(6)


def test_several_objects_become_one(tmp_path):
    away = trimesh.transformations.translation_matrix([5, 0, 0])
    trimesh.Scene([trimesh.creation.box(), trimesh.creation.box(transform=away)]).export(tmp_path / "two.glb")
    corners, _ = surface(tmp_path / "two.glb")
    assert area(tmp_path / "two.glb") == pytest.approx(12) and np.ptp(corners[:, 0]) == pytest.approx(6)


def test_numbers_backwards_count_from_where_they_stand(tmp_path):
    twice = [(2 * x, 2 * y, 5) for x, y, _ in TRIANGLE]
    text = obj(TRIANGLE, (-3, -2, -1)) + "o second\n" + obj(twice, (-3, -2, -1))
    assert area(written(tmp_path, "x.obj", text)) == pytest.approx(0.5 + 2)
    textured = obj(TRIANGLE) + "vt 0 0\nf -3/-1 -2/-1 -1/-1\n"
    assert area(written(tmp_path, "y.obj", textured)) == pytest.approx(0.5)


@pytest.mark.parametrize("text", [
    obj(TRIANGLE, (1, 2, 3)).replace("\n", "\r\n"), obj(TRIANGLE) + "f 1 2 \\\n3\n",
    "\ufeff" + obj(TRIANGLE, (1, 2, 3)),
    ("o café\n" + obj(TRIANGLE, (1, 2, 3))).encode("latin-1"), "f 1 2 3\n" + obj(TRIANGLE),
    obj(TRIANGLE) + "vt 0 0\nvn 0 0 1\nf 1/1/1 2/1/1 3/1/1\n"])
def test_ways_to_write_a_triangle(tmp_path, text):
    assert area(written(tmp_path, "x.obj", text)) == pytest.approx(0.5)


def test_survey_coordinates_keep_their_shape(tmp_path):
    near = trimesh.creation.icosphere(3)
    far = near.copy()
    far.vertices += (512_345.25, 5_412_345.5, 102.125)
    for name, ball in (("near", near), ("far", far)):
        (tmp_path / f"{name}.obj").write_text(trimesh.exchange.obj.export_obj(ball, digits=9), encoding="utf-8")
    one, other = (cloud(tmp_path / f"{name}.obj", 500) for name in ("near", "far"))
    assert one.dtype == np.float32 and np.abs(one - other).max() < 1e-5
    assert np.linalg.norm(one, axis=1).max() == pytest.approx(1) and np.abs(one.mean(0)).max() < 1e-6


BROKEN = {
    "beyond.obj": (obj(TRIANGLE, (1, 2, 9)), "corner which is not among the 3"),
    "zero.obj": (obj(TRIANGLE, (0, 1, 2)), "corner which is not among the 3"),
    "far_back.obj": (obj(TRIANGLE, (-4, -2, -1)), "corner which is not among the 3"),
    "comma.obj": (obj(TRIANGLE, (1, 2, 3)).replace("v 1", "v 1,5"), "line 2 is 'v 1,5 0 0'.*decimal point"),
    "two.obj": ("v 0 0\nv 1 0\nf 1 2 1\n", "line 1 is 'v 0 0'"),
    "nan.obj": (obj([("nan", 0, 0), *TRIANGLE[1:]], (1, 2, 3)), "lies nowhere"),
    "endless.obj": (obj([("1e400", 0, 0), *TRIANGLE[1:]], (1, 2, 3)), "lies nowhere"),
    "huge.obj": (obj([("1e200", 0, 0), (1, 0, 0), (0, "1e200", 0)], (1, 2, 3)), "no surface"),
    "line.obj": (obj([(0, 0, 0), (1, 0, 0), (2, 0, 0)], (1, 2, 3)), "no surface"),
    "points.obj": (obj(TRIANGLE), "no surface"),
    "empty.obj": ("", "no surface"),
    "text.obj": ("a letter\n", "no surface"),
    "bow.obj": (obj([(0, 0, 0), (1, 1, 0), (1, 0, 0), (0, 1, 0)], (1, 2, 3, 4)), "crosses itself"),
    "knot.obj": (obj([(0, 0, 0), (4, 0, 0), (0, 4, 0), (2, 1, 0), (4, 4, 0)], (1, 2, 3, 4, 5)), "crosses itself"),
    "wide_bow.obj": (obj([(0, 0, 0), (1, 1, 0), (1, 0, 0), (0, 2, 0)], (1, 2, 3, 4)), "crosses itself"),
    "pentagram.obj": (obj([(np.cos(a), np.sin(a), 0) for a in np.arange(5) * 4 * np.pi / 5], range(1, 6)),
                      "crosses itself"),
    "beyond.off": (OFF.replace("3 4\n", "3 9\n"), "corner which is not among the 5"),
    "half.off": (OFF[:30], "ends before its 5 corners"),
    "letter.off": ("a letter\n", "does not begin with OFF"),
    "beyond.ply": (ply("ascii", (0, 1, 2, 3, 9)), "corner which is not among the 5"),
    "half.ply": (ply("binary_little_endian")[:-9], "unexpected length"),
    "empty.stl": (b"", "no surface"),
    "half.glb": (b"glTF\2\0\0\0", "."),
    "x.blend": (b"BLENDER", "not supported"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name(tmp_path, name):
    content, said = BROKEN[name]
    written(tmp_path, name, content)
    (tmp_path / "meshes.csv").write_text(f"file,class\n{name},thing\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"'{name}' is not a mesh that can be read: .*({said})"):
        hub.meshes(tmp_path, 8)
