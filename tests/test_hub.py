"""Real data: stand-ins with the columns of the real sets, and a reader's folders; nothing is fetched."""

import io
import json
import re
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from clipnotes import folders, hub, pins
from test_video import greys, write_film


def pictures(count):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def cifar10():
    """Ten pictures with the columns and the features of the real set."""
    features = datasets.Features(
        img=datasets.Image(), label=datasets.ClassLabel(names=["airplane", "automobile"])
    )
    return datasets.Dataset.from_dict({"img": pictures(10), "label": [0, 1] * 5}, features=features)


@pytest.fixture
def newest(monkeypatch, tmp_path):
    """The newest commit of each repository of the hub, which a test changes; pins are in a file of its own."""
    commit = SimpleNamespace(sha="b" * 40)
    monkeypatch.setattr(pins, "PINS", tmp_path / "pins.json")
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda self, repository, repo_type: commit)
    return commit


@pytest.fixture
def fetched(monkeypatch):
    """Makes load_dataset return what a test puts here, or raise it."""
    box = {}

    def load_dataset(repository, split, revision):
        box["asked"] = (repository, split, revision)
        if isinstance(box["answer"], Exception):
            raise box["answer"]
        return box["answer"]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return box


def test_a_set_gets_the_columns_of_the_course(fetched, cifar10):
    fetched["answer"] = cifar10
    found = hub.load("cifar10")
    assert fetched["asked"] == ("uoft-cs/cifar10", "test", "0b2714987fa478483af9968de7c934580d0bb9a2")
    assert found.column_names == ["image", "label"]
    assert found.features["label"].names == ["airplane", "automobile"]
    assert found[3]["label"] == 1 and found[3]["image"].size == (30, 20)


def test_a_set_without_a_revision_stays_what_it_was_at_first_use(fetched, newest):
    fetched["answer"] = datasets.Dataset.from_dict({"image": pictures(1), "mask": pictures(1)})
    for _ in range(2):
        hub.load("people", "train")
        assert fetched["asked"] == ("mattmdjaga/human_parsing_dataset", "train", "b" * 40)
        newest.sha = "c" * 40
    pins.PINS.write_text("half", "utf-8")
    with pytest.raises(RuntimeError, match="^[^ ]*pins.json is damaged"):
        hub.load("people", "train")


def test_captions(fetched):
    fetched["answer"] = datasets.Dataset.from_dict(
        {"image": pictures(2), "image_id": [1, 2], "annotations_captions": [["a dog", "one dog"], ["a cat"]]},
        features=datasets.Features(
            image=datasets.Image(),
            image_id=datasets.Value("int32"),
            annotations_captions=datasets.List(datasets.Value("string")),
        ),
    )
    found = hub.load("nocaps", split="validation", limit=1)
    assert found.column_names == ["image", "caption"]
    assert found[0]["caption"] == ["a dog", "one dog"]


def test_a_limit_spreads_over_the_whole(fetched, cifar10):
    fetched["answer"] = cifar10.sort("label")
    assert sorted(hub.load("cifar10", limit=4)["label"]) == [0, 0, 1, 1]
    assert len(hub.load("cifar10", limit=99)) == 10


def test_no_network_is_one_clear_sentence(fetched):
    fetched["answer"] = ConnectionError("no route")
    with pytest.raises(
        RuntimeError, match=r"'cifar10' .*could not be fetched. Check the network, or stay in tiny"
    ):
        hub.load("cifar10")


def test_an_unknown_set_and_a_missing_column_are_refused(cifar10):
    with pytest.raises(ValueError, match="no data set 'imagenet'.*cifar10, pets, nocaps"):
        hub.load("imagenet")
    with pytest.raises(ValueError, match="no column 'image', only img, label"):
        hub.normalise(cifar10, {"image": "image"})


def test_revisions_are_whole_commits():
    """A branch or a short number could be moved."""
    known = {repository for repository, _ in (*hub.SETS.values(), *hub.FILMS.values())}
    assert hub.REVISIONS.keys() <= known
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in hub.REVISIONS.values())


# ---------------------------------------------------------------- folders of pictures


def put(root: Path, *names: str) -> Path:
    """Files under `root`, by their names: pictures, or else a text."""
    for name, picture in zip(names, pictures(len(names)), strict=True):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in Image.registered_extensions():
            picture.save(path)
        else:
            path.write_text("no picture", encoding="utf-8")
    return root


