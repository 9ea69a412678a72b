"""Real pictures: data sets by name through `datasets`, free photographs, and the reader's own files.

| name | data set | what | licence |
|---|---|---|---|
| "cifar10" | uoft-cs/cifar10 | 10 classes, 32×32, test 10,000 (144 MB) | not stated by its authors |
| "pets" | timm/oxford-iiit-pet | 37 breeds of cats and dogs, test 3,669 (0.8 GB) | CC BY-SA 4.0 |
| "nocaps" | lmms-lab/NoCaps | ten captions a photo, validation 4,500 (1.4 GB) | photos CC BY 2.0 |
| "people" | mattmdjaga/human_parsing_dataset | masks of 18 parts, train 17,706 (0.8 GB) | not stated by its authors |

| name | films | what | licence |
|---|---|---|---|
| "msrvtt" | AlexZigma/msr-vtt | 2,990 films with 20 captions each, split test (2 GB) | not stated there |
| "ucf101" | sayakpaul/ucf101-subset | 10 actions, split test 75 or so (0.2 GB) | not stated there |

The sizes are what is fetched at the first call. Only `load` and `films` open a connection.
"""

import json
import os
import shutil
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipnotes.pictures import to_tensor
from clipnotes.video import decode

__all__ = ["FILMS", "PHOTOS", "SETS", "decode", "films", "load", "local", "local_films", "meshes", "normalise", "photo",
           "spread", "to_tensor"]

if TYPE_CHECKING:
    from datasets import Dataset

# name: repository, and the columns that become image, label, caption, mask
SETS = MappingProxyType({
    "cifar10": ("uoft-cs/cifar10", {"img": "image", "label": "label"}),
    "pets": ("timm/oxford-iiit-pet", {"image": "image", "label": "label"}),
    "nocaps": ("lmms-lab/NoCaps", {"image": "image", "annotations_captions": "caption"}),
    "people": ("mattmdjaga/human_parsing_dataset", {"image": "image", "mask": "mask"}),
})

# name: repository, archives in it
FILMS = MappingProxyType({
    "msrvtt": ("AlexZigma/msr-vtt", ("data/test_videos.zip", "data/test_videodatainfo.json.zip")),
    "ucf101": ("sayakpaul/ucf101-subset", ("UCF101_subset.tar.gz",)),
})
_FILM_ENDINGS = {".mp4", ".avi", ".webm", ".mkv", ".mov"}

# Files inside scikit-image's wheel whose documentation says CC0 or public domain.
PHOTOS = MappingProxyType({
    "cat": "chelsea.png",  # CC0, Stefan van der Walt
    "coffee": "coffee.png",  # CC0, Rachel Michetti
    "astronaut": "astronaut.png",  # public domain, NASA
    "rocket": "rocket.jpg",  # public domain, SpaceX
    "galaxies": "hubble_deep_field.jpg",  # public domain, NASA
})


def normalise(dataset: "Dataset", columns: dict[str, str]) -> "Dataset":
    """Keep the named columns only, under the names image, label, caption and mask.

    The names of the classes are `dataset.features["label"].names`.
    Raises ValueError where a column is missing.
    """
    if missing := [c for c in columns if c not in dataset.column_names]:
        raise ValueError(
            f"The data set has no column {missing[0]!r}, only {', '.join(dataset.column_names)}."
        )
    dataset = dataset.select_columns(list(columns))
    return dataset.rename_columns({old: new for old, new in columns.items() if old != new})


def load(name: str, split: str = "test", limit: int | None = None) -> "Dataset":
    """A real data set with columns image (PIL), and label (int), caption (list of texts) or mask (PIL).

    name: one of SETS. limit: at most so many pictures, evenly spread over the split, so that every class
    occurs. Raises ValueError for an unknown name, RuntimeError where the data set cannot be fetched.
    """
    if name not in SETS:
        raise ValueError(f"There is no data set {name!r}. Write one of: {', '.join(SETS)}.")
    from datasets import load_dataset

    repository, columns = SETS[name]
    try:
        dataset = load_dataset(repository, split=split)
    except Exception as error:  # the libraries below raise a dozen kinds
        raise RuntimeError(
            f"The data set {name!r} ({repository}, {split}) could not be fetched. Check the network, or stay "
            f"in tiny mode, or take your own pictures: hub.local(folder). ({type(error).__name__}: {error})"
        ) from error
    return normalise(spread(dataset, limit), columns)


