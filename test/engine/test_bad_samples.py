"""Frames that cannot be read are named and counted at the end of training and evaluation."""

import logging
from types import SimpleNamespace

import pytest

from anybev.engine.hooks import BadSamplesHook


class _Dataset:
    def __init__(self, bad: list[str], dropped: dict[str, int]) -> None:
        self._bad, self._dropped = bad, dropped

    def bad_samples(self) -> list[str]:
        return self._bad

    def dropped_points(self) -> dict[str, int]:
        return self._dropped


def _runner(dataset: object) -> SimpleNamespace:
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    logger = logging.getLogger("test_bad_samples")
    return SimpleNamespace(train_loop=loop, val_loop=loop, test_loop=loop, logger=logger)


def test_every_phase_names_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    runner = _runner(_Dataset(["token1", "token3"], {"token2": 3, "token4": 4}))
    hook = BadSamplesHook()
    hook.after_train(runner)
    hook.after_val_epoch(runner)
    hook.after_test_epoch(runner)
    messages = [record.getMessage() for record in caplog.records]
    for phase in ("train", "val", "test"):
        assert f"{phase}: 2 unreadable frame(s) left out: token1, token3" in messages
        points = "7 unusable point(s) (not finite, or far out) left out of 2 frame(s)"
        assert f"{phase}: {points}" in messages
    assert runner.bad_samples == {key: ["token1", "token3"] for key in ("train", "val", "test")}


def test_long_lists_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    BadSamplesHook().after_train(_runner(_Dataset([f"t{i:02}" for i in range(12)], {})))
    assert caplog.messages[0].endswith("t08, t09 and 2 more")


@pytest.mark.parametrize("dataset", [_Dataset([], {}), object()])
def test_silent_without_any(dataset: object, caplog: pytest.LogCaptureFixture) -> None:
    BadSamplesHook().after_train(_runner(dataset))
    assert caplog.messages == []