def test_a_folder_of_ones_own(tmp_path):
    put(tmp_path, "cat/1.png", "cat/2.jpg", "dog/1.webp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hub.local(tmp_path)
    assert found.features["label"].names == ["cat", "dog"]
    assert found["label"] == [0, 0, 1]
    assert found[0]["image"].size == (30, 20)
    with pytest.raises(FileNotFoundError, match="subfolder a class"):
        hub.local(tmp_path / "cat")
    with pytest.raises(FileNotFoundError, match="No pictures in .*nowhere"):
        hub.local(tmp_path / "nowhere")


def test_pictures_of_any_ending(tmp_path):
    endings = ("PNG", "JPG", "Jpeg", "bmp", "gif", "tif", "tiff", "jfif", "ppm", "webp", "jp2", "ico", "tga")
    found = hub.local(put(tmp_path, *(f"{ending}/x.{ending}" for ending in endings)))
    assert found.features["label"].names == sorted(endings) and found["label"] == list(range(len(endings)))
    for picture in found["image"]:
        assert hub.to_tensor(picture, 16).shape == (3, 16, 16)


def test_hidden_entries_are_skipped(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png", ".ipynb_checkpoints/1-checkpoint.png", "cat/.DS_Store", "cat/._1.png.x",
        "__MACOSX/cat/1.png", "cat/Thumbs.db", "dog/desktop.ini", "@eaDir/1.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hub.local(tmp_path)
    assert found.features["label"].names == ["cat", "dog"] and found["label"] == [0, 1]


def test_nothing_is_left_out_without_a_word(tmp_path):
    put(tmp_path, "cat/1.png", "cat/notes.txt", "cat/nested/1.png", "dog/1.png", "loose.png", "bad/1.txt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cat/half.jpg").write_bytes((tmp_path / "dog/1.png").read_bytes()[:60])
    (tmp_path / "dog/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dog/away.png").symlink_to(tmp_path / "away.png")
    with pytest.warns(UserWarning, match="2 pictures; left out 9") as said:
        found = hub.local(tmp_path)
    assert said[0].filename == __file__, "the warning points to the reader's line"
    assert found.features["label"].names == ["cat", "dog"] and found["label"] == [0, 1]
    told = ("bad/1.txt: its content is no picture", "bad: a folder without pictures", "cat/half.jpg: ",
            "cat/nested: a folder in a class", "and 4 more")
    assert all(part in str(said[0].message) for part in told)
    with pytest.raises(FileNotFoundError, match="No pictures in .*Left out: 1.txt: not in a class"):
        hub.local(tmp_path / "bad")


# ---------------------------------------------------------------- folders of films


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Real files: three films of two classes in UCF101's layout, and MSR-VTT's with its captions."""
    root = tmp_path_factory.mktemp("films")
    for i, kind in enumerate(("Jump", "Jump", "Spin")):
        (root / "UCF101_subset" / "test" / kind).mkdir(parents=True, exist_ok=True)
        write_film(root / "UCF101_subset" / "test" / kind / f"v_{kind}_{i}.avi", greys(4))
    (root / "msrvtt" / "TestVideo").mkdir(parents=True)
    for i in range(2):
        write_film(root / "msrvtt" / "TestVideo" / f"video{i}.mp4", greys(4))
    told = [("video0", "a"), ("video0", "b"), ("video1", "c")]
    sentences = [dict(video_id=film, caption=caption) for film, caption in told]
    (root / "msrvtt" / "test.json").write_text(json.dumps(dict(sentences=sentences)), encoding="utf-8-sig")
    return root


def test_local_films(shelf):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classes = hub.local_films(shelf / "UCF101_subset" / "test")
        told = hub.local_films(shelf / "msrvtt")
    assert classes.features["label"].names == ["Jump", "Spin"] and classes["label"][:] == [0, 0, 1]
    assert told["caption"][:] == [["a", "b"], ["c"]] and told["video_id"][:] == ["video0", "video1"]
    with pytest.raises(FileNotFoundError, match="No films in"):
        hub.local_films(shelf / "nowhere")


def test_films_that_are_left_out_are_named(tmp_path):
    (tmp_path / "Jump").mkdir()
    write_film(tmp_path / "Jump" / "1.M4V", greys(3))
    (tmp_path / "Jump" / "2.mp4").write_bytes(b"no film")
    put(tmp_path, "Jump/notes.txt", "Jump/._1.mp4.x", "__MACOSX/Jump/1.txt", "Spin/1.txt")
    with pytest.warns(UserWarning, match=r"1 films; left out 4: Jump/2.mp4: invalid data.*notes.txt: no film.*"
                                         r"Spin/1.txt: no film; Spin: a folder without films"):
        found = hub.local_films(tmp_path)
    assert found.features["label"].names == ["Jump"]


def test_captions_and_films_that_do_not_meet_are_named(tmp_path):
    write_film(tmp_path / "a.mp4", greys(3))
    write_film(tmp_path / "b.mp4", greys(3))
    sentences = [{"video_id": name, "caption": "x"} for name in ("a", "z")]
    (tmp_path / "captions.json").write_text(json.dumps({"sentences": sentences}), encoding="utf-8")
    put(tmp_path, ".ipynb_checkpoints/captions-checkpoint.json")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    with pytest.warns(UserWarning, match="1 films; left out 2: b.mp4: no caption; z: a caption without a film"):
        assert hub.local_films(tmp_path)["video_id"][:] == ["a"]


@pytest.mark.parametrize("text", ["[]", "[{}]", '"words"', "{}", '{"sentences": {}}', '{"sentences": ["a"]}',
                                  '{"sentences": [{"video_id": "a"}]}',
                                  '{"sentences": [{"video_id": 1, "caption": "x"}]}'])
def test_captions_of_another_shape_are_refused_by_name(tmp_path, text):
    (tmp_path / "mine.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match='mine.json is not of the form {"sentences"'):
        hub.local_films(tmp_path)


@pytest.mark.parametrize(("data", "said"), [(b"{", "is not JSON"), ("{é".encode("cp1252"), "another code page"),
                                            ("{}".encode("utf-16-le"), "no text in UTF-8")])
def test_captions_that_cannot_be_read_are_refused_by_name(tmp_path, data, said):
    (tmp_path / "mine.json").write_bytes(data)
    with pytest.raises(ValueError, match=f"mine.json .*{said}|mine.json is {said}"):
        hub.local_films(tmp_path)


# ---------------------------------------------------------------- tables


ROWS = "file,class,same_geometry_as\nä.obj,chair,b.obj;c.obj\nb.obj,table,\n"


@pytest.mark.parametrize("data", [
    ROWS.encode(), ROWS.encode("utf-8-sig"), ROWS.encode("utf-16"), ROWS.replace("\n", "\r\n").encode(),
    ROWS.replace(",", "\t").encode("utf-16"), ("sep=,\r\n" + ROWS).encode("utf-8-sig"),
    ROWS.replace("file,class", " File ,Class").encode(), (ROWS + ",,\n\n").encode(),
    ROWS.replace("b.obj;c.obj", '"b.obj;c.obj"').replace(",", ";").encode("utf-8-sig")])
def test_tables_as_spreadsheets_write_them(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    rows = folders.table(tmp_path / "t.csv", ("file", "class"))
    assert rows == [{"file": "ä.obj", "class": "chair", "same_geometry_as": "b.obj;c.obj"},
                    {"file": "b.obj", "class": "table", "same_geometry_as": ""}]


@pytest.mark.parametrize(("data", "said"), [
    (ROWS.encode("cp1252"), "another code page: save it as UTF-8"), (ROWS.encode("utf-16-le"), "UTF-8"),
    (b"", "needs the columns file and class"), (b"file,class\n", "at least one row"),
    (b"name\na\n", "needs the columns"), (b"file,class\na.obj\n", "'a.obj' does not fit"),
    (b"file,class\na.obj,chair,red\n", "'a.obj,chair,red' does not fit"),
    (b"file,class\n,chair\n", "',chair' does not fit")])
def test_tables_that_are_none_are_refused_by_name(tmp_path, data, said):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(ValueError, match=f"t.csv.*{said}"):
        folders.table(tmp_path / "t.csv", ("file", "class"))


# ---------------------------------------------------------------- downloads


def test_films_of_the_hub(shelf, monkeypatch, tmp_path, newest):
    """Archives as the hub keeps them are fetched, unpacked once, and read."""
    asked = []

    def download(repository, name, repo_type, revision):
        asked.append((repository, name, repo_type, revision))
        path = tmp_path / Path(name).name
        if path.suffix == ".gz":
            with tarfile.open(path, "w:gz") as archive:
                archive.add(shelf / "UCF101_subset", "UCF101_subset")
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for file in (shelf / "msrvtt").rglob("*.json" if "info" in name else "*.mp4"):
                    archive.write(file, file.relative_to(shelf / "msrvtt"))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "REVISIONS", {"sayakpaul/ucf101-subset": "a" * 40})
    assert hub.films("ucf101")["label"][:] == [0, 0, 1]
    assert asked == [("sayakpaul/ucf101-subset", "UCF101_subset.tar.gz", "dataset", "a" * 40)]
    assert hub.films("msrvtt", limit=1)["caption"][:] == [["a", "b"]]
    assert asked[1:] == [("AlexZigma/msr-vtt", name, "dataset", newest.sha) for name in hub.FILMS["msrvtt"][1]]
    assert not list(tmp_path.glob(".*.part")), "nothing half unpacked is left"
    with pytest.raises(ValueError, match="no films 'kinetics'"):
        hub.films("kinetics")

    def offline(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(RuntimeError, match="could not be fetched"):
        hub.films("ucf101")


def tar_of(path: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    return path


def entry(name: str, size: int = 1, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, target
    return made


def zip_of(path: Path, name: str, mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        made = zipfile.ZipInfo(name)
        made.external_attr = mode << 16
        archive.writestr(made, "x")
    return path


HARMFUL = {
    "above": lambda p: tar_of(p / "x.tar.gz", entry("../x")),
    "absolute": lambda p: tar_of(p / "x.tar.gz", entry(f"{p}/outside")),
    "link": lambda p: tar_of(p / "x.tar.gz", entry("x", 0, tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": lambda p: tar_of(p / "x.tar.gz", entry("x", 0, tarfile.LNKTYPE, "../x")),
    "device": lambda p: tar_of(p / "x.tar.gz", entry("x", 0, tarfile.CHRTYPE)),
    "zip above": lambda p: zip_of(p / "x.zip", "a/../../x"),
    "zip back": lambda p: zip_of(p / "x.zip", "..\\x"),
    "zip drive": lambda p: zip_of(p / "x.zip", "C:/x"),
    "zip link": lambda p: zip_of(p / "x.zip", "x", stat.S_IFLNK | 0o777),
    "bytes": lambda p: tar_of(p / "x.tar.gz", entry("x", 600), entry("y", 600)),
    "files": lambda p: tar_of(p / "x.tar.gz", *(entry(str(i)) for i in range(9))),
    "half": lambda p: (p / "x.tar.gz").write_bytes(b"half a file") and p / "x.tar.gz",
    "half a zip": lambda p: (p / "x.zip").write_bytes(b"PK\3\4 half a file") and p / "x.zip",
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_harmful_and_broken_archives_are_refused_by_name(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(folders, "MOST_BYTES", 1000)
    monkeypatch.setattr(folders, "MOST_FILES", 8)
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = HARMFUL[kind](inner)
    with pytest.raises(RuntimeError, match=f"{archive.name} could not be unpacked .*: delete it"):
        folders.unpacked([archive])
    assert [p.name for p in inner.iterdir() if not p.name.endswith(".lock")] == [archive.name]
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]


def test_an_archive_is_unpacked_once_and_whole(tmp_path):
    archive = tar_of(tmp_path / "x.tar.gz", entry("a/1", 5), entry("a/2", 6))
    left = tmp_path / ".x.tar.gz.files.part"
    left.mkdir()
    (left / "half").touch()  # of a run that was killed
    folder = folders.unpacked([archive])
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == ["a", "a/1", "a/2"]
    archive.unlink()
    assert folders.unpacked([archive]) == folder and not left.exists()


# ---------------------------------------------------------------- photographs


@pytest.mark.parametrize("name", hub.PHOTOS)
def test_the_photographs_ship_and_fill_the_range(name):
    image = hub.photo(name, size=96)
    assert image.shape == (1, 3, 96, 96) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1 and image.std() > 0.05


def test_a_photo_of_ones_own_keeps_its_middle(tmp_path):
    picture = Image.new("RGB", (100, 40), "black")
    picture.paste("white", (30, 0, 70, 40))
    picture.save(tmp_path / "mine.png")
    image = hub.photo(tmp_path / "mine.png", size=20)
    assert image.shape == (1, 3, 20, 20)
    assert image[..., 2:-2].min() > 0.95  # the middle 40 of 100 pixels are white


def test_bad_photos_are_refused(tmp_path):
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match="not a picture"):
        hub.photo(tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError, match="no file 'tiger'.*cat, coffee, astronaut"):
        hub.photo("tiger")
