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

The sizes are what is fetched at the first call. Only `load` and `films` open a connection. cifar10, pets and nocaps are
fetched from the commits in `REVISIONS`; people, msrvtt and ucf101 from the one that was newest when this machine first
asked, and the archives of films must keep the sha256 they had then (see `clipnotes.pins`).
Of a reader's own folders and tables nothing is left out without a word, but names that begin with a dot, `__MACOSX` and
what file managers write (`Thumbs.db`, `desktop.ini`).
"""

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from clipnotes.folders import below, captions, classes, table, tell, unpacked
from clipnotes.pictures import open_picture, picture_fault, to_tensor
from clipnotes.pins import PinError, check_digest, pinned_commit
from clipnotes.video import decode, film_fault

__all__ = ["FILMS", "PHOTOS", "REVISIONS", "SETS", "decode", "films", "load", "local", "local_films", "meshes",
           "normalise", "photo", "spread", "to_tensor"]

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

# repository: the commit that is fetched, so that a set stays what it was. The others are pinned at first use (see
# `clipnotes.pins`).
REVISIONS = MappingProxyType({
    "uoft-cs/cifar10": "0b2714987fa478483af9968de7c934580d0bb9a2",
    "timm/oxford-iiit-pet": "10b688881011725fa2fa3d856a47536c9a7e6968",
    "lmms-lab/NoCaps": "a26b3fe1e0021164ec430c57c48085d58f2fe922",
})

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
        commit = REVISIONS.get(repository) or pinned_commit(repository, "dataset")
        dataset = load_dataset(repository, split=split, revision=commit)
    except PinError:
        raise
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

    Columns image and label, as `load`. Every file that Pillow can read is taken, whatever its ending; what is left out
    is named in a warning. Raises FileNotFoundError where there are no pictures.
    """
    advice = "Make a subfolder a class and put png, jpg or webp files there."
    names, files, labels = classes(Path(folder), "pictures", picture_fault, advice)
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageColumn

    features = Features(image=ImageColumn(), label=ClassLabel(names=names))
    return Dataset.from_dict({"image": files, "label": labels}, features=features)


def films(name: str, split: str = "test", limit: int | None = None) -> "Dataset":
    """Real films: column video (a file for `decode`), and caption (list of texts) or label (int).

    name: one of FILMS. Archives are fetched and unpacked once, beside where they are kept. limit: as in `load`.
    Raises ValueError for an unknown name, RuntimeError where the films cannot be fetched or unpacked, or are not those
    that were first fetched.
    """
    if name not in FILMS:
        raise ValueError(f"There are no films {name!r}. Write one of: {', '.join(FILMS)}.")
    from huggingface_hub import hf_hub_download

    repository, archives = FILMS[name]
    try:
        commit = REVISIONS.get(repository) or pinned_commit(repository, "dataset")
        fetched = [Path(hf_hub_download(repository, archive, repo_type="dataset", revision=commit))
                   for archive in archives]
    except PinError:
        raise
    except Exception as error:  # the libraries below raise a dozen kinds
        raise RuntimeError(
            f"The films {name!r} ({repository}) could not be fetched. Check the network, or stay in tiny mode, or "
            f"take your own films: hub.local_films(folder). ({type(error).__name__}: {error})"
        ) from error
    for archive in fetched:
        check_digest(archive, repository, commit)
    folder = unpacked(fetched)
    inner = [p for p in sorted(folder.rglob(split)) if p.is_dir()]  # UCF101 has a folder a split
    return spread(local_films(inner[0] if inner else folder), limit)


