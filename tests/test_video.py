"""A film is seen as a player shows it: turned, mirrored, stretched, and by its time."""

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from clipnotes import video

QUARTERS = np.zeros((64, 96, 3), np.uint8)
QUARTERS[:32, :48], QUARTERS[:32, 48:], QUARTERS[32:, :48] = (220, 30, 30), (30, 220, 30), (30, 30, 220)


def write_film(path: Path, pictures: list[np.ndarray], times: list[int] | None = None, shape: Fraction | None = None,
               codec: str = "mpeg4", rate: int = 10, options: dict | None = None) -> Path:
    """Pictures H×W×3 of 0..255 as a file; times in numbers of pictures at a steady rate."""
    with av.open(str(path), "w", options=options or {}) as film:
        stream = film.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.time_base = Fraction(1, rate)
        if shape:
            stream.codec_context.sample_aspect_ratio = shape
        for i, pixels in enumerate(pictures):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            picture.pts, picture.time_base = times[i] if times else i, Fraction(1, rate)
            film.mux(stream.encode(picture))
        film.mux(stream.encode())
    return path


def greys(count: int) -> list[np.ndarray]:
    """A film whose pictures tell their number by their grey: 10 to 240."""
    return [np.full((48, 48, 3), 10 + round(230 * i / max(count - 1, 1)), np.uint8) for i in range(count)]


def numbers(film: list[Image.Image], count: int) -> list[int]:
    """Which pictures of `greys(count)` these are."""
    return [round((np.asarray(p).mean() - 10) / 230 * (count - 1)) for p in film]


