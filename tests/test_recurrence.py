"""Rules: what is read, what is refused and how fast, and when they tick where clocks change."""

import time
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from taskflow.errors import InvalidSchedule
from taskflow.model import Missed
from taskflow.recurrence import MOST, Rule, check_name, parse_rule

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def local(text: str, time_zone: str, start: str, count: int) -> list[str]:
    """The next ticks after *start*, a local time, as the clocks there show them."""
    zone = ZoneInfo(time_zone)
    ticks = parse_rule(text, time_zone).ticks(datetime.fromisoformat(start).replace(tzinfo=zone))
    return [f"{tick.astimezone(zone):%d %H:%M %Z}" for tick in islice(ticks, count)]


@pytest.mark.parametrize(
    ("text", "ticks", "words"),
    [
        ("0 7 * * 1-5", ["2026-02-02 07:00", "2026-02-03 07:00"], "At 07:00 on Monday through Friday"),
        ("  */15   *  * * * ", ["2026-01-31 12:15", "2026-01-31 12:30"], "Every 15th minute of every hour"),
        ("@daily", ["2026-02-01 00:00", "2026-02-02 00:00"], "At 00:00 every day"),
        ("0 0 L * *", ["2026-02-28 00:00", "2026-03-31 00:00"], "At 00:00 on the last day of every month"),
        ("0 9 * * MON#1", ["2026-02-02 09:00", "2026-03-02 09:00"], "At 09:00 on the first Monday of the month"),
        ("every 90s", ["2026-01-31 12:01", "2026-01-31 12:03"], "Every 90 seconds"),
        ("every 2 h", ["2026-01-31 14:00", "2026-01-31 16:00"], "Every 2 hours"),
        ("every 60s", ["2026-01-31 12:01", "2026-01-31 12:02"], "Every minute"),
    ],
)
def test_a_rule_ticks_and_is_told_in_plain_english(text: str, ticks: list[str], words: str):
    rule = parse_rule(text)
    assert [f"{tick:%Y-%m-%d %H:%M}" for tick in islice(rule.ticks(NOON), 2)] == ticks
    assert rule.describe() == words
    assert parse_rule(rule.text) == rule


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "* * * *", "* * * * * *", "60 * * * *", "0 0 31 2 *", "0 0 */31 * MON#5", "0 0 30 2 */7",
        "* * * * 8", "1-0 * * * *", "*/0 * * * *", "a b c d e", "@reboot", "@DAILY", "every", "every 0s", "every 5",
        "every 367d", "every 99999999d", "every -5s", "every 1.5s", "every 5s 5s", "0 7 * * 1\x00", "٠ ٧ * * *",
        "0 0 1-5 * *#5", "L L L L L", "1#1#1 * * * *", "* " * 5000, "1," * 5000 + "1 * * * *", "9" * 5000 + " * * * *",
        "1/1/1/1/1 * * * *", "0 0 * * 1/1#2", "0 0 * * 1,2#1/2", "0 0 L# 2 *",
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_kept_is_refused_within_a_tenth_of_a_second(text: str):
    began = time.perf_counter()
    with pytest.raises(InvalidSchedule) as refused:
        parse_rule(text)
    assert time.perf_counter() - began < 0.1
    assert refused.value.field == "rule"
    assert len(str(refused.value)) < 200


@given(some.text(alphabet="0123456789*/,-L#MONW ", min_size=9, max_size=60))
def test_whatever_looks_like_cron_is_read_or_refused_and_nothing_else(text: str):
    began = time.perf_counter()
    try:
        rule = parse_rule(text, "Europe/Berlin")
    except InvalidSchedule:
        pass
    else:
        assert rule.next_after(NOON) > NOON
        assert rule.describe()
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "zone", ["", "Mars", "Europe", "../../etc/passwd", "/etc/localtime", "localtime", "x" * 5000, "UTC\x00", "\ud800"]
)
def test_an_unknown_time_zone_is_refused(zone: str):
    with pytest.raises(InvalidSchedule) as refused:
        parse_rule("@daily", zone)
    assert refused.value.field == "time_zone"


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", "a\nb", "a\x00b", "x" * 129, "\ud800"])
def test_a_name_that_cannot_stand_in_a_path_is_refused(name: str):
    with pytest.raises(InvalidSchedule):
        check_name(name)


def test_a_tick_in_an_hour_that_is_skipped_comes_at_its_end():
    ticks = local("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2)
    assert ticks == ["29 03:00 CEST", "30 02:30 CEST"]


def test_a_tick_at_a_fixed_hour_that_is_repeated_comes_once_at_the_first():
    ticks = local("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2)
    assert ticks == ["25 02:30 CEST", "26 02:30 CET"]
    assert local("30 2 * * *", "Europe/Berlin", "2026-10-25T02:45", 1) == ["26 02:30 CET"]


def test_ticks_that_come_every_few_minutes_go_on_through_the_change():
    ticks = local("*/30 * * * *", "Europe/Berlin", "2026-10-25T01:30", 5)
    assert ticks == ["25 02:00 CEST", "25 02:30 CEST", "25 02:00 CET", "25 02:30 CET", "25 03:00 CET"]


@given(
    some.sampled_from(["0,30 1,2,3 * * *", "30 2 * * *", "*/20 * * * *", "0 */2 * * *", "15 0 * * *", "every 7h"]),
    some.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "America/Santiago"]),
    some.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=some.just(UTC)),
)
def test_wherever_one_begins_to_look_the_ticks_are_the_same(text: str, zone: str, start: datetime):
    rule = parse_rule(text, zone)
    ticks = list(islice(rule.ticks(start), 20))
    assert ticks == sorted(set(ticks))
    for earlier, later in pairwise(ticks):
        assert rule.next_after(earlier) == later
        assert rule.next_after(later - timedelta(seconds=1)) == later


def test_of_missed_ticks_none_one_or_each_gets_a_task():
    rule = parse_rule("every 10m")
    first, late, punctual = NOON, NOON + timedelta(hours=1, minutes=1), NOON + timedelta(hours=1, seconds=59)
    assert rule.due(Missed.SKIP, first, late) == []
    assert rule.due(Missed.SKIP, first, punctual) == [NOON + timedelta(hours=1)]
    assert rule.due(Missed.ONCE, first, late) == [NOON + timedelta(hours=1)]
    assert rule.due(Missed.ALL, first, late) == [NOON + timedelta(minutes=10 * n) for n in range(7)]


@pytest.mark.parametrize("text", ["every 1s", "* * * * *", "*/7 3 * * *", "* 3 1 1 *"])
def test_years_of_missed_ticks_are_found_in_a_moment_and_the_latest_thousand_count(text: str):
    rule = parse_rule(text, "Europe/Berlin")
    first = rule.next_after(datetime(2006, 1, 1, tzinfo=UTC))
    began = time.perf_counter()
    ticks = rule.latest(first, NOON, MOST)
    (latest,) = rule.latest(first, NOON, 1)
    assert time.perf_counter() - began < 1
    assert len(ticks) == MOST
    assert ticks[-1] == latest <= NOON < rule.next_after(latest)
    assert all(rule.next_after(tick) == after for tick, after in zip(ticks[::100], ticks[1::100], strict=True))


def test_a_rule_that_sql_has_changed_still_lets_the_first_tick_pass():
    assert Rule("0 0 1 1 *", "UTC").due(Missed.ONCE, NOON, NOON + timedelta(minutes=5)) == [NOON]