def local_films(folder: str | Path) -> "Dataset":
    """Films of your own, as `films` gives them.

    Either one subfolder a class (as UCF101 and Kinetics: columns video, label), or films anywhere below and a JSON
    file with "sentences", each {"video_id": the film's name without its ending, "caption": ...} (as MSR-VTT: columns
    video, video_id, caption). What is left out is named in a warning. Raises FileNotFoundError where there are no
    films, ValueError for a JSON file of another shape, ModuleNotFoundError without PyAV.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    folder = Path(folder)
    said: dict[str, list[str]] = {}
    files = list(below(folder))
    for path in (p for p in files if p.suffix.lower() == ".json"):
        for video_id, caption in captions(path):
            said.setdefault(video_id, []).append(caption)
    advice = ("Make a subfolder a class and put mp4 or avi files there, or add a JSON file with the captions: "
              '{"sentences": [{"video_id": ..., "caption": ...}]}.')
    if not said:
        names, files, labels = classes(folder, "films", film_fault, advice)
        features = Features(video=Value("string"), label=ClassLabel(names=names))
        return Dataset.from_dict(dict(video=files, label=labels), features=features)
    faults = {p: film_fault(p) or (None if p.stem in said else "no caption") for p in files}
    kept = [p for p in files if faults[p] is None]
    left = [f"{p.name}: {why}" for p, why in faults.items() if why and p.suffix.lower() != ".json"]
    left += [f"{name}: a caption without a film" for name in sorted(said.keys() - {p.stem for p in kept})]
    tell(folder, "films", len(kept), left, advice)
    rows = dict(video=[str(p) for p in kept], video_id=[p.stem for p in kept], caption=[said[p.stem] for p in kept])
    return Dataset.from_dict(rows)


def meshes(folder: str | Path, points: int = 1024, seed: int = 0) -> "Dataset":
    """Meshes of your own as clouds: columns points (P×3, in the unit ball, sampled by area), label, file.

    The folder holds .obj files, or others that trimesh reads (.off, .ply, .stl, .glb), and `meshes.csv` with the
    columns file and class, and, if there are repeats, a column same_geometry_as, which names other files, with ";"
    between them: of each shape only the first mesh is kept. The up axis is y. Raises FileNotFoundError without such a
    table or a file of it, ValueError, which names the file, for a table without these columns and a mesh that cannot be
    read or has no surface, ModuleNotFoundError without trimesh.
    """
    try:
        import trimesh  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Meshes are read with trimesh: run `pip install trimesh`, then try again.") from error
    from datasets import Array2D, ClassLabel, Dataset, Features, Value

    from clipnotes.meshes import cloud

    folder = Path(folder)
    if not (folder / "meshes.csv").is_file():
        raise FileNotFoundError(f"There is no meshes.csv in {folder}. It names the files: columns file and class.")
    rows = _distinct(table(folder / "meshes.csv", ("file", "class")))
    if missing := [row["file"] for row in rows if not (folder / row["file"]).is_file()]:
        raise FileNotFoundError(f"There is no file {missing[0]!r} in {folder}, but meshes.csv names it.")
    names = sorted({row["class"] for row in rows})
    columns = dict(points=np.stack([cloud(folder / row["file"], points, seed) for row in rows]),
                   label=[names.index(row["class"]) for row in rows], file=[row["file"] for row in rows])
    kinds = Features(points=Array2D((points, 3), "float32"), label=ClassLabel(names=names), file=Value("string"))
    return Dataset.from_dict(columns, features=kinds)


def _distinct(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of a table of meshes without those that repeat the geometry of a row before them."""
    kept: dict[str, dict[str, str]] = {}
    for row in rows:
        if kept.keys().isdisjoint(row.get("same_geometry_as", "").split(";")):
            kept[row["file"]] = row
    return list(kept.values())


def photo(name: str | Path, size: int = 224) -> Tensor:
    """One photograph as 1×3×size×size in [0, 1]: a name of PHOTOS, or the path of a file of your own.

    Raises FileNotFoundError for neither, ValueError for a file that is no picture.
    """
    path = Path(name)
    if str(name) in PHOTOS:
        import skimage.data

        path = Path(skimage.data.__file__).parent / PHOTOS[str(name)]
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(name)!r}. Give a path, or one of: {', '.join(PHOTOS)}.")
    return to_tensor(open_picture(path), size)[None]
