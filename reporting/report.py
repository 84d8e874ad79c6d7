"""One self-contained page about one or several runs."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, features

import anybev
from anybev.datasets.infos import Progress, silent
from anybev.files import whole_file
from anybev.reporting import curves, sections
from anybev.reporting.figures import bev_figure, camera_figure, png
from anybev.reporting.frame_scores import Assessment, FrameScore, assess
from anybev.reporting.frames import Frames, FramesError, open_frames
from anybev.reporting.html import Html, page, picture, section, tag
from anybev.reporting.run import Run
from anybev.reporting.scene import SCORE_THRESHOLD, Scene

_QUALITY = 82
_BEV_DPI = 90


@dataclass(frozen=True)
class Options:
    """What a report shows.

    Attributes:
        frames: of every run, by token or index, beside the best and the worst.
        best, worst: how many frames of each run.
        score_threshold: boxes below it are not drawn and do not count in the confusion.
        data_root: where the data set is now; where it was when None.

    Raises:
        ValueError: a number is out of its range.
    """

    frames: Sequence[str] = ()
    best: int = 2
    worst: int = 2
    score_threshold: float = SCORE_THRESHOLD
    data_root: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"report: --score-thr must be in 0..1, got {self.score_threshold}")
        for name in ("best", "worst"):
            if getattr(self, name) < 0:
                raise ValueError(f"report: --{name} must be 0 or more, got {getattr(self, name)}")
        if self.data_root is not None and not self.data_root.is_dir():
            raise ValueError(
                f"report: --data-root must be the folder of a data set, got {self.data_root}"
            )


@dataclass(frozen=True)
class Shown:
    """Frames of one run that a report shows.

    Attributes:
        run: whose they are.
        frames: None where they cannot be shown.
        assessment: of all its frames, None likewise.
        picked: why a frame is shown -> its result, in the order of the page.
        notes: what is missing.
    """

    run: Run
    frames: Frames | None = None
    assessment: Assessment | None = None
    picked: Sequence[tuple[str, FrameScore]] = ()
    notes: list[str] = field(default_factory=list)


def show(runs: Sequence[Run], options: Options, progress: Progress = silent) -> list[Shown]:
    """Score the frames of runs and pick those to draw.

    Raises:
        ValueError: no run has a frame of a name in ``options.frames``.
    """
    shown = [_show(run, options, progress) for run in runs]
    opened = [part.frames for part in shown if part.frames]
    if options.frames and not opened:
        reasons = "; ".join(note for part in shown for note in [*part.run.notes, *part.notes])
        raise ValueError(f"report: --frames must be frames of an evaluation, got {reasons}")
    for name in options.frames:
        if all(frames.find(name) is None for frames in opened):
            last = max(len(frames.tokens) for frames in opened) - 1
            raise ValueError(
                f"report: --frames must be tokens or indices in 0..{last}, got {name!r}"
            )
    return shown


def _show(run: Run, options: Options, progress: Progress) -> Shown:
    if run.evaluation_dir is None:
        return Shown(run)
    try:
        frames = open_frames(run.evaluation_dir, options.data_root)
    except FramesError as error:
        return Shown(run, notes=[f"no frames: {error}"])
    with progress(f"frames of {run.name}") as update:
        assessment = assess(frames, options.score_threshold, update)
    by_token = {frame.token: frame for frame in assessment.frames}
    found = {name: frames.find(name) for name in options.frames}
    notes = [*frames.notes, *(f"no frame {name}" for name, token in found.items() if token is None)]
    chosen = dict.fromkeys(token for token in found.values() if token is not None)
    picked = [("chosen", by_token[token]) for token in chosen]
    taken = {frame.token for _, frame in picked}
    for why, ranked in (
        ("best", assessment.best(options.best)),
        ("worst", assessment.worst(options.worst)),
    ):
        new = [frame for frame in ranked if frame.token not in taken]
        picked += [(why, frame) for frame in new]
        taken.update(frame.token for frame in new)
    return Shown(run, frames, assessment, picked, notes)


def write_report(
    runs: Sequence[Run],
    out: Path,
    options: Options | None = None,
    *,
    shown: Sequence[Shown] | None = None,
    progress: Progress = silent,
) -> list[str]:
    """Write the page.

    Args:
        runs: from ``read_runs``; differences are to the first.
        out: HTML file to write.
        options: what to show.
        shown: what ``show`` made of runs and options, if it is there already.
        progress: shows how far the long parts are.

    Returns:
        What is missing, in words.

    Raises:
        ValueError: a wanted frame is in none of the runs' evaluations.
    """
    options = options or Options()
    shown = show(runs, options, progress) if shown is None else shown
    drawn = _draw_all(shown, options, progress)
    missing = [
        f"{part.run.name}: {note}" for part in shown for note in [*part.run.notes, *part.notes]
    ]
    parts = [
        sections.heading(runs, _title(runs), _byline()),
        sections.missing(missing),
        sections.summary(runs),
        sections.classes(runs),
        _curves(runs),
        _precision(runs),
        sections.confusions(
            [(part.run, part.frames, part.assessment) for part in shown], options.score_threshold
        ),
        *drawn,
        sections.origins(runs),
    ]
    text = page(_title(runs), [part for part in parts if part])
    with whole_file(out) as stream:
        stream.write(text.encode("utf-8"))
    return missing


def _title(runs: Sequence[Run]) -> str:
    return f"AnyBEV report: {', '.join(run.name for run in runs)}"


def _byline() -> str:
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return f"written {written} by anybev {anybev.__version__}"


def _curve(content: bytes, alt: str) -> Html:
    return tag("figure", picture(content, "image/svg+xml", alt), class_="curve")


def _curves(runs: Sequence[Run]) -> Html | None:
    figures = [
        ("Training over iterations.", curves.training_figure(runs)),
        ("Evaluations while training, over epochs.", curves.validation_figure(runs)),
    ]
    drawn = [
        [tag("p", text), _curve(curves.svg(figure), text)] for text, figure in figures if figure
    ]
    if not drawn:
        return None
    return section("Curves", sections.run_key(runs), drawn)


def _precision(runs: Sequence[Run]) -> Html | None:
    drawn = [
        [
            tag("h3", run.name) if len(runs) > 1 else "",
            _curve(curves.svg(curves.precision_figure(run.curves)), f"precision of {run.name}"),
        ]
        for run in runs
        if run.curves
    ]
    if not drawn:
        return None
    how = (
        "Precision (up) over recall (right) at four match distances, as the judge interpolates it."
    )
    return section("Precision and recall", tag("p", how), drawn)


def _draw_all(shown: Sequence[Shown], options: Options, progress: Progress) -> list[Html]:
    total = sum(len(part.picked) for part in shown)
    found = []
    with progress("pictures") as update:
        done = 0
        for part in shown:
            if part.frames is None or not part.picked:
                continue
            articles = []
            for why, score in part.picked:
                scene, notes = part.frames.scene(score.token)
                part.notes.extend(f"frame {score.token}: {note}" for note in notes)
                images = scene_pictures(scene, options.score_threshold)
                articles.append(sections.frame(why, score, images, notes))
                done += 1
                update(done, total)
            named = len(shown) > 1
            found.append(sections.frames(part.run, articles, named, options.score_threshold))
    return found


def scene_pictures(scene: Scene, score_threshold: float) -> list[Html]:
    """The frame from above and, where it has pictures, in its cameras."""
    above = bev_figure(scene, score_threshold=score_threshold)
    images = [compact(png(above, dpi=_BEV_DPI), f"{scene.token} from above")]
    if scene.cameras:
        around = camera_figure(scene, score_threshold=score_threshold)
        images.append(compact(png(around), f"{scene.token} in its cameras"))
    return images


def compact(content: bytes, alt: str) -> Html:
    """A PNG as a smaller picture inside the page."""
    kind = "webp" if features.check("webp") else "jpeg"
    stream = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").save(stream, kind, quality=_QUALITY)
    return picture(stream.getvalue(), f"image/{kind}", alt)
