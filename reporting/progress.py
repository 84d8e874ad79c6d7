"""A progress bar with ETA that stays readable in a log file."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LOG_EVERY_S = 10.0


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield ``update(done, total)``: a bar on a terminal, a line now and then in a log.

    Everything goes to standard error, so that standard output keeps to results.
    """
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    start = last = time.monotonic()

    def log(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < _LOG_EVERY_S:
            return
        last = now
        eta = (now - start) / max(done, 1) * (total - done)
        print(f"{title}: {done}/{total}, eta {eta:.0f} s", file=sys.stderr, flush=True)

    yield log
