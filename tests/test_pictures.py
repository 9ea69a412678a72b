"""A picture file is seen as a viewer shows it; what is none is refused by its name."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from clipnotes import hub
from clipnotes.pictures import as_seen, open_picture, picture_fault, to_tensor

TURNS = dict(enumerate((Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
                        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE,
                        Image.Transpose.ROTATE_270), 2))  # orientation: what the camera did
DISC = np.hypot(*(np.mgrid[:32, :32] - 16)) < 10
RAMP = np.linspace(0, 65535, 128).astype(np.uint16)[None].repeat(16, 0)


def corners() -> Image.Image:
    """A different colour in each quarter: no turn and no mirror leaves it as it is."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


def difference(one, other) -> float:
    assert one.size == other.size and one.mode == other.mode == "RGB"
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


@pytest.mark.parametrize("orientation", [1, *TURNS])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "mpo"])
def test_all_orientations(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    held = corners().transpose(TURNS[orientation]) if orientation > 1 else corners()
    held.save(tmp_path / f"x.{ending}", exif=exif, quality=95)
    assert difference(open_picture(tmp_path / f"x.{ending}"), corners()) < 8


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "I;16", "F"])
def test_turned_grey_scans(tmp_path, mode, compression):
    grey = {"L": RAMP // 257, "I;16": RAMP, "F": RAMP / 65535}[mode]
    exif = Image.Exif()
    exif[0x112] = 6
    held = np.ascontiguousarray(np.rot90(grey.astype({"L": np.uint8, "I;16": np.uint16, "F": np.float32}[mode])))
    Image.fromarray(held).save(tmp_path / "x.tif", exif=exif, compression=compression)
    upright = Image.fromarray((RAMP // 257).astype(np.uint8)).convert("RGB")
    assert difference(open_picture(tmp_path / "x.tif"), upright) < 1


def test_a_broken_note_of_the_camera_turns_nothing(tmp_path):
    corners().save(tmp_path / "x.png", exif=b"Exif\0\0no tags at all")
    assert difference(open_picture(tmp_path / "x.png"), corners()) == 0


def black_disc(mode: str) -> tuple[Image.Image, dict]:
    """A black disc on nothing, and how it is saved."""
    clear = Image.fromarray(np.dstack([np.zeros((32, 32, 3), np.uint8), DISC.astype(np.uint8) * 255]))
    if mode in ("RGBA", "LA"):
        return clear.convert(mode), {}
    if mode in ("P", "PA"):
        indices = Image.fromarray(DISC.astype(np.uint8))
        indices.putpalette([0] * 6)
        if mode == "P":
            return indices, {"transparency": 0}
        indices.putalpha(clear.getchannel("A"))
        return indices, {}
    grey = {"L": np.uint8, "I;16": np.uint16}.get(mode)
    if grey:
        return Image.fromarray(np.where(DISC, 0, 7).astype(grey)), {"transparency": 7}
    return Image.fromarray(np.where(DISC[..., None], 0, (1, 2, 3)).astype(np.uint8)), {"transparency": (1, 2, 3)}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16", "RGB"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    picture, options = black_disc(mode)
    picture.save(tmp_path / "logo.png", **options)
    assert np.array_equal(np.asarray(open_picture(tmp_path / "logo.png"))[..., 1], np.where(DISC, 0, 255))


@pytest.mark.parametrize("ending", ["gif", "webp", "tif"])
def test_transparency_of_other_kinds(tmp_path, ending):
    black_disc("RGBA")[0].save(tmp_path / f"logo.{ending}", **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(np.asarray(open_picture(tmp_path / f"logo.{ending}"))[..., 0], np.where(DISC, 0, 255))


def test_half_transparent_red_becomes_pink():
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert as_seen(half).getpixel((0, 0)) == (255, 127, 127)
    indexed = black_disc("PA")[0]
    assert indexed.mode == "PA" and np.array_equal(np.asarray(as_seen(indexed))[..., 0], np.where(DISC, 0, 255))


def deep(kind: str, path) -> None:
    """The ramp with more than eight bits."""
    if kind == "big-endian tif":
        Image.frombytes("I;16B", RAMP.shape[::-1], RAMP.astype(">u2").tobytes()).save(path)
    elif kind == "floats tif":
        Image.fromarray((RAMP / 65535).astype(np.float32)).save(path)
    elif kind == "ten bits pgm":
        path.write_bytes(b"P5\n128 16\n1023\n" + (RAMP // 64).astype(">u2").tobytes())
    elif kind == "pgm":
        path.write_bytes(b"P5\n128 16\n65535\n" + RAMP.astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP).save(path)


@pytest.mark.parametrize("kind", ["png", "tif", "jp2", "pgm", "ten bits pgm", "big-endian tif", "floats tif"])
def test_deep_greys_are_scaled(tmp_path, kind):
    path = tmp_path / f"ramp.{kind.split()[-1]}"
    deep(kind, path)
    assert np.abs(np.asarray(open_picture(path), float)[..., 0] - RAMP / 257).max() <= 1


def test_a_grey_of_the_mode_i_is_16_bits():
    found = np.asarray(as_seen(Image.fromarray(RAMP.astype(np.int32))), float)  # what older Pillow makes of a png
    assert np.abs(found[..., 0] - RAMP / 257).max() <= 1


@pytest.mark.parametrize("values", [np.float32([[0, 255]]), np.float32([[0, np.nan]]), np.int32([[0, 70_000]])])
def test_numbers_without_an_agreed_white_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="x.tif.*nothing says which is white"):
        open_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_colours(tmp_path, mode):
    if mode == "LAB":
        picture = ImageCms.profileToProfile(
            corners(), *map(ImageCms.createProfile, ("sRGB", "LAB")), outputMode="LAB")
    else:
        picture = corners().convert(mode)
    want = picture.convert("RGB") if mode == "1" else corners()
    assert difference(as_seen(picture), want) < 8


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_a_moving_picture_the_first_is_seen(tmp_path, ending):
    red, blue = (Image.new("RGB", (8, 8), name) for name in ("red", "blue"))
    red.save(tmp_path / f"x.{ending}", save_all=True, append_images=[blue])
    r, g, b = open_picture(tmp_path / f"x.{ending}").getpixel((4, 4))
    assert r > 240 and g < 15 and b < 15


def test_plain_pictures_stay_as_they_are():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    assert difference(as_seen(picture), picture) == 0
    cut = picture.resize((43, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
    assert torch.equal(to_tensor(picture, 32), torch.from_numpy(np.array(cut)).permute(2, 0, 1) / 255)


BROKEN = {
    "text": (b"no picture", "its content is no picture"),
    "empty": (b"", "it is empty"),
    "half": (None, "truncated"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_picture_is_refused_by_name(tmp_path, kind):
    data, said = BROKEN[kind]
    path = tmp_path / f"{kind}.png"
    if data is None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        data = path.read_bytes()[:5000]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{kind}.png' is not a picture that can be read: .*{said}"):
        hub.photo(path)
    assert said in picture_fault(path)


def test_a_bomb_a_folder_and_nothing_are_refused(tmp_path, monkeypatch):
    corners().save(tmp_path / "bomb.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match="folder.png' is a folder"):
        hub.photo(tmp_path / "folder.png")
    with pytest.raises(FileNotFoundError, match="no file .*none.png"):
        hub.photo(tmp_path / "none.png")
    for most in (1000, 500):  # more than allowed is a warning of Pillow's, more than twice an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(ValueError, match="bomb.png.*unpacks to more than"):
            hub.photo(tmp_path / "bomb.png")


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="its reader is here")
def test_heic_without_its_reader_is_named(tmp_path):
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(ValueError, match="x.heic.*pip install pillow-heif"):
        hub.photo(tmp_path / "x.heic")