def ask_to_turn(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write the matrix (a b; c d) into the header of the first track of an mp4 file."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


TURNS = {(0, 1, -1, 0): Image.Transpose.ROTATE_270, (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
         (0, -1, 1, 0): Image.Transpose.ROTATE_90, (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
         (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM, (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
         (0, -1, -1, 0): Image.Transpose.TRANSVERSE}


@pytest.mark.parametrize("matrix", TURNS)
def test_turned_and_mirrored(tmp_path, matrix):
    path = write_film(tmp_path / "x.mp4", [QUARTERS] * 3)
    upright = video.decode(path, 1)[0]
    assert np.abs(np.asarray(upright, float) - QUARTERS).mean() < 10
    ask_to_turn(path, *matrix)
    shown, want = video.decode(path, 1)[0], upright.transpose(TURNS[matrix])
    assert shown.size == want.size and np.array_equal(np.asarray(shown), np.asarray(want))


def test_pixels_that_are_not_square(tmp_path):
    path = write_film(tmp_path / "x.mp4", [QUARTERS] * 3, shape=Fraction(4, 3))
    assert video.decode(path, 1)[0].size == (128, 64)
    ask_to_turn(path, 0, 1, -1, 0)  # stretched as it was filmed, then turned
    assert video.decode(path, 1)[0].size == (64, 128)


def test_sampling_of_frames():
    assert video.sample(10, 4) == [0, 3, 6, 9]
    assert video.sample(3, 8) == [0, 1, 2], "a short film is taken whole"
    assert video.sample(100, 1) == [0]
    with pytest.raises(ValueError, match="of a film of 0"):
        video.sample(0, 4)


def test_sampling_by_time():
    steady = [33 * i + i // 3 for i in range(50)]  # thirds of a millisecond, rounded
    assert video.sample_times(steady, 7) == video.sample(50, 7)
    assert video.sample_times([0, 90, 91, 92, 93, 100], 3) == [0, 0, 5], "the first is on show for nine tenths"
    assert video.sample_times([-20, 70, 71, 72, 73, 80], 3) == [0, 0, 5], "times may be negative"
    assert video.sample_times([0, 10, 90, 100], 4) == [0, 1, 2, 3], "a short film is taken whole"
    for broken in ([0, None, 90, 91, 95], [0, 50, 20, 99, 100], [7] * 5):
        assert video.sample_times(broken, 3) == video.sample(5, 3)


def test_a_film_of_varying_rate_is_sampled_by_time(tmp_path):
    times = [0, *range(80, 90)]  # the first picture stays for eight seconds, ten more follow in one
    path = write_film(tmp_path / "x.mp4", greys(11), times)
    assert numbers(video.decode(path, 4), 11) == [0, 0, 0, 10]
    steady = write_film(tmp_path / "y.mp4", greys(11))
    assert numbers(video.decode(steady, 4), 11) == [0, 3, 6, 10]


@pytest.mark.parametrize("ending", ["mp4", "m4v", "mov", "avi", "mkv", "mpg", "3gp", "ts"])
def test_films_of_many_kinds(tmp_path, ending):
    pixels = [np.full((144, 176, 3), p[0, 0], np.uint8) for p in greys(8)]  # 3gp wants a phone's size
    old = ending in ("mpg", "ts")
    path = write_film(tmp_path / f"x.{ending}", pixels, codec="mpeg2video" if old else "mpeg4", rate=25)
    assert numbers(video.decode(path, 3), 8) == [0, 3, 7] and video.film_fault(path) is None


def test_a_gif_is_a_film_on_white(tmp_path):
    red, blue = (Image.new("RGBA", (16, 16), (0, 0, 0, 0)) for _ in "ab")
    red.paste("red", (4, 4, 12, 12))
    blue.paste("blue", (4, 4, 12, 12))
    red.save(tmp_path / "x.gif", save_all=True, append_images=[blue], duration=100, disposal=2)
    film = video.decode(tmp_path / "x.gif", 2)
    assert [p.getpixel((8, 8)) for p in film] == [(255, 0, 0), (0, 0, 255)]
    assert [p.getpixel((0, 0)) for p in film] == [(255, 255, 255)] * 2


def test_a_film_with_holes_is_laid_on_white(tmp_path):
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[8:24, 8:24] = (200, 0, 0, 255)
    with av.open(str(tmp_path / "x.mov"), "w") as film:
        stream = film.add_stream("png", rate=10)
        stream.height = stream.width = 32
        stream.pix_fmt = "rgba"
        film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        film.mux(stream.encode())
    (picture,) = video.decode(tmp_path / "x.mov", 1)
    assert picture.getpixel((16, 16)) == (200, 0, 0) and picture.getpixel((0, 0)) == (255, 255, 255)


def test_a_film_of_one_picture(tmp_path):
    path = write_film(tmp_path / "x.mp4", greys(1))
    assert len(video.decode(path, 8)) == 1


def test_a_film_that_breaks_off_is_read_so_far(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    path = write_film(tmp_path / "x.mp4", list(noise), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"x.mp4' breaks off after \d\d pictures"):
        assert len(video.decode(path, 5)) == 5


def sound(path: Path, cover: bool) -> None:
    """A second of silence, with or without a picture on its cover."""
    with av.open(str(path), "w") as film:
        voice = film.add_stream("aac", rate=8000, layout="mono")
        if cover:
            front = film.add_stream("mjpeg", rate=1)
            front.height = front.width = 32
            front.pix_fmt, front.disposition = "yuvj420p", av.stream.Disposition.attached_pic.value
            film.mux(front.encode(av.VideoFrame.from_ndarray(QUARTERS[:32, :32].copy(), format="rgb24")))
            film.mux(front.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        silence.rate = 8000
        film.mux(voice.encode(silence))
        film.mux(voice.encode())


def test_what_is_no_film_is_refused_by_name(tmp_path):
    sound(tmp_path / "sound.mp4", cover=False)
    sound(tmp_path / "cover.mp4", cover=True)
    (tmp_path / "x.mp4").write_bytes(b"no film")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "letter.txt").write_text("hello world\n" * 50, encoding="utf-8")
    (tmp_path / "folder.mp4").mkdir()
    # FFmpeg itself would show the letter as a film of letters
    for name, said in {"x.mp4": "invalid data", "empty.mp4": "", "sound.mp4": "no moving pictures",
                       "cover.mp4": "no moving pictures", "letter.txt": "no moving pictures"}.items():
        with pytest.raises(ValueError, match=f"{name}' is not a film that can be read: .*{said}"):
            video.decode(tmp_path / name, 4)
        assert video.film_fault(tmp_path / name)
    for name in ("none.mp4", "folder.mp4"):
        with pytest.raises(FileNotFoundError, match=f"no film .*{name}"):
            video.decode(tmp_path / name, 4)


def test_films_without_their_reader(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match="pip install av"):
        video.decode("x.mp4", 4)


def test_a_stack_of_films(tmp_path):
    path = write_film(tmp_path / "x.mp4", greys(5))
    listed = [Image.fromarray(p) for p in greys(3)]
    pictures, mask = video.stack([str(path), path, listed], 4, 32)
    assert pictures.shape == (3, 4, 3, 32, 32) and mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert torch.equal(pictures[0], pictures[1]) and (pictures[2, 3] == 0).all()
    assert pictures[2, :3, 0, 0, 0].mul(255).round().tolist() == [10, 125, 240]
    with pytest.raises(ValueError, match="Give a list of films"):
        video.stack(str(path), 4, 32)
    with pytest.raises(ValueError, match="of a film of 0"):
        video.stack([[]], 4, 32)