def spread(dataset: "Dataset", limit: int | None) -> "Dataset":
    """At most `limit` rows, evenly spread over the whole; all rows for None."""
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.select(np.linspace(0, len(dataset) - 1, limit).round().astype(int).tolist())


def local(folder: str | Path) -> "Dataset":
    """Pictures of your own as a data set: one subfolder a class, its name the class name.

    Columns image and label, as `load`. Raises FileNotFoundError where there are none.
    """
    folder = Path(folder)
    names = sorted(p.name for p in folder.glob("*") if p.is_dir())
    files = _labelled(folder, names, {".png", ".jpg", ".jpeg", ".webp"})
    if not files:
        raise FileNotFoundError(
            f"No pictures in {folder}. Make a subfolder a class and put png, jpg or webp files there."
        )
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageColumn

    features = Features(image=ImageColumn(), label=ClassLabel(names=names))
    return Dataset.from_dict(
        {"image": [f for f, _ in files], "label": [i for _, i in files]}, features=features
    )


def _labelled(folder: Path, names: list[str], endings: set[str]) -> list[tuple[str, int]]:
    """The files of each class's subfolder with the class's number."""
    found = ((p, i) for i, name in enumerate(names) for p in sorted((folder / name).iterdir()))
    return [(str(p), i) for p, i in found if p.suffix.lower() in endings]


def films(name: str, split: str = "test", limit: int | None = None) -> "Dataset":
    """Real films: column video (a file for `decode`), and caption (list of texts) or label (int).

    name: one of FILMS. Archives are fetched and unpacked once, beside where they are kept. limit: as in `load`.
    Raises ValueError for an unknown name, RuntimeError where the films cannot be fetched.
    """
    if name not in FILMS:
        raise ValueError(f"There are no films {name!r}. Write one of: {', '.join(FILMS)}.")
    from huggingface_hub import hf_hub_download

    repository, archives = FILMS[name]
    try:
        fetched = [Path(hf_hub_download(repository, a, repo_type="dataset")) for a in archives]
    except Exception as error:  # the libraries below raise a dozen kinds
        raise RuntimeError(
            f"The films {name!r} ({repository}) could not be fetched. Check the network, or stay in tiny mode, or "
            f"take your own films: hub.local_films(folder). ({type(error).__name__}: {error})"
        ) from error
    folder = _unpacked(fetched)
    inner = [p for p in sorted(folder.rglob(split)) if p.is_dir()]  # UCF101 has a folder a split
    return spread(local_films(inner[0] if inner else folder), limit)


