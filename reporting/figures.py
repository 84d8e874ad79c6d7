"""A frame as figures: from above, and in every camera.

matplotlib's Agg canvas without pyplot: nothing global, no display, safe in threads.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from anybev.datasets import boxes as geometry
from anybev.reporting.projection import EDGES, FRONT, project_lines
from anybev.reporting.scene import SCORE_THRESHOLD, Scene, SceneCamera

RANGE_M = 54.0
#: The row in front, then the row behind; the vehicle's left is on the left in both.
RIG_ORDER = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
BACKGROUND, INK, FAINT = "#11151c", "#e8ecf2", "#8993a4"
_COLOURS = (
    "#4aa8ff",
    "#ff9f1c",
    "#2ec27e",
    "#ff5d5d",
    "#b98cff",
    "#ff7edb",
    "#ffe14d",
    "#2fe0d0",
    "#c8e06b",
    "#d9a679",
)
_MOST_POINTS = 60_000
_DPI = 100


def class_colour(label: int) -> str:
    """Colour of a class; they repeat after ten."""
    return _COLOURS[label % len(_COLOURS)]


def safe_text(text: str) -> str:
    """Text from files for a figure: no control characters, nothing that matplotlib skips."""
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return f" {shown}" if shown.startswith("_") else shown


def png(figure: Figure, *, dpi: float = _DPI) -> bytes:
    """The figure as a PNG file."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return stream.getvalue()


