"""A state dict out of a file that somebody calls weights; what is none is named as what it is. No code of it is run.

Our own files are read by `clipnotes.weights`; here are those that readers download: safetensors, PyTorch's, OpenAI's
TorchScript archives, checkpoints of training programs.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training programs keep the weights in a checkpoint
OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # numbers in OpenAI's archives, no weights

# How a file begins: what it is, and what to do.
KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file"),
    (rb"(?i)\s*<", "a web page, perhaps of a login or an error: download the file in a browser"),
    (rb"\s*[\[{]", "text (JSON), perhaps an index or an error: give the file of tensors itself"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes: give a PyTorch or safetensors file"),
    (rb"GGUF", "a GGUF file: give a PyTorch or safetensors file"),
    (rb"\x93NUMPY", "a NumPy array: give a PyTorch or safetensors file"),
    (rb"(?s)\x1f\x8b|BZh|7z\xbc\xaf|Rar!|\xfd7zXZ|.{257}ustar",
     "a compressed archive: unpack it, and give the file of weights in it"),
    (rb"[\t\n\r -~]*\Z", "text: give the file of weights itself"),
)
NOT_WEIGHTS = "neither safetensors nor a PyTorch file, or damaged: download it again"
PICKLE = "a pickle of Python objects, which only running its code would read: give a file with the state dict alone"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by their names, without what training programs and wrappers put before them.

    Raises FileNotFoundError, IsADirectoryError, or RuntimeError, which says what the file is instead and what to do.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the file of weights in it.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    tensors = _plain(_read(path))
    if not tensors:
        raise RuntimeError(f"{path} holds no tensors: give a file with a state dict.")
    return {name: value for name, value in tensors.items() if name not in OPENAI_EXTRAS}


def fit(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load tensors strictly. Raises RuntimeError, which names the file and at most three names of each difference."""
    own = model.state_dict()
    differences = {
        "missing": own.keys() - tensors.keys(), "unknown": tensors.keys() - own.keys(),
        "of another shape": {k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape}}
    said = [f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in differences.items() if names]
    if said:
        hint = " It is a CLIP of transformers: give OpenAI's or open_clip's file." if any(
            name.startswith("vision_model.") for name in tensors) else ""
        raise RuntimeError(f"{path} does not fit this model; tensors: {'; '.join(said)}.{hint}")
    model.load_state_dict(tensors)


def _read(path: Path) -> Any:
    """What the file holds, read by its content, whatever its ending."""
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise RuntimeError(f"{path} is empty: download it again.")
    if head[4:9] == b"\0\0\0\0{":  # after the length of the header, eight bytes
        try:
            return load_file(path)
        except SafetensorError:
            raise RuntimeError(f"{path} is a safetensors file that is cut off or damaged: download it again.") from None
    for begin, kind in KINDS:
        if re.match(begin, head):
            raise RuntimeError(f"{path} is {kind}.")
    names = _entries(path) if head.startswith(b"PK") else []
    if any("/code/" in name for name in names):
        return _torchscript(path, names)
    if names and not any(name.endswith("data.pkl") for name in names):
        raise RuntimeError(f"{path} is a zip archive without weights: unpack it, and give the file of weights in it.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its own words advise to run the file's code
        found = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
        kind = PICKLE.replace("objects", f"objects ({found[1]})") if found else PICKLE
        raise RuntimeError(f"{path} is {kind if found or head[0] == 0x80 else NOT_WEIGHTS}.") from None
    except Exception:  # readers of broken files raise a dozen kinds, some with advice as above
        raise RuntimeError(f"{path} is {NOT_WEIGHTS}.") from None


def _entries(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        raise RuntimeError(f"{path} is a PyTorch or zip file that is cut off: download it again.") from None


def _plain(found: Any) -> dict[str, Tensor]:
    """The tensors of what a file holds, without the names of the wrappers around the model."""
    while isinstance(found, Mapping) and (inner := [found[k] for k in WRAPPERS if isinstance(found.get(k), Mapping)]):
        found = inner[0]
    pairs = found.items() if isinstance(found, Mapping) else ()
    tensors = {str(name).replace("_orig_mod.", ""): value for name, value in pairs if isinstance(value, Tensor)}
    for prefix in ("module.", "model."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


# ---------------------------------------------------------------- TorchScript


DTYPES = {"Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64,
          "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
          "Bool": torch.bool}


class _Module:
    """Stands for any module of an archive: its attributes, none of its code."""


class _Unpickler(pickle.Unpickler):
    """Reads an archive's table of attributes: builds modules without code, lists and tensors, and nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(file)
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if module == "torch" and name.removesuffix("Storage") in DTYPES:
            return DTYPES[name.removesuffix("Storage")]
        if module == "torch.jit._pickle":
            return list
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, saved: tuple) -> Tensor:
        _, dtype, key, *_ = saved
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}data/{key}")), dtype=dtype)


def _torchscript(path: Path, names: list[str]) -> dict[str, Tensor]:
    """The tensors of an archive of torch.jit: its code is not even compiled."""
    root = next(name for name in names if "/code/" in name).split("code/")[0]
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{root}data.pkl") as file:
            found = _tensors(_Unpickler(file, archive, root).load(), "")
    except Exception:  # of a broken archive, or of one that holds more than modules and tensors
        raise RuntimeError(f"{path} is a TorchScript archive that cannot be read: give a file with the state dict, or "
                           "the model's safetensors file.") from None
    return {name: value for name, value in found.items() if not name.endswith("attn_mask")}


def _tensors(module: Any, prefix: str) -> dict[str, Tensor]:
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, _Module):
            found |= _tensors(value, f"{prefix}{name}.")
    return found
