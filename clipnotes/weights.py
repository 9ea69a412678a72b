"""Files of weights: written whole or not at all, checked when they are read, refused in another toy world.

A file is safetensors. Its metadata hold its kind, shape (`config`), history (`card`), and a sha256 of everything.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clipnotes.files import PACKAGE, atomic_write, shared

DATA = PACKAGE / "data"


def stored(state: dict[str, Tensor], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A state dict as a file holds it: on the CPU, floats in `dtype` (fp16 is what ships), counters as is."""
    return {k: v.to("cpu", dtype if v.is_floating_point() else v.dtype) for k, v in state.items()}


def toy_world(detection: bool = False, sounds: bool = False) -> dict[str, str]:
    """What a card says of the toy world that a model was trained in; another one refuses the model.

    detection: of its pictures for detectors, too; sounds: of its sounds.
    """
    from clipnotes import toyworld  # here: a model without a toy world needs none

    about = {"toyworld_version": toyworld.VERSION, "generator_hash": toyworld.generator_hash()}
    about |= {"detection_hash": toyworld.detection_hash()} if detection else {}
    return about | ({"sounds_hash": toyworld.sounds_hash()} if sounds else {})


def write(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str]) -> None:
    """Write tensors and metadata as safetensors, whole or not at all."""
    atomic_write(path, save({name: value.contiguous() for name, value in tensors.items()}, metadata))


def save_weights(tensors: dict[str, Tensor], path: str | Path, kind: str, config: dict, card: dict) -> None:
    """Write tensors with their kind, shape and history. config, card: JSON values."""
    about = {"kind": kind, "config": json.dumps(config), "card": json.dumps(card)}
    write(tensors, path, about | {"sha256": _digest(tensors, about)})


def load_weights(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict, dict]:
    """-> tensors, config, card of a file of `save_weights`.

    path: a file, or the name of one that ships: "tiny", "03_groupvit/groupvit".
    FileNotFoundError where there is none, RuntimeError where it is damaged or of another toy world,
    ValueError where it holds another kind.
    """
    path = Path(path)
    ships = shared(f"recordings/{path}.safetensors") or DATA / f"{path}.safetensors"
    if not path.suffix and ships.is_file():
        path = ships
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    damaged = f"{path} is damaged: install the package again, or make the file again."
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        config, card = json.loads(metadata["config"]), json.loads(metadata["card"])
        whole = metadata["sha256"] == _digest(tensors, metadata)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RuntimeError(damaged) from error
    if not whole:
        raise RuntimeError(damaged)
    if metadata["kind"] != kind:
        raise ValueError(f"{path} does not hold weights of the kind {kind!r}, but {metadata['kind']!r}.")
    _check_world(path, card)
    return tensors, config, card


def shipped(kind: str) -> list[str]:
    """The names of the files of a kind that come with the package, as `load_weights` takes them."""
    recordings = shared("recordings")
    names = {path.stem: path for path in sorted(DATA.glob("*.safetensors"))}
    for path in sorted(recordings.glob("*/*.safetensors")) if recordings else []:
        names[f"{path.parent.name}/{path.stem}"] = path
    return [name for name, path in names.items() if _kind(path) == kind]


def _kind(path: Path) -> str | None:
    """What a file says that it holds; None where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("kind")
    except (SafetensorError, OSError):
        return None


def _digest(tensors: dict[str, Tensor], about: dict[str, str]) -> str:
    """sha256 over kind, configuration, card, and of each tensor name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps([about[key] for key in ("kind", "config", "card")]).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_world(path: Path, card: dict) -> None:
    """A model is judged on the world it was trained on: refuse it in another one."""
    if "toyworld_version" not in card:
        return
    for key, value in toy_world("detection_hash" in card, "sounds_hash" in card).items():
        if card.get(key, value) != value:
            raise RuntimeError(
                f"{path.name} was trained with {key} {card[key]}, but the toy world here has {value}: "
                "install the package again, or train the model again.")
