"""A reader's folders, tables and archives: read as a file manager shows them, and nothing left out without a word.

Not a reader's, hence skipped: names that begin with a dot, `__MACOSX`, and what file managers write for themselves.
"""

import csv
import io
import json
import os
import re
import shutil
import stat
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from clipnotes.files import lock

NOT_A_READERS = frozenset(("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"))
# Of an archive, unpacked: MSR-VTT's test films are 3,000 files of 2 GB.
MOST_FILES, MOST_BYTES = 20_000, 8 * 10**9


def visible(folder: Path) -> list[Path]:
    """What a reader sees in a folder, in order; nothing where there is no folder."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in entries if not p.name.startswith(".") and p.name.lower() not in NOT_A_READERS]


def below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The visible files of a folder and of all below it; a link back to a folder above is not followed."""
    above = (*above, folder.resolve())
    for path in visible(folder):
        if not path.is_dir():
            yield path
        elif path.resolve() not in above:
            yield from below(path, above)


def classes(folder: Path, kind: str, fault: Callable[[Path], str | None],
            advice: str) -> tuple[list[str], list[str], list[int]]:
    """The names of the subfolders that hold such files, the files, and the number of each one's class.

    kind: what they are, "pictures". fault: why a file is none, or None. Warns and raises as `tell`.
    """
    names, files, labels, left = [], [], [], []
    for entry in visible(folder):
        faults = {p: "a folder in a class" if p.is_dir() else fault(p) for p in visible(entry)}
        kept = [str(p) for p, why in faults.items() if why is None]
        left += [f"{entry.name}/{p.name}: {why}" for p, why in faults.items() if why is not None]
        if kept:
            files, labels = files + kept, labels + [len(names)] * len(kept)
            names.append(entry.name)
        else:
            left.append(f"{entry.name}: " + (f"a folder without {kind}" if entry.is_dir() else "not in a class"))
    tell(folder, kind, len(files), left, advice)
    return names, files, labels


def tell(folder: Path, kind: str, kept: int, left: list[str], advice: str) -> None:
    """Warn of what was left out, at the reader's line; FileNotFoundError where nothing is kept."""
    listed = "; ".join(left[:5]) + (f"; and {len(left) - 5} more" if len(left) > 5 else "")
    if not kept:
        raise FileNotFoundError(f"No {kind} in {folder}. {advice}" + (f" Left out: {listed}." if left else ""))
    if left:
        warnings.warn(f"{folder}: {kept} {kind}; left out {len(left)}: {listed}.", stacklevel=4)


def read_text(path: Path) -> str:
    """A reader's text, with or without a byte order mark: UTF-8, or UTF-16 with its mark, as Excel writes them.

    Raises ValueError, which names the file, for another code page.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is in another code page: save it as UTF-8.") from error
    if "\0" in text:
        raise ValueError(f"{path} is no text in UTF-8: save it as UTF-8.")
    return text


def table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table whose first line names its columns; commas, semicolons or tabs are between them.

    Raises ValueError, which names the file, where one of `columns`, or its value in a row, is missing.
    """
    text = re.sub(r"\Asep=.\r?\n", "", read_text(path))  # a line that Excel writes for itself
    between = max(",;\t", key=text.partition("\n")[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), delimiter=between)]
    rows = [row for row in rows if any(row)]
    head = [name.lower() for name in rows[0]] if rows else []
    if len(rows) < 2 or not set(columns) <= set(head):
        raise ValueError(f"{path} needs the columns {' and '.join(columns)}, and at least one row.")
    for row in rows[1:]:
        filled = {name for name, cell in zip(head, row, strict=False) if cell}
        if any(row[len(head) :]) or not set(columns) <= filled:
            raise ValueError(f"{path}: the row {between.join(row)!r} does not fit the columns {', '.join(head)}.")
    return [dict(zip(head, row + [""] * len(head), strict=False)) for row in rows[1:]]


def captions(path: Path) -> list[tuple[str, str]]:
    """The pairs (film, caption) of a JSON file as MSR-VTT has it. ValueError, which names the file, for another."""
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    rows = found.get("sentences") if isinstance(found, dict) else None
    pairs = [(row.get("video_id"), row.get("caption")) if isinstance(row, dict) else (None,) for row in rows or [0]]
    if not isinstance(rows, list) or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise ValueError(f'{path} is not of the form {{"sentences": [{{"video_id": "...", "caption": "..."}}]}}: '
                         "change it, or put it elsewhere.")
    return pairs


def unpacked(archives: list[Path]) -> Path:
    """The folder that holds the archives' files, made under a temporary name, then renamed: never half of it.

    Raises RuntimeError, which names it, for an archive that is damaged or would harm (see `check_archive`).
    """
    folder = archives[0].parent / f"{archives[0].name}.files"
    with lock(folder, seconds=3600):
        if not folder.is_dir():
            temporary = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(temporary, ignore_errors=True)  # of a run that was interrupted
            try:
                for archive in archives:
                    _unpack(archive, temporary)
                os.replace(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    try:
        check_archive(archive)
        safely = {} if zipfile.is_zipfile(archive) else {"filter": "data"}
        shutil.unpack_archive(archive, folder, **safely)
    except (OSError, ValueError, RuntimeError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        why = [*str(error).split("\n"), type(error).__name__][0].rstrip(":")
        raise RuntimeError(f"{archive} could not be unpacked ({why}): delete it, and try again.") from error


def check_archive(path: Path) -> None:
    """ValueError for an archive that would write elsewhere, holds links, or would fill the disk."""
    size = 0
    for number, (name, length, plain) in enumerate(_members(path), 1):
        size += length
        if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise ValueError(f"it would write outside of its folder: {name}")
        if not plain:
            raise ValueError(f"{name} is neither a file nor a folder")
        if number > MOST_FILES or size > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_FILES} files or {MOST_BYTES / 1e9:g} GB")


def _members(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Name, unpacked size, and whether it is a plain file or folder, of each entry of an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                yield entry.filename, entry.file_size, not stat.S_ISLNK(entry.external_attr >> 16)
    else:
        with tarfile.open(path) as archive:
            for entry in archive:
                yield entry.name, entry.size, entry.isfile() or entry.isdir()