def _unpacked(archives: list[Path]) -> Path:
    """The folder that holds the archives' files, made under a temporary name, then renamed: never half of it."""
    folder = archives[0].parent / f"{archives[0].name}.files"
    if not folder.is_dir():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            for archive in archives:
                safely = {} if archive.suffix == ".zip" else {"filter": "data"}
                shutil.unpack_archive(archive, temporary, **safely)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def local_films(folder: str | Path) -> "Dataset":
    """Films of your own, as `films` gives them.

    Either one subfolder a class (as UCF101 and Kinetics: columns video, label), or films anywhere below and a JSON
    file with "sentences", each {"video_id": the film's name without its ending, "caption": ...} (as MSR-VTT: columns
    video, video_id, caption). Raises FileNotFoundError where there are no films.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    folder = Path(folder)
    said: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.json")):
        for sentence in json.loads(path.read_text("utf-8")).get("sentences", []):
            said.setdefault(sentence["video_id"], []).append(sentence["caption"])
    if said:
        videos = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in _FILM_ENDINGS and p.stem in said]
        rows = dict(video=[str(p) for p in videos], video_id=[p.stem for p in videos],
                    caption=[said[p.stem] for p in videos])
        features = None
    else:
        names = sorted(p.name for p in folder.glob("*") if p.is_dir())
        files = _labelled(folder, names, _FILM_ENDINGS)
        rows = dict(video=[f for f, _ in files], label=[i for _, i in files])
        features = Features(video=Value("string"), label=ClassLabel(names=names))
    if not rows["video"]:
        raise FileNotFoundError(
            f"No films in {folder}. Make a subfolder a class and put mp4 or avi files there, or add a JSON file with "
            'the captions: {"sentences": [{"video_id": ..., "caption": ...}]}.'
        )
    return Dataset.from_dict(rows, features=features)


def meshes(folder: str | Path, points: int = 1024, seed: int = 0) -> "Dataset":
    """Meshes of your own as clouds: columns points (P×3, in the unit ball, sampled by area), label, file.

    The folder holds .obj files and `meshes.csv` with the columns file and class, and, if there are repeats, a column
    same_geometry_as, which names other files, with ";" between them: of each shape only the first mesh is kept. The up
    axis is y. Raises FileNotFoundError without such a table or a file of it, ValueError for columns that are missing or
    a mesh without a surface, ModuleNotFoundError without trimesh.
    """
    import csv

    from clipnotes.toyworld.solids import as_dataset, unit_ball

    try:
        import trimesh
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Meshes are read with trimesh: run `pip install trimesh`, then try again.") from error
    folder = Path(folder)
    if not (folder / "meshes.csv").is_file():
        raise FileNotFoundError(f"There is no meshes.csv in {folder}. It names the files: columns file and class.")
    with open(folder / "meshes.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    if not rows or not {"file", "class"} <= set(rows[0]):
        raise ValueError(f"{folder / 'meshes.csv'} needs the columns file and class, and at least one row.")
    rows = _distinct(rows)
    names, found = sorted({row["class"] for row in rows}), []
    for row in rows:
        if not (folder / row["file"]).is_file():
            raise FileNotFoundError(f"There is no file {row['file']!r} in {folder}, but meshes.csv names it.")
        mesh = trimesh.load(folder / row["file"], force="mesh", skip_materials=True)
        if not len(getattr(mesh, "faces", ())) or not mesh.area > 0:
            raise ValueError(f"{row['file']!r} has no surface to sample points from.")
        found.append(torch.from_numpy(np.array(trimesh.sample.sample_surface(mesh, points, seed=seed)[0])).float())
    labels = torch.tensor([names.index(row["class"]) for row in rows])
    data = as_dataset(dict(points=unit_ball(torch.stack(found)), labels=labels, names=names))
    return data.add_column("file", [row["file"] for row in rows])


def _distinct(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of a table of meshes without those that repeat the geometry of a row before them."""
    kept: dict[str, dict[str, str]] = {}
    for row in rows:
        if kept.keys().isdisjoint((row.get("same_geometry_as") or "").split(";")):
            kept[row["file"]] = row
    return list(kept.values())


def photo(name: str | Path, size: int = 224) -> Tensor:
    """One photograph as 1×3×size×size in [0, 1]: a name of PHOTOS, or the path of a file of your own.

    Raises FileNotFoundError for neither, ValueError for a file that is no picture.
    """
    if str(name) in PHOTOS:
        import skimage.data

        path = Path(skimage.data.__file__).parent / PHOTOS[str(name)]
    else:
        path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {str(name)!r}. Give a path, or one of: {', '.join(PHOTOS)}."
        )
    try:
        with Image.open(path) as picture:
            return to_tensor(picture, size)[None]
    except OSError as error:
        raise ValueError(
            f"{str(name)!r} is not a picture that can be read. Give a png, jpg or webp file."
        ) from error
