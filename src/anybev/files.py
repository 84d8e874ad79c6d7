"""Files that a reader sees whole: the old one or the new one, never half of one."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_PARTIAL = ".part"


def _sync_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk: a renamed file is lost with them otherwise."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name only when the block ends without an error.

    Args:
        path: file to write; its folder is made when missing.
        durable: wait until content and name are on the disk, for what a crash of the machine must
            not lose.

    Yields:
        A binary stream to a file beside ``path``; an error in the block removes it, and an older
        file of that name stays. What a killed process leaves is ``remove_stale_parts``'s.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name a process: two writers must not share a half-written file.
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        with partial.open("wb") as stream:
            # Held as long as the writer lives; file systems without locks do without.
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(partial, path)
        if durable:
            _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_stale_parts(folder: Path) -> list[Path]:
    """Remove half-written files of processes that are gone.

    Args:
        folder: where ``whole_file`` wrote; it may be missing.

    Returns:
        The removed files; one that a living process still writes stays.
    """
    removed = []
    for partial in sorted(folder.glob(f".*{_PARTIAL}")):
        with contextlib.suppress(FileNotFoundError), partial.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            partial.unlink()
            removed.append(partial)
    return removed


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write strict JSON, whole.

    Args:
        path: file to write; its folder is made when missing.
        content: dicts with text as keys, lists, text, finite numbers.
        indent: spaces a level; None keeps everything on one line.

    Raises:
        ValueError: a number is NaN or infinite; the old file stays.
        TypeError: something has no counterpart in JSON; the old file stays.
    """
    text = json.dumps(content, indent=indent, allow_nan=False)
    with whole_file(path) as stream:
        stream.write(text.encode() + (b"" if indent is None else b"\n"))


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file in one write, and wait until it is on the disk.

    Processes that append to one file at the same time keep their lines apart (on a local disk; NFS
    does not promise it). Where the file ends in half a line, that one is ended first.

    Args:
        path: file to extend; it and its folder are made when missing.
        line: without a line break.

    Raises:
        ValueError: there is a line break in it.
        OSError: not all of it could be written.
    """
    if "\n" in line:
        raise ValueError(f"{path.name}: line must have no line break, got {line!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        content = ("\n" if torn else "").encode() + line.encode() + b"\n"
        written = os.write(descriptor, content)
        if written < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def named_in(pointer: Path) -> tuple[Path, Path | None]:
    """What a file that holds a path says, and where that is: there, or beside the pointer.

    The folder of both may have been moved. None: in neither place.

    Args:
        pointer: the file, such as ``last_checkpoint``.
    """
    named = Path(pointer.read_text(encoding="utf-8", errors="replace").strip())
    places = (place for place in (named, pointer.parent / named.name) if named.name)
    return named, next((place for place in places if place.is_file()), None)
