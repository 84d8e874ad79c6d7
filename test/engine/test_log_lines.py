"""Numbers of every rank as flat keys; the line of the log is mmengine's."""

import pytest

from anybev.engine.log_lines import RANKS_LISTED, rank_scalars


def test_quantity_of_three_ranks() -> None:
    assert rank_scalars("data_time", [0.1, 0.4, 0.4]) == {
        "data_time/min": 0.1,
        "data_time/mean": pytest.approx(0.3),
        "data_time/max": 0.4,
        "data_time/max_rank": 1,
        "data_time/rank0": 0.1,
        "data_time/rank1": 0.4,
        "data_time/rank2": 0.4,
    }


def test_many_ranks_have_the_summary_alone() -> None:
    most = rank_scalars("time", [1.0] * RANKS_LISTED)
    assert f"time/rank{RANKS_LISTED - 1}" in most
    more = rank_scalars("time", [1.0] * RANKS_LISTED + [2.0])
    assert list(more) == ["time/min", "time/mean", "time/max", "time/max_rank"]
    assert more["time/max_rank"] == RANKS_LISTED
