"""Where claims continue, and when they start anew: rules over given times, no clock and no database."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.model import Priority
from taskflow.queue.claim import Mark
from taskflow.worker.claimer import Watermark

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
HIGH, LOW = Mark(NOON, 7), Mark(NOON + 3, 9)


def after_a_full_look(
    began: float = 100.0, took: float = 0.001, marks: dict[Priority, Mark] | None = None
) -> tuple[Watermark, float]:
    """A watermark whose full look began at *began*, and when that look ended."""
    watermark = Watermark()
    assert watermark.next(began, idle=False) == (True, {})
    watermark.looked(True, {Priority.HIGH: HIGH} if marks is None else marks, began, began + took)
    return watermark, began + took


def test_the_first_look_is_a_full_one():
    assert Watermark().next(0.5, idle=True) == (True, {})
    assert Watermark().next(1.0, idle=False) == (True, {})


def test_a_busy_worker_continues_where_its_last_look_ended():
    watermark, now = after_a_full_look()
    assert watermark.next(now + 0.1, idle=False) == (False, {Priority.HIGH: HIGH})


def test_each_priority_has_a_mark_of_its_own_and_keeps_it_while_others_move_on():
    watermark, now = after_a_full_look()
    watermark.looked(False, {Priority.LOW: LOW}, now, now)
    assert watermark.next(now + 0.1, idle=False) == (False, {Priority.HIGH: HIGH, Priority.LOW: LOW})
    further = Mark(NOON + 1, 8)
    watermark.looked(False, {Priority.HIGH: further}, now, now)
    assert watermark.next(now + 0.1, idle=False) == (False, {Priority.HIGH: further, Priority.LOW: LOW})


def test_a_look_that_claimed_nothing_moves_no_mark():
    watermark, now = after_a_full_look()
    watermark.looked(False, {}, now, now)
    assert watermark.next(now + 0.1, idle=False) == (False, {Priority.HIGH: HIGH})


def test_the_marks_that_are_handed_out_are_the_lookers_own():
    watermark, now = after_a_full_look()
    _, marks = watermark.next(now + 0.1, idle=False)
    marks.clear()
    assert watermark.next(now + 0.1, idle=False) == (False, {Priority.HIGH: HIGH})


def test_a_busy_worker_takes_a_full_look_once_a_second():
    watermark, now = after_a_full_look()
    assert watermark.next(now + 0.999, idle=False)[0] is False
    assert watermark.next(now + 1.0, idle=False) == (True, {})


def test_only_a_full_look_puts_the_next_one_off():
    watermark, now = after_a_full_look()
    watermark.looked(False, {Priority.HIGH: HIGH}, now + 0.9, now + 0.95)
    assert watermark.next(now + 1.0, idle=False) == (True, {})
    watermark.looked(True, {}, now + 1.0, now + 1.0)
    assert watermark.next(now + 1.5, idle=False)[0] is False


def test_an_idle_worker_takes_a_full_look_each_time_while_that_is_quick():
    watermark, now = after_a_full_look(took=0.001)
    assert watermark.next(now + 0.021, idle=True) == (True, {})


def test_an_idle_worker_whose_full_looks_are_slow_spends_a_twentieth_of_its_time_on_them():
    watermark, now = after_a_full_look(took=0.5)
    assert watermark.next(now + 9.9, idle=True)[0] is False
    assert watermark.next(now + 10.1, idle=True) == (True, {})


def test_between_slow_full_looks_an_idle_worker_looks_a_little_behind_its_marks():
    watermark, now = after_a_full_look(took=0.5)
    expected = {Priority.HIGH: Mark(NOON - Watermark.MARGIN, 0)}
    assert watermark.next(now + 0.1, idle=True) == (False, expected)
    assert watermark.next(now + 0.1, idle=True) == (False, expected)  # and not further and further behind


def test_a_slow_full_look_holds_a_busy_worker_off_as_well():
    watermark, now = after_a_full_look(took=0.5)
    assert watermark.next(now + 5, idle=False) == (False, {Priority.HIGH: HIGH})
    assert watermark.next(now + 10.1, idle=False) == (True, {})


def test_a_full_look_that_became_quick_again_is_taken_often_again():
    watermark, now = after_a_full_look(took=0.5)
    watermark.looked(True, {}, now + 11, now + 11.001)
    assert watermark.next(now + 11.1, idle=True) == (True, {})


@pytest.mark.parametrize("idle", [False, True])
@given(took=st.floats(0.0, 30.0), pauses=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200))
def test_full_looks_are_neither_too_dear_nor_too_rare(idle: bool, took: float, pauses: list[float]):
    watermark, now = after_a_full_look(took=took)
    ended = now
    for pause in pauses:
        now += pause
        full, _ = watermark.next(now, idle=idle)
        since = now - ended
        bound = max(20 * took, 0.0 if idle else 1.0)
        assert full == (since >= bound) or abs(since - bound) < 1e-6
        if full:
            now += took
            ended = now
        watermark.looked(full, {}, now - took if full else now, now)
