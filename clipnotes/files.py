"""Files of the course: found in a checkout and in an installed package alike, written whole or not at all.

Every writer goes through `atomic_write`; who reads, changes and writes a file holds its `lock`.
"""

import contextlib
import hashlib
import os
import platform
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

PACKAGE = Path(__file__).resolve().parent
ABANDONED = 600.0  # seconds without a change, after which a temporary file has no writer


def shared(name: str) -> Path | None:
    """A file or folder that travels beside the library: chapters/09_actionclip.toml, recordings/tiny, golden.

    A wheel holds these folders inside the package; a checkout beside it (golden/ under tests/).
    Returns the first that exists, or None.
    """
    for root in (PACKAGE, PACKAGE.parent, PACKAGE.parent / "tests"):
        if (root / name).exists():
            return root / name
    return None


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all: under a temporary name of its own, flushed to the disk, then renamed.

    Text is written as UTF-8 with "\\n". A link is followed. What an interrupted writer of the same file left
    behind is removed.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    temporary = path.with_name(f".{path.name}.{_owner()}-{uuid.uuid4().hex[:8]}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(path: str | Path) -> None:
    """Remove temporary files of `path` whose writers are gone."""
    path = Path(path)
    for found in path.parent.iterdir():
        if found.name.startswith(f".{path.name}.") and found.name.endswith(".tmp") and _abandoned(found):
            found.unlink(missing_ok=True)


def _owner() -> str:
    """This process, among those of all machines that share a disk."""
    return f"{platform.node()}-{os.getpid()}"


def _abandoned(temporary: Path) -> bool:
    """Has its writer ended, on this machine, or been silent so long that it has on another?"""
    host, _, pid = temporary.name.rsplit("-", 1)[0].rpartition("-")
    if os.name == "posix" and host.endswith(f".{platform.node()}") and pid.isdigit():
        return not _alive(int(pid))
    try:
        return time.time() - temporary.stat().st_mtime > ABANDONED
    except FileNotFoundError:  # it has just been renamed
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs under another user
        return True
    return True


def digest(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def lock(path: str | Path, seconds: float = 60.0) -> Iterator[None]:
    """Hold a file against other processes while it is read, changed and written.

    The system frees it when its owner ends, however it ends. A process that holds it must not ask again.
    Raises TimeoutError where it is held longer than `seconds`.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=seconds):
            yield
    except Timeout as error:
        raise TimeoutError(f"{path.name} is held by another process: wait for it, or end it.") from error
