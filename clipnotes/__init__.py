"""CLIP Notes: the small helper library of the course.

`import clipnotes` does two things: it repairs a torchvision that cannot be imported beside a CPU-only torch
(import clipnotes before open_clip), and it offers `start`, the first line of every chapter.
Everything else is imported by name: `from clipnotes import clip, toyworld, draw, metrics`.
No connection is opened at import.
"""

import os
import random
import re
import sys
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

__version__ = "0.1.0"
__all__ = ["Session", "start"]

_MODES = MappingProxyType({"tiny": "toy world, tiny CLIP, offline", "full": "the real CLIP, real data"})


def _repair_torchvision() -> torch.library.Library | None:
    """Make `import torchvision` work beside a torch that was built without its operators.

    torchvision from PyPI registers a fake kernel for `torchvision::nms`. Beside a CPU-only torch its compiled
    library does not load, the operator does not exist, and the import stops. Declaring the two operators is
    enough to import it; `torchvision.ops.nms` still has no kernel then.
    Returns the library object that holds the declarations, or None where nothing was broken.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return None
    except RuntimeError as error:
        if "nms" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[name]
    import torchvision  # noqa: F401

    return library


_torchvision_library = _repair_torchvision()  # kept alive: the declarations end with this object


def __getattr__(name: str) -> object:
    """`from clipnotes import films` still works, as before the toy world was a package; it imports nothing earlier."""
    if name == "films":
        from clipnotes.toyworld import films

        return films
    raise AttributeError(f"module 'clipnotes' has no attribute {name!r}")


@dataclass(frozen=True)
class Session:
    """What a chapter needs to know about this run: its name, the mode, the device and the seed."""

    chapter: str
    mode: str
    device: str
    seed: int


def start(chapter: str, mode: str | None = None) -> Session:
    """Begin a chapter: seed everything, pick the device, set the plotting style, print one line.

    chapter: a chapter's file name without its ending, such as "01_clip".
    mode: "tiny" (default) or "full"; the environment variable CLIPNOTES_MODE overrides it.
    The seed is CLIPNOTES_SEED, or 0. Raises ValueError for an unknown chapter, mode or seed.
    """
    mode = os.environ.get("CLIPNOTES_MODE") or mode or "tiny"
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", chapter):
        raise ValueError(f"{chapter!r} is no chapter. Write its file's name without the ending, as in '01_clip'.")
    if mode not in _MODES:
        raise ValueError(f"There is no mode {mode!r}. Write one of: {', '.join(_MODES)}.")
    seed_text = os.environ.get("CLIPNOTES_SEED") or "0"
    if not seed_text.isdigit():
        raise ValueError(f"CLIPNOTES_SEED is {seed_text!r}. Set it to a whole number, 0 or more.")
    seed = int(seed_text)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    from clipnotes import draw  # here, so that `import clipnotes` does not pay for matplotlib

    draw.style()
    line = f"clipnotes {__version__} · {chapter} · {device} · {mode} mode ({_MODES[mode]}) · seed {seed}"
    if device == "cuda" and mode == "tiny":
        line += f' · a GPU is here: for the real CLIP run start("{chapter}", mode="full")'
    print(line)
    return Session(chapter, mode, device, seed)
