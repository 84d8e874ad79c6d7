"""Files that a reader sees whole: the old one or the new one, never half of one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name only when the block ends without an error.

    Args:
        path: file to write; its folder is made when missing.
        durable: wait until the content is on the disk, for what a crash of the machine must not
            lose.

    Yields:
        A binary stream to a file beside ``path``; an error in the block removes it, and an older
        file of that name stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name a process: two writers must not share a half-written file.
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
