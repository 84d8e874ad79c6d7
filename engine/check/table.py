"""The report as text for a terminal."""

from collections.abc import Sequence

from anybev.engine.check.results import Row, Status
from anybev.engine.check.run import Report
from anybev.reporting.tables import printable, text_table

_HEADER = ("check", "case", "by", "dtype", "worst error", "limit", "time", "result")


def _key(row: Row) -> tuple[str, str, str, str]:
    direction = row.case.partition(":")[0] if row.section == "operators" else row.case
    return row.section, row.name, direction, row.dtype


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _line(rows: Sequence[Row]) -> list[str]:
    """One line for the rows of one operator, direction and dtype: the worst of them."""
    first = rows[0]
    failed = [row for row in rows if row.status is Status.FAIL]
    run = [row for row in rows if row.status is not Status.SKIP]
    worst = max((row.worst for row in rows if row.worst is not None), default=None)
    seconds = sum(row.seconds or 0.0 for row in rows)
    direction = _key(first)[2]
    many = first.section == "operators"
    result = f"FAIL {len(failed)}" if failed and many else "FAIL" if failed else "pass"
    return [
        first.name,
        f"{direction}, {len(rows)} inputs" if many else printable(direction),
        "/".join(sorted({row.implementation for row in rows if row.implementation})) or "-",
        first.dtype or "-",
        _number(worst),
        _number(first.limit),
        f"{seconds * 1e3:.0f} ms" if run and seconds else "-",
        result if run else "skip",
    ]


def _told(row: Row) -> str:
    """One line about a row; operators that were skipped or fell back for one reason share it."""
    operator = row.section == "operators"
    if operator and row.status is Status.PASS:
        return f"note  {printable(row.message)}"
    if operator and row.status is Status.SKIP:
        return f"SKIP  {row.name} {row.dtype}: {printable(row.message)}"
    where = " ".join(filter(None, (row.name, row.dtype, f"({row.case})")))
    remedy = f"; until it is repaired: {row.remedy}" if row.remedy else ""
    return f"{str(row.status).upper()}  {where}: {printable(row.message)}{remedy}"


def _notes(report: Report) -> list[str]:
    """What failed, why something was skipped, and what there is to say; each thing once."""
    return list(dict.fromkeys(_told(row) for row in report.rows if row.message))


def report_table(report: Report) -> str:
    """One table, then what failed with its remedy, then the verdict."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in report.rows:
        groups.setdefault(_key(row), []).append(row)
    lines = [_line(rows) for rows in groups.values()]
    counts = report.counts()
    verdict = ", ".join(f"{count} {name}" for name, count in counts.items())
    kind = (
        f"{report.stand_in}: no evidence about hardware"
        if report.stand_in
        else report.facts.get("device", "")
    )
    return "\n".join(
        [
            text_table(_HEADER, lines),
            "",
            *_notes(report),
            f"{report.backend} ({printable(kind)}): {verdict}, {report.seconds:.0f} s",
        ]
    )
