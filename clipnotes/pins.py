"""Downloads that stay what they were: what the code does not pin is pinned on this machine, at first use.

`clip.PINNED` and `hub.REVISIONS` name commits, and of weights the sha256. A repository of Hugging Face that has none
there gets one when it is first fetched: its newest commit, and of each single file the sha256, are kept in `PINS`.
The first download is trusted; all later ones must equal it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from clipnotes.files import atomic_write, digest, lock

PINS = Path("~/.cache/clipnotes/pins.json")  # what is pinned -> commit or sha256


class PinError(RuntimeError):
    """A download is not what was pinned, or the pins cannot be read."""


def pinned_commit(repository: str, kind: str = "model") -> str:
    """The whole hash of the commit of a repository that this machine fetches. kind: "model" or "dataset".

    Raises PinError for a damaged file of pins, at first use also whatever huggingface_hub raises without a network.
    """
    from huggingface_hub import HfApi

    return _pinned(f"{kind}s/{repository}", lambda: HfApi().repo_info(repository, repo_type=kind).sha)


def check_digest(path: str | Path, repository: str, commit: str, sha256: str | None = None) -> None:
    """Refuse a fetched file that is not as published (sha256) or, without one, as when that commit was first fetched.

    Raises PinError, which says what to do.
    """
    path, found = Path(path), digest(path)
    if found == (sha256 or _pinned(f"{repository}@{commit}/{path.name}", lambda: found)):
        return
    known = "was published" if sha256 else "was first fetched"
    again = "" if sha256 else f" Should it differ again, the first was wrong: delete its entry in {PINS.expanduser()}."
    raise PinError(f"{path.name} of {repository} is not what {known} (its sha256 differs): delete {path.resolve()}, "
                   f"and fetch it again.{again}")  # resolved: the hub's cache shows links to what it keeps


def _pinned(name: str, find: Callable[[], str]) -> str:
    """What is pinned under a name; at first use what `find` gives."""
    path = PINS.expanduser()
    with lock(path):
        pins = _read(path)
        if name not in pins:
            pins[name] = find()
            atomic_write(path, json.dumps(pins, indent=1, sort_keys=True) + "\n")
            print(f"{name} is pinned from now on, in {path}: {pins[name]}")
        return pins[name]


def _read(path: Path) -> dict[str, str]:
    try:
        pins = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if all(re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", pin) for pin in pins.values()):
            return pins
    except (ValueError, AttributeError, TypeError):  # no JSON, no table, no texts
        pass
    raise PinError(f"{path} is damaged: delete it, and what it pinned is pinned anew when it is next fetched.")
