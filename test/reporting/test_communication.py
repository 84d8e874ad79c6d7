"""The communication model against sums done by hand, and its limits."""

import math
import random
from dataclasses import replace

import pytest

from anybev.reporting import communication as model
from anybev.reporting.communication import Fabric, Link, Step

LINK = Link(1e-5, 1e9)
STEP = Step(compute_s=0.9, buckets=[1e8, 2e8])


@pytest.mark.parametrize(("algorithm", "hops"), [("ring", 14), ("halving", 6), ("best", 6)])
def test_all_reduce_is_hops_and_bytes(algorithm: str, hops: int) -> None:
    seconds = model.all_reduce_s(8e8, 8, LINK, algorithm)
    assert seconds == pytest.approx(hops * 1e-5 + 1.4)


def test_one_device_exchanges_nothing() -> None:
    assert model.all_reduce_s(1e9, 1, LINK) == 0
    assert model.estimate(STEP, 1, Fabric(LINK)).step_s == STEP.compute_s


def test_over_nodes_each_port_carries_its_share() -> None:
    fabric = Fabric(Link(0, 4e9), Link(0, 1e9), devices_per_node=8)
    expected = 2 * 7 / 8 * 8e8 / 4e9 + 2 * 1 / 2 * 1e8 / 1e9
    assert fabric.all_reduce_s(8e8, 16) == pytest.approx(expected)


def test_overlap_leaves_the_last_bucket_at_least() -> None:
    # Forward until 0.3; buckets ready at 0.5 and 0.9, sent in 0.1 and 0.2 s.
    assert model.predict(STEP, 2, [0.1, 0.2]).step_s == pytest.approx(1.1)
    # Exchange longer than what is left of the backward pass: 0.5 + 0.6 + 1.2.
    assert model.predict(STEP, 2, [0.6, 1.2]).step_s == pytest.approx(2.3)
    after = replace(STEP, overlap=0.0)
    assert model.predict(after, 2, [0.6, 1.2]).step_s == pytest.approx(0.9 + 1.8)
    half = replace(STEP, overlap=0.5)
    assert model.predict(half, 2, [0.6, 1.2]).step_s == pytest.approx((2.3 + 2.7) / 2)


def test_prediction_adds_up() -> None:
    step = replace(STEP, spread_s=0.01)
    found = model.estimate(step, 8, Fabric(LINK))
    assert found.step_s == found.compute_s + found.waiting_s + found.exposed_s
    assert found.to_dict()["step_s"] == found.step_s
    base = model.estimate(step, 1, Fabric(LINK))
    assert model.linearity(found, base) == base.step_s / found.step_s < 1


def test_largest_of_several_is_as_drawn() -> None:
    assert model.expected_largest(1) == 0
    assert model.expected_largest(2) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-4)
    draw = random.Random(0)
    drawn = [max(draw.gauss(0, 1) for _ in range(16)) for _ in range(4000)]
    assert model.expected_largest(16) == pytest.approx(sum(drawn) / len(drawn), abs=0.03)


def test_spread_explains_what_communication_does_not() -> None:
    fabric = Fabric(Link(1e-6, 1e11), Link(1e-5, 1e10))
    spread = model.spread_for(0.97, STEP, 16, 8, fabric)
    mean = STEP.compute_s - spread * model.expected_largest(8)
    step = replace(STEP, compute_s=mean, spread_s=spread)
    found, base = (model.estimate(step, count, fabric) for count in (16, 8))
    assert model.linearity(found, base) == pytest.approx(0.97, abs=1e-4)
    assert model.spread_for(1.0, STEP, 16, 8, fabric) == 0


def test_buckets_hold_every_byte_last_first() -> None:
    sizes = [3 * model.MIB, model.MIB // 2, model.MIB, model.MIB // 4]
    # 0.25 + 1 + 0.5 do not reach the limit of 2 MiB, with 3 they do.
    assert model.bucket_bytes(sizes, 2) == [19 * model.MIB // 4]
    assert model.bucket_bytes(sizes, 1) == [5 * model.MIB // 4, 7 * model.MIB // 2]
    assert model.bucket_bytes(sizes, 1, "bf16") == [5 * model.MIB // 8, 7 * model.MIB // 4]
    assert sum(model.bucket_bytes(sizes, 1000)) == sum(sizes)


def test_fit_finds_the_link_again() -> None:
    sizes = [1e5, 1e6, 1e7, 1e8]
    seconds = [model.all_reduce_s(size, 4, LINK, "ring") for size in sizes]
    found = model.fit_link(sizes, seconds, 4)
    assert found.latency_s == pytest.approx(LINK.latency_s, rel=1e-6)
    assert found.bytes_per_s == pytest.approx(LINK.bytes_per_s, rel=1e-6)


def test_an_input_says_its_origin() -> None:
    given = model.Input("latency", 1e-5, "s", False, "data sheet")
    assert given.cells() == ["latency", "1e-05 s", "assumed", "data sheet"]
    assert replace(given, measured=True).cells()[2] == "measured"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Link(-1, 1), "latency_s must be at least 0, got -1"),
        (lambda: Link(0, 0), "bytes_per_s must be positive, got 0"),
        (lambda: Fabric(LINK).all_reduce_s(1, 16), "devices must be at most 8 or fill nodes"),
        (lambda: Fabric(LINK, LINK).all_reduce_s(1, 12), "fill nodes .* got 12"),
        (lambda: Step(0, [1]), "compute_s must be positive, got 0"),
        (lambda: Step(1, []), r"buckets must be positive bytes, got \[\]"),
        (lambda: Step(1, [1], overlap=2), r"overlap must be in 0\.\.1, got 2"),
        (lambda: Step(1, [1], spread_s=-1), "spread_s must be at least 0, got -1"),
        (lambda: model.all_reduce_s(1, 0, LINK), "devices must be at least 1, got 0"),
        (lambda: model.all_reduce_s(-1, 2, LINK), "size must be at least 0 bytes, got -1"),
        (lambda: model.all_reduce_s(1, 2, LINK, "tree"), "one of ring, halving, best, got tree"),
        (lambda: model.bucket_bytes([], 1), "gradient_bytes must not be empty"),
        (lambda: model.bucket_bytes([1], 0), "cap_mb must be positive, got 0"),
        (lambda: model.bucket_bytes([1], 1, "fp8"), "wire must be one of fp32, bf16, got fp8"),
        (lambda: model.predict(STEP, 2, [1.0]), "exchange_s must have 2 times, got 1"),
        (lambda: model.spread_for(2, STEP, 16, 8, Fabric(LINK)), r"stated must be in 0\.\.1"),
        (lambda: model.spread_for(0.9, STEP, 8, 8, Fabric(LINK)), "devices must be more than 8"),
        (lambda: model.fit_link([1, 1], [1, 1], 2), "sizes must be at least two"),
        (lambda: model.fit_link([1, 2], [1, 2], 1), "devices must be at least 2, got 1"),
        (lambda: model.fit_link([1, 2], [2, 1], 2), "seconds must grow with the size"),
    ],
)
def test_numbers_out_of_range_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
