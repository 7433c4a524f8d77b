"""The words of Taskflow, as types, are those of the database."""

import pytest
from conftest import ask

from taskflow.database import Connection
from taskflow.model import EVERYDAY, Priority, Status


@pytest.mark.parametrize(("words", "enum"), [(Priority, "priority"), (Status, "status")])
async def test_the_enums_of_python_and_of_the_database_have_the_same_members_in_the_same_order(
    conn: Connection, words: type[Priority] | type[Status], enum: str
):
    members = "SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = %s::regtype"
    assert await ask(conn, members, f"taskflow.{enum}") == [member.value for member in words]


def test_three_statuses_are_final():
    assert [status.value for status in Status if status.is_final] == ["succeeded", "failed", "cancelled"]


def test_a_worker_that_names_no_priority_takes_all_but_test_in_order():
    assert list(EVERYDAY) == [priority for priority in Priority if priority is not Priority.TEST]
