"""Files of the course: found in a checkout and in an installed package alike, written whole or not at all.

Every writer of the project goes through `atomic_write`; who reads, changes and writes a file holds its `lock`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

PACKAGE = Path(__file__).resolve().parent


def shared(name: str) -> Path | None:
    """A file that travels beside the library: chapters/09_actionclip.toml, recordings/09_actionclip/runs.json, golden/x.

    A wheel holds these folders inside the package; a checkout beside it (golden/ under tests/).
    Returns the first that exists, or None.
    """
    for root in (PACKAGE, PACKAGE.parent, PACKAGE.parent / "tests"):
        if (root / name).exists():
            return root / name
    return None


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all: under a temporary name of this process, flushed to the disk, then renamed.

    Text is written as UTF-8 with "\\n". What an interrupted writer of the same file left behind is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove temporary files of `path` whose writers are gone."""
    for orphan in path.parent.glob(f".{path.name}.*.tmp"):
        owner = orphan.name.split(".")[-2]
        if owner.isdigit() and not _alive(int(owner)):
            orphan.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs under another user
        return True
    return True


@contextlib.contextmanager
def lock(path: str | Path, seconds: float = 60.0) -> Iterator[None]:
    """Hold a file against other processes while it is read, changed and written.

    The system frees it when its owner ends, however it ends. Raises TimeoutError where it is held longer than `seconds`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=seconds):
            yield
    except Timeout as error:
        raise TimeoutError(f"{path.name} is held by another process: wait for it, or end it.") from error
