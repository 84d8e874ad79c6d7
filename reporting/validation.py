"""Outcome of a data set's validation as one table."""

from __future__ import annotations

from anybev.datasets.validate.findings import Report
from anybev.reporting.tables import printable

_EXAMPLE_WIDTH = 200


def validation_table(report: Report) -> str:
    """Check, severity, what was looked at, findings and the first of them; notes below."""
    rows = [("check", "severity", "looked at", "findings", "first finding")]
    for row in report.rows:
        where, what = row.examples[0] if row.examples else ("", row.check.title)
        example = f"{where}: {what}" if where else what
        if len(example) > _EXAMPLE_WIDTH:
            example = f"{example[: _EXAMPLE_WIDTH - 3]}..."
        rows.append(
            (
                row.check.key,
                row.check.severity if row.found else "ok",
                f"{row.looked} {row.check.unit}",
                str(row.found),
                printable(example) if row.found else f"({example})",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join(
            [
                cells[0].ljust(widths[0]),
                cells[1].ljust(widths[1]),
                cells[2].ljust(widths[2]),
                cells[3].rjust(widths[3]),
                cells[4],
            ]
        ).rstrip()
        for cells in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * 4 + len(rows[0][4])))
    errors, warnings = report.count("error"), report.count("warning")
    verdict = f"{errors} errors, {warnings} warnings" if errors or warnings else "nothing found"
    lines.append("")
    lines += [f"note: {printable(note)}" for note in report.notes]
    sources = ", ".join(report.sources) or "nothing"
    lines.append(f"{report.root}: {verdict} in {sources} ({report.depth}, {report.seconds:.1f} s)")
    return "\n".join(lines)