def kept_predictions(scene: Scene, score_threshold: float) -> np.ndarray:
    """Indices of the predictions to draw, the best last so that they lie on top.

    Raises:
        ValueError: the threshold is not in 0..1.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"figure: score_threshold must be in 0..1, got {score_threshold}")
    order = np.argsort(scene.predicted_scores, kind="stable")
    kept: np.ndarray = order[scene.predicted_scores[order] >= score_threshold]
    return kept


def bev_figure(
    scene: Scene, *, score_threshold: float = SCORE_THRESHOLD, range_m: float = RANGE_M
) -> Figure:
    """The frame from above, the vehicle's front up (lidar x to the right, y forward).

    Points are shaded by height. Predictions are solid in the colour of their class, with their
    score and a stroke towards the front; ground truth is white and dashed, with a dot in the
    colour of its class.

    Args:
        scene: what to draw.
        score_threshold: predictions below it are left out.
        range_m: half the side of the square that is shown.

    Returns:
        A square figure.

    Raises:
        ValueError: an option is out of its range.
    """
    if not range_m > 0:
        raise ValueError(f"figure: range_m must be more than 0, got {range_m}")
    kept = kept_predictions(scene, score_threshold)
    figure = Figure(figsize=(9.6, 10.2), dpi=_DPI, facecolor=BACKGROUND)
    axes = figure.add_axes((0.015, 0.075, 0.97, 0.91), facecolor=BACKGROUND)
    axes.set(xlim=(-range_m, range_m), ylim=(-range_m, range_m), aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    _rings(axes, range_m)
    _points(axes, scene.points_lidar_m, range_m)
    _truth_from_above(axes, scene, range_m)
    _predictions_from_above(axes, scene, kept, range_m)
    axes.plot(0, 0, marker=(3, 0, 0), color=INK, markersize=9, zorder=6)
    shown = np.concatenate([scene.predicted_labels[kept], scene.true_labels])
    _legend(figure, scene, shown, score_threshold)
    return figure


def _rings(axes: Axes, range_m: float) -> None:
    """Circles of equal distance: five of them, or as many as fit a round step."""
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100) if range_m / s <= 6), range_m / 5)
    angle = np.linspace(0, 2 * np.pi, 181)
    for radius in np.arange(step, range_m * math.sqrt(2), step):
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        axes.plot(x, y, color=FAINT, linewidth=0.5, alpha=0.45, zorder=0)
        if radius < range_m:
            # On the axis that points to the front right: clear of the road ahead.
            axes.text(
                *(radius * math.sqrt(0.5),) * 2,
                f"{radius:g} m",
                color=FAINT,
                fontsize=7,
                ha="center",
                va="center",
                zorder=1,
                clip_on=True,
            )


def _points(axes: Axes, points_lidar_m: np.ndarray, range_m: float) -> None:
    points = points_lidar_m[(np.abs(points_lidar_m[:, :2]) <= range_m).all(1)]
    points = points[:: max(1, math.ceil(len(points) / _MOST_POINTS))]
    shade = np.clip((points[:, 2] + 2.5) / 5.0, 0, 1)
    axes.scatter(
        points[:, 0],
        points[:, 1],
        c=0.35 + 0.6 * shade,
        cmap="bone",
        vmin=0,
        vmax=1,
        s=0.9,
        linewidths=0,
        zorder=2,
        rasterized=True,
    )


def _outlines(boxes_lidar: np.ndarray) -> np.ndarray:
    """(N, 5, 2) closed outlines from above."""
    corners = geometry.corners(boxes_lidar)[:, :4, :2]
    return np.concatenate([corners, corners[:, :1]], 1)


def _truth_from_above(axes: Axes, scene: Scene, range_m: float) -> None:
    inside = (np.abs(scene.true_boxes_lidar[:, :2]) <= range_m).all(1) & (scene.true_labels >= 0)
    boxes, labels = scene.true_boxes_lidar[inside], scene.true_labels[inside]
    lines = LineCollection(
        list(_outlines(boxes)), colors="white", linewidths=0.9, linestyles="--", zorder=5
    )
    axes.add_collection(lines, autolim=False)
    colours = [class_colour(int(label)) for label in labels]
    axes.scatter(boxes[:, 0], boxes[:, 1], s=5, c=colours or None, linewidths=0, zorder=5)


def _predictions_from_above(axes: Axes, scene: Scene, kept: np.ndarray, range_m: float) -> None:
    kept = kept[(np.abs(scene.predicted_boxes_lidar[kept, :2]) <= range_m).all(1)]
    boxes = scene.predicted_boxes_lidar[kept]
    outlines = _outlines(boxes)
    # From the centre to the middle of the front edge.
    fronts = np.stack([boxes[:, :2], (outlines[:, 0] + outlines[:, 3]) / 2], 1)
    colours = [class_colour(int(label)) for label in scene.predicted_labels[kept]]
    for lines in (outlines, fronts):
        drawn = LineCollection(list(lines), colors=colours, linewidths=1.3, zorder=4)
        axes.add_collection(drawn, autolim=False)
    for box, outline, colour, score in zip(
        boxes, outlines, colours, scene.predicted_scores[kept], strict=True
    ):
        axes.text(
            box[0],
            outline[:, 1].max() + 0.3,
            f"{score:.2f}",
            color=colour,
            fontsize=6,
            ha="center",
            va="bottom",
            zorder=5,
            clip_on=True,
        )


def _legend(figure: Figure, scene: Scene, labels: np.ndarray, score_threshold: float) -> None:
    """Classes that occur, and the two kinds of lines."""
    present = sorted({int(label) for label in labels if label >= 0})
    handles = [Line2D([], [], color=class_colour(label), linewidth=2) for label in present]
    names = [safe_text(scene.classes[label]) for label in present]
    handles += [Line2D([], [], color="white", linestyle="--", linewidth=1)]
    names += ["ground truth"]
    legend = figure.legend(
        handles,
        names,
        loc="lower center",
        ncols=6,
        fontsize=8,
        frameon=False,
        labelcolor=INK,
        title=f"predictions of score {score_threshold:g} and more",
        title_fontsize=8,
        borderaxespad=0.2,
    )
    legend.get_title().set_color(FAINT)
    for text in legend.get_texts():
        text.set_parse_math(False)


def ordered_cameras(
    cameras: Sequence[SceneCamera], channels: Iterable[str] | None = None
) -> list[SceneCamera]:
    """Cameras in the order of a rig seen from above: known channels first, then the others.

    Args:
        cameras: of a scene.
        channels: only these, in this order.

    Raises:
        ValueError: the scene has no camera of a wanted channel.
    """
    by_channel = {camera.channel: camera for camera in cameras}
    if channels is not None:
        wanted = list(channels)
        absent = [channel for channel in wanted if channel not in by_channel]
        if absent:
            raise ValueError(
                f"figure: channels must be among {', '.join(by_channel) or 'none'}, got "
                f"{', '.join(absent)}"
            )
        return [by_channel[channel] for channel in wanted]
    known = [by_channel[channel] for channel in RIG_ORDER if channel in by_channel]
    return known + [camera for camera in cameras if camera.channel not in RIG_ORDER]


def camera_figure(
    scene: Scene,
    *,
    score_threshold: float = SCORE_THRESHOLD,
    channels: Sequence[str] | None = None,
    panel_width_px: int = 640,
) -> Figure:
    """The frame in its cameras: predictions in their class's colour, ground truth dashed.

    The face that looks along a prediction's heading is crossed out.

    Args:
        scene: what to draw; it must have pictures.
        score_threshold: predictions below it are left out.
        channels: only these cameras, in this order; all in the rig's order when None.
        panel_width_px: width of one picture in the figure.

    Returns:
        A figure with up to three pictures a row.

    Raises:
        ValueError: there is no picture, no such channel, or an option is out of its range.
    """
    cameras = ordered_cameras(scene.cameras, channels)
    if not cameras:
        raise ValueError(f"figure: cameras of {scene.token} must be one or more, got none")
    kept = kept_predictions(scene, score_threshold)
    columns = min(3, len(cameras))
    rows = math.ceil(len(cameras) / columns)
    ratio = max(camera.image.shape[0] / camera.image.shape[1] for camera in cameras)
    gap_px, title_px = 6, 20
    cell_px = panel_width_px * ratio + title_px
    width, height = columns * (panel_width_px + gap_px) + gap_px, rows * (cell_px + gap_px)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=BACKGROUND)
    for index, camera in enumerate(cameras):
        row, column = divmod(index, columns)
        left = gap_px + column * (panel_width_px + gap_px)
        bottom = height - (row + 1) * (cell_px + gap_px) + gap_px
        axes = figure.add_axes(
            (
                left / width,
                bottom / height,
                panel_width_px / width,
                (cell_px - title_px) / height,
            )
        )
        _picture(axes, camera)
        _boxes_in_picture(axes, scene, camera, kept)
    return figure


def _picture(axes: Axes, camera: SceneCamera) -> None:
    height, width = camera.image.shape[:2]
    axes.imshow(camera.image, extent=(0, width, height, 0), aspect="equal")
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    title = axes.set_title(safe_text(camera.channel), color=INK, fontsize=9, pad=3)
    title.set_parse_math(False)


def _boxes_in_picture(axes: Axes, scene: Scene, camera: SceneCamera, kept: np.ndarray) -> None:
    size = (camera.image.shape[0], camera.image.shape[1])
    known = scene.true_labels >= 0
    truth, _ = project_lines(scene.true_boxes_lidar[known], EDGES, camera.lidar2img, size)
    outlined = withStroke(linewidth=1.4, foreground="#00000070")
    axes.add_collection(
        LineCollection(
            list(truth),
            colors="white",
            linewidths=0.7,
            linestyles=(0, (3, 3)),
            path_effects=[outlined],
            zorder=4,
        ),
        autolim=False,
    )
    boxes, labels = scene.predicted_boxes_lidar[kept], scene.predicted_labels[kept]
    for pairs, linewidth in ((EDGES, 1.2), (FRONT, 0.7)):
        lines, owner = project_lines(boxes, pairs, camera.lidar2img, size)
        colours = [class_colour(int(label)) for label in labels[owner]]
        drawn = LineCollection(list(lines), colors=colours, linewidths=linewidth, zorder=3)
        axes.add_collection(drawn, autolim=False)
