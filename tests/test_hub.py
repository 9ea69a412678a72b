"""Real data: a local stand-in with the columns of the real sets; nothing is fetched."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clipnotes import hub


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
def fetched(monkeypatch):
    """Makes load_dataset return what a test puts here, or raise it."""
    box = {}

    def load_dataset(repository, split):
        box["asked"] = (repository, split)
        if isinstance(box["answer"], Exception):
            raise box["answer"]
        return box["answer"]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return box


def test_a_set_gets_the_columns_of_the_course(fetched, cifar10):
    fetched["answer"] = cifar10
    found = hub.load("cifar10")
    assert fetched["asked"] == ("uoft-cs/cifar10", "test")
    assert found.column_names == ["image", "label"]
    assert found.features["label"].names == ["airplane", "automobile"]
    assert found[3]["label"] == 1 and found[3]["image"].size == (30, 20)


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


def test_a_folder_of_ones_own(tmp_path):
    for name, picture in zip(
        ("cat/1.png", "cat/2.jpg", "dog/1.webp", "dog/notes.txt"), pictures(4), strict=True
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no picture") if path.suffix == ".txt" else picture.save(path)
    found = hub.local(tmp_path)
    assert found.features["label"].names == ["cat", "dog"]
    assert found["label"] == [0, 0, 1]
    assert found[0]["image"].size == (30, 20)
    with pytest.raises(FileNotFoundError, match="subfolder a class"):
        hub.local(tmp_path / "cat")


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
