"""Backoff: bounds that hold for every input."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.retry import LONGEST, Backoff

NOTHING = timedelta(0)
randoms = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 2**31 - 1)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    longest = draw(st.timedeltas(NOTHING, LONGEST))
    return Backoff(
        first=draw(st.timedeltas(NOTHING, longest)),
        factor=draw(st.floats(1, allow_infinity=False)),
        longest=longest,
        jitter=draw(st.floats(0, 1)),
    )


@given(backoffs(), attempts, randoms)
def test_a_delay_is_never_negative_nor_longer_than_the_longest(backoff: Backoff, attempt: int, drawn: float):
    assert NOTHING <= backoff.delay(attempt, lambda: drawn) <= backoff.longest


@given(backoffs(), attempts)
def test_without_luck_a_delay_lies_between_the_first_and_the_longest(backoff: Backoff, attempt: int):
    assert backoff.first <= backoff.delay(attempt, lambda: 0.0) <= backoff.longest


@given(backoffs(), st.integers(1, 10_000), randoms)
def test_a_later_attempt_never_waits_less(backoff: Backoff, attempt: int, drawn: float):
    assert backoff.delay(attempt, lambda: drawn) <= backoff.delay(attempt + 1, lambda: drawn)


@given(backoffs(), attempts, randoms)
def test_jitter_takes_away_at_most_its_share(backoff: Backoff, attempt: int, drawn: float):
    whole, jittered = backoff.delay(attempt, lambda: 0.0), backoff.delay(attempt, lambda: drawn)
    assert whole * (1 - backoff.jitter) - timedelta(microseconds=1) <= jittered <= whole


def test_the_delay_grows_by_its_factor_until_the_longest():
    backoff = Backoff(first=timedelta(seconds=1), factor=3, longest=timedelta(seconds=20), jitter=0)
    delays = [backoff.delay(attempt, lambda: 0.5).total_seconds() for attempt in range(1, 6)]
    assert delays == [1, 3, 9, 20, 20]


def test_the_defaults_wait_a_second_then_twice_as_long_up_to_ten_minutes():
    assert [Backoff().delay(attempt, lambda: 0.0).total_seconds() for attempt in (1, 2, 3, 11)] == [1, 2, 4, 600]
    assert Backoff().delay(1, lambda: 0.5) == timedelta(seconds=0.75)


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": timedelta(seconds=-1)},
        {"first": timedelta(minutes=11)},
        {"longest": timedelta(days=2)},
        {"factor": 0.5},
        {"factor": float("nan")},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": float("nan")},
    ],
    ids=str,
)
def test_a_backoff_that_makes_no_sense_is_refused(wrong: dict[str, float | timedelta]):
    with pytest.raises(ValueError, match="backoff wants"):
        Backoff(**wrong)  # type: ignore[arg-type]
