"""Parts of the page of a report."""

from __future__ import annotations

from collections.abc import Sequence

from anybev.reporting.curves import run_colour
from anybev.reporting.frame_scores import HOW, Assessment, FrameScore
from anybev.reporting.frames import Frames
from anybev.reporting.html import Content, Html, folded, section, table, tag
from anybev.reporting.run import TP_ERRORS, Run, number
from anybev.reporting.summary import NEITHER, Measure, class_measures, facts_rows, measures

_TILES = ("NDS", "mAP", "FPS")
_MOST_NOTES = 20


def heading(runs: Sequence[Run], title: str, byline: str) -> Html:
    """Title, what has to be said beside the numbers, and the headline numbers of one run."""
    notes = dict.fromkeys(run.note for run in runs if run.note)
    said = [tag("div", f"{note[0].upper()}{note[1:]}.", class_="note") for note in notes]
    tiles: list[Html] = []
    if len(runs) == 1:
        by_key = {measure.key: measure for measure in measures(runs)}
        tiles = [
            tag("div", tag("b", measure.text(measure.values[0])), tag("span", measure.label))
            for measure in map(by_key.get, _TILES)
            if measure
        ]
    return tag(
        "header",
        tag("h1", title),
        tag("p", byline),
        said,
        tag("div", tiles, class_="tiles") if tiles else "",
    )


def missing(notes: Sequence[str]) -> Html | None:
    """What the page does not show, and why."""
    if not notes:
        return None
    named = [tag("div", note) for note in notes[:_MOST_NOTES]]
    if len(notes) > _MOST_NOTES:
        named.append(tag("div", f"and {len(notes) - _MOST_NOTES} more"))
    return tag("div", tag("b", "Not shown"), named, class_="note")


def run_key(runs: Sequence[Run]) -> Html:
    """Which colour is which run, where there are several."""
    if len(runs) < 2:
        return Html()
    return tag(
        "p",
        [
            [tag("span", class_="key", style=f"background:{run_colour(i)}"), f"{run.name}   "]
            for i, run in enumerate(runs)
        ],
    )


def _cells(measure: Measure) -> list[Html]:
    """Values of all runs: the best marked, the others with their difference to the first."""
    cells = []
    for index, value in enumerate(measure.values):
        content: list[Content] = [measure.text(value)]
        difference = measure.difference(index)
        if difference is not None:
            sign = difference * measure.better
            shown = f"{difference:+.{measure.digits}f}"
            kind = "same" if not float(shown) or measure.better == NEITHER else (
                "better" if sign > 0 else "worse"
            )  # fmt: skip
            content += [" ", tag("small", shown, class_=kind)]
        cells.append(tag("td", content, class_="best" if measure.is_best(index) else "value"))
    return cells


def summary(runs: Sequence[Run]) -> Html | None:
    """All quantities, a column a run."""
    found = measures(runs)
    if not found:
        return None
    rows = [[measure.label, *_cells(measure)] for measure in found]
    words = []
    if len(runs) > 1:
        words = [
            tag("p", "The best value is bold; small numbers are differences to the first run.")
        ]
    return section("Summary", words, table(["", *(run.name for run in runs)], rows))


def classes(runs: Sequence[Run]) -> Html | None:
    """AP of the classes side by side, then every number of each run."""
    scored = [run for run in runs if run.metrics]
    if not scored:
        return None
    parts: list[Content] = []
    if len(runs) > 1:
        rows = [[measure.label, *_cells(measure)] for measure in class_measures(runs)]
        parts.append(table(["AP", *(run.name for run in runs)], rows))
        parts += [folded(f"All numbers of {run.name}", _class_table(run)) for run in scored]
    else:
        parts.append(_class_table(scored[0]))
    return section("Classes", parts)


def _class_table(run: Run) -> Html:
    metrics = run.metrics or {}
    by_threshold, errors = metrics["per_class_ap_by_threshold"], metrics["per_class_tp"]
    distances = list(dict.fromkeys(d for inner in by_threshold.values() for d in inner))
    objects = metrics.get("num_objects")
    objects = objects if isinstance(objects, dict) else {}
    header = ["class", "objects", "AP", *(f"AP at {d} m" for d in distances), *TP_ERRORS]

    def text(value: object) -> str:
        known = number(value)
        return "-" if known is None else f"{known:.3f}"

    rows = [
        [
            name,
            str(objects.get(name, "-")),
            text(ap),
            *(text(by_threshold[name].get(distance)) for distance in distances),
            *(text(errors[name].get(error)) for error in TP_ERRORS),
        ]
        for name, ap in metrics["per_class_ap"].items()
    ]
    return table(header, rows)


def confusions(
    assessed: Sequence[tuple[Run, Frames | None, Assessment | None]], score_threshold: float
) -> Html | None:
    """Which class is taken for which, a table a run."""
    parts = [
        [tag("h3", run.name) if len(assessed) > 1 else "", _confusion(frames, assessment)]
        for run, frames, assessment in assessed
        if frames and assessment
    ]
    if not parts:
        return None
    how = (
        f"Boxes of score {score_threshold:g} and more, matched to the nearest free object within "
        "2 m whatever its class. A row is the object's class, a column the box's; in per cent of "
        "the row."
    )
    return section("What is taken for what", tag("p", how), parts)


def _confusion(frames: Frames, assessment: Assessment) -> Html:
    counts = assessment.confusion
    names = [*frames.classes, "nothing"]
    rows = []
    for index, name in enumerate(names):
        total = int(counts[index].sum())
        cells = []
        for count in counts[index]:
            share = count / total if total else 0.0
            text = f"{100 * share:.0f}" if count else ""
            shade = f"background:rgba(var(--heat),{0.75 * share:.2f})"
            cells.append(tag("td", text, style=shade, title=f"{count} of {total}"))
        rows.append([name, str(total), *cells])
    return table(["object \\ box", "number", *names], rows)


def frame(why: str, score: FrameScore, images: Sequence[Html], notes: Sequence[str]) -> Html:
    """One frame: why it is shown, how it went, its pictures."""
    ap = "no objects" if score.ap is None else f"AP at 2 m {score.ap:.3f}"
    counts = f"found {score.found}, missed {score.missed}, boxes without an object {score.ghosts}"
    return tag(
        "article",
        tag("h3", f"{why}: {score.token}"),
        tag("p", f"{ap}; {counts}"),
        [tag("div", note, class_="note") for note in notes],
        tag("div", images, class_="frame cams" if len(images) > 1 else "frame"),
    )


def frames(run: Run, articles: Sequence[Html], named: bool, score_threshold: float) -> Html:
    """The frames of one run."""
    title = f"Frames of {run.name}" if named else "Frames"
    how = (
        f"{HOW} Drawn, and counted as found or without an object, are boxes of score "
        f"{score_threshold:g} and more. They are coloured by class (crossed out at the front in "
        "the cameras); ground truth is white and dashed. Click on a picture for its full size."
    )
    return section(title, tag("p", how), articles)


def origins(runs: Sequence[Run]) -> Html:
    """Machines, versions and configs."""
    rows = [[name, *values] for name, values in facts_rows(runs)]
    configs = [
        folded(f"Config of {run.name}", tag("pre", run.config_text))
        for run in runs
        if run.config_text
    ]
    header = ["", *(run.name for run in runs)]
    return section("Where the numbers come from", table(header, rows, "words"), configs)
