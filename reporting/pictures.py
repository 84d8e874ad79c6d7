"""Pictures of an evaluation's frames as files."""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image

from anybev.datasets.infos import Progress, silent
from anybev.files import whole_file
from anybev.reporting.figures import bev_figure, camera_figure, png
from anybev.reporting.frames import open_frames
from anybev.reporting.scene import SCORE_THRESHOLD

_QUALITY = 90


def write_pictures(
    evaluation_dir: Path,
    out: Path,
    *,
    score_threshold: float = SCORE_THRESHOLD,
    limit: int = 20,
    progress: Progress = silent,
) -> tuple[list[Path], list[str]]:
    """Draw frames from above (``.png``) and in their cameras (``.jpg``).

    Args:
        evaluation_dir: folder with ``source.json`` and ``predictions.npz``.
        out: folder to write to; made when missing.
        score_threshold: predictions below it are left out.
        limit: at most so many frames, spread evenly over the evaluation; 0 for all.
        progress: shows how far it is.

    Returns:
        The files, and what is missing in words.

    Raises:
        FramesError: the frames cannot be found again.
        ValueError: an option is out of its range.
    """
    if limit < 0:
        raise ValueError(f"pictures: limit must be 0 or more, got {limit}")
    frames = open_frames(evaluation_dir)
    tokens = frames.tokens
    count = min(limit, len(tokens)) if limit else len(tokens)
    wanted = [index * len(tokens) // count for index in range(count)]
    written: list[Path] = []
    missing = list(frames.notes)
    with progress("pictures") as update:
        for done, index in enumerate(wanted, 1):
            scene, notes = frames.scene(tokens[index])
            missing += [f"frame {scene.token}: {note}" for note in notes]
            stem = f"{index:05d}_{re.sub(r'[^A-Za-z0-9_-]', '_', scene.token)[:80]}"
            above = png(bev_figure(scene, score_threshold=score_threshold))
            written.append(_write(out / f"{stem}_bev.png", above))
            if scene.cameras:
                around = png(camera_figure(scene, score_threshold=score_threshold))
                written.append(_write(out / f"{stem}_cameras.jpg", _jpeg(around)))
            update(done, count)
    return written, missing


def _write(path: Path, content: bytes) -> Path:
    with whole_file(path) as stream:
        stream.write(content)
    return path


def _jpeg(content: bytes) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").save(stream, "jpeg", quality=_QUALITY)
    return stream.getvalue()
