"""Scaling as markdown: measured beside what the model says, and the estimate for accelerators."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from anybev.reporting import accelerators
from anybev.reporting.accelerators import ACCELERATORS, BATCH_PER_DEVICE, Accelerator
from anybev.reporting.communication import (
    MIB,
    Input,
    Link,
    Prediction,
    Step,
    all_reduce_s,
    bucket_bytes,
    estimate,
    expected_largest,
    fit_link,
    linearity,
    predict,
    spread_for,
)
from anybev.reporting.tables import markdown_table

DEVICES = (8, 16, 64, 1024)
BASE_DEVICES = 8
BUCKET_CAP_MB = 25
BACKWARD_SHARE = 2 / 3

Row = Mapping[str, Any]
_Links = dict[tuple[str, int, str], Link]


def links(rows: Sequence[Row]) -> _Links:
    """Latency and bandwidth that the exchanges alone showed, by network, processes and wire."""
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row["measure"] == "exchange":
            key = (row["network"], row["processes"], row["wire"])
            found.setdefault(key, []).append(row)
    return {
        key: fit_link([r["bytes"] for r in group], [r["seconds"] for r in group], key[1])
        for key, group in found.items()
    }


def overlap_share(row: Row) -> float:
    """Share of the exchange that can run beside the computation, by what each of them needs.

    0 where the exchange comes after the backward pass; where gloo compresses, which waits; and
    where computation and a loopback exchange both want the same cores. 1 elsewhere.
    """
    if not row["overlap"] or row["gradient_compression"] != "none":
        return 0.0
    fights = row["load"] == "host" and row["network"] == "loopback"
    return 0.0 if fights and row["processes"] >= row["cores"] else 1.0


def predicted(row: Row, compute_s: float, link: Link, gradient_bytes: Sequence[int]) -> Prediction:
    """What the model says of a row that measured both, from the parts measured alone."""
    wire = "bf16" if row["gradient_compression"] == "bf16" else "fp32"
    cap_mb = row["bucket_cap_mb"] if row["overlap"] else sum(gradient_bytes) / MIB + 1
    buckets = bucket_bytes(gradient_bytes, cap_mb, wire)
    step = Step(compute_s, buckets, overlap_share(row), BACKWARD_SHARE)
    taken = [all_reduce_s(size, row["processes"], link, "ring") for size in buckets]
    return predict(step, row["processes"], taken)


def compared(rows: Sequence[Row], numel: Sequence[int]) -> list[tuple[Row, Prediction]]:
    """Each row that measured both, with its prediction."""
    known = links(rows)
    compute = {
        (row["network"], row["processes"], row["load"]): row["seconds"]
        for row in rows
        if row["measure"] == "compute"
    }
    gradient_bytes = [4 * count for count in numel]
    found = []
    for row in rows:
        if row["measure"] != "both":
            continue
        place = (row["network"], row["processes"])
        wire = "bf16" if row["gradient_compression"] == "bf16" else "fp32"
        alone = compute[(*place, row["load"])]
        found.append((row, predicted(row, alone, known[(*place, wire)], gradient_bytes)))
    return found


def measured(rows: Sequence[Row], numel: Sequence[int]) -> str:
    """Tables of the exchange alone and of whole steps, each measured and modelled.

    Raises:
        ValueError: the rows are of another model than ``numel``.
    """
    megabytes = 4 * sum(numel) / 1e6
    rows = [row for row in rows if abs(row["gradient_mb"] - megabytes) < 1e-3]
    if not rows:
        raise ValueError(f"scaling: rows must be of gradients of {megabytes:.1f} MB, got none")
    pairs = compared(rows, numel)
    errors = [abs(guess.step_s / row["seconds"] - 1) for row, guess in pairs]
    facts = rows[0]
    return "\n\n".join(
        [
            f"Gradients of {megabytes:.1f} MB in fp32. {facts['device']}, torch {facts['torch']}, "
            f"commit {facts['commit']}, {facts['date']}. Medians of {facts['steps']}. Beside what "
            f"was measured the model takes: backward share {BACKWARD_SHARE:.4f} of the computation "
            "(assumed, two of three passes' products); overlap of each row (assumed).",
            _exchange_table(rows),
            _step_table(pairs),
            f"Predicted over measured: median error {100 * statistics.median(errors):.0f} %, "
            f"largest {100 * max(errors):.0f} %, {len(errors)} cases.",
        ]
    )


def _exchange_table(rows: Sequence[Row]) -> str:
    known = links(rows)
    table = []
    for row in rows:
        if row["measure"] != "exchange":
            continue
        link = known[(row["network"], row["processes"], row["wire"])]
        model_s = all_reduce_s(row["bytes"], row["processes"], link, "ring")
        table.append(
            [
                row["network"],
                str(row["processes"]),
                row["wire"],
                f"{row['bytes'] / 1e6:.1f}",
                _ms(row["seconds"]),
                _ms(model_s),
                f"{1e3 * link.latency_s:.2f}",
                f"{link.bytes_per_s / 1e9:.2f}",
            ]
        )
    header = ["network", "processes", "wire", "MB", "measured ms", "model ms"]
    return markdown_table([*header, "fitted latency ms a hop", "fitted GB/s"], table)


def _step_table(pairs: Sequence[tuple[Row, Prediction]]) -> str:
    header = ["network", "processes", "load", "bucket MiB", "wire", "overlap", "compute ms"]
    header += ["exchange ms", "overlap assumed", "predicted ms", "measured ms", "error"]
    table = [
        [
            row["network"],
            str(row["processes"]),
            row["load"],
            f"{row['bucket_cap_mb']:g}" if row["overlap"] else "one",
            "bf16" if row["gradient_compression"] == "bf16" else "fp32",
            "yes" if row["overlap"] else "no",
            _ms(guess.compute_s),
            _ms(guess.exchange_s),
            f"{overlap_share(row):g}",
            _ms(guess.step_s),
            _ms(row["seconds"]),
            f"{100 * (guess.step_s / row['seconds'] - 1):+.0f}%",
        ]
        for row, guess in pairs
    ]
    return markdown_table(header, table)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def estimated(numel: Sequence[int]) -> str:
    """Inputs, each measured or assumed, and what they give for 8 to 1024 accelerators."""
    gradient_bytes = [4 * count for count in numel]
    buckets = bucket_bytes(gradient_bytes, BUCKET_CAP_MB)
    spread, stated = _stated(buckets)
    shared = [
        Input("gradients", sum(gradient_bytes) / 1e6, "MB", True, "counted: parameters in fp32"),
        Input("buckets", len(buckets), "", True, f"counted: bucket_cap_mb={BUCKET_CAP_MB}"),
        Input("batch a device", BATCH_PER_DEVICE, "samples", False, accelerators.DRIVINGSDK),
        Input("backward of compute", BACKWARD_SHARE, "", False, "two of three passes' products"),
        Input("overlap", 1, "", False, "collectives run on the accelerator's own engines"),
        Input("spread of a step", 100 * spread, "%", False, "what would explain 97.07 %"),
    ]
    owners: dict[Input, list[str]] = {one: ["all"] for one in shared}
    for each in ACCELERATORS:
        for one in each.inputs():
            owners.setdefault(one, []).append(each.name)
    given = [["; ".join(names), *one.cells()] for one, names in owners.items()]
    header = ["accelerator", "devices", "exchange ms", "not hidden ms", "FPS", "linearity"]
    table = [row for each in ACCELERATORS for row in _estimate_rows(each, buckets, spread)]
    return "\n\n".join(
        [
            "**ESTIMATE**: no accelerator was measured.",
            markdown_table([*header, "FPS with spread", "linearity with spread"], table),
            stated,
            "Inputs:",
            markdown_table(["for", "input", "value", "origin", "source"], given),
        ]
    )


def _step_of(accelerator: Accelerator, buckets: Sequence[int], spread: float) -> Step:
    """The step whose 8 devices take what was stated: less what they wait and exchange."""
    whole = Step(accelerator.step.value, list(buckets), 1.0, BACKWARD_SHARE)
    exposed = estimate(whole, BASE_DEVICES, accelerator.fabric()).exposed_s
    mean = (whole.compute_s - exposed) / (1 + spread * expected_largest(BASE_DEVICES))
    return replace(whole, compute_s=mean, spread_s=spread * mean)


def _estimate_rows(
    accelerator: Accelerator, buckets: Sequence[int], spread: float
) -> list[list[str]]:
    fabric = accelerator.fabric()
    alike, spreading = (_step_of(accelerator, buckets, value) for value in (0.0, spread))
    base, slow_base = (estimate(step, BASE_DEVICES, fabric) for step in (alike, spreading))
    table = []
    for devices in DEVICES:
        found, slow = (estimate(step, devices, fabric) for step in (alike, spreading))
        table.append(
            [
                accelerator.name,
                str(devices),
                _ms(found.exchange_s),
                _ms(found.exposed_s),
                f"{devices * BATCH_PER_DEVICE / found.step_s:.1f}",
                f"{100 * linearity(found, base):.2f}%",
                f"{devices * BATCH_PER_DEVICE / slow.step_s:.1f}",
                f"{100 * linearity(slow, slow_base):.2f}%",
            ]
        )
    return table


def _stated(buckets: Sequence[int]) -> tuple[float, str]:
    """The spread, relative to the step, that DrivingSDK's 97.07 % would need; in words too."""
    count, base_count = accelerators.STATED_DEVICES, accelerators.STATED_BASE
    step_s = count * BATCH_PER_DEVICE / accelerators.STATED_FPS
    base_s = step_s * accelerators.STATED_LINEARITY
    fabric = ACCELERATORS[0].fabric()
    step = Step(base_s, list(buckets), 1.0, BACKWARD_SHARE)
    base, more = (estimate(step, devices, fabric) for devices in (base_count, count))
    spread_s = spread_for(accelerators.STATED_LINEARITY, step, count, base_count, fabric)
    spread = spread_s / (base_s - spread_s * expected_largest(base_count))
    printed_fps = accelerators.PRINTED_BASE_FPS
    printed = accelerators.STATED_FPS / (count / base_count * printed_fps)
    return spread, (
        f"DrivingSDK states {100 * accelerators.STATED_LINEARITY:.2f} % for {count} devices at "
        f"{accelerators.STATED_FPS} samples/s, so relative to "
        f"{base_count * BATCH_PER_DEVICE / base_s:.2f} samples/s of {base_count} (not the "
        f"{printed_fps} that it prints: those would give {100 * printed:.2f} %). Communication "
        f"alone gives {100 * linearity(more, base):.2f} % here: "
        f"{_ms(more.exposed_s - base.exposed_s)} ms of the {_ms(step_s - base_s)} ms a step "
        f"that {count} devices need longer. Waiting for the slowest would explain the rest if "
        f"steps spread by {100 * spread:.1f} % (standard deviation); columns 'with spread' assume "
        "that, the others that all devices are alike."
    )
