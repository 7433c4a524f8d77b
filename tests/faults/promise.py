"""What handlers enter in the ledger, and what is held against the history in the end."""

from collections.abc import Mapping
from typing import Final, LiteralString

APP: Final = '''
"""Task types of the tests. Handlers enter when they began and ended in the ledger, over a connection of their own."""
import asyncio
import os
import threading
import time
import uuid

import psycopg

from taskflow import task
from taskflow.logs import current_task

ENTRY = """
INSERT INTO ledger (execution, event, task_id, attempt, pid) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
alone = threading.Lock()
connection = None


def enter(execution, event):
    """Returns once the entry is durable, however often Postgres goes away meanwhile, but for not more than 15 s."""
    global connection
    current = current_task.get()
    give_up = time.monotonic() + 15
    while True:
        try:
            with alone:
                if connection is None or connection.closed:
                    connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="ledger")
                connection.execute(ENTRY, [execution, event, current.id, current.attempt, os.getpid()])
            return
        except psycopg.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)


@task("work", max_attempts=1000)
async def work(payload: dict):
    execution = uuid.uuid4()
    await asyncio.to_thread(enter, execution, "began")
    await asyncio.sleep(payload["seconds"])
    await asyncio.to_thread(enter, execution, "done")


@task("work_in_thread", max_attempts=1000)
def work_in_thread(payload: dict):
    execution = uuid.uuid4()
    enter(execution, "began")
    time.sleep(payload["seconds"])
    enter(execution, "done")


@task("work_with_result", max_attempts=1000)
async def work_with_result(payload: dict):
    await work(payload)
    return payload


@task("fail_once", max_attempts=1000)
async def fail_once(payload: dict):
    if current_task.get().attempt == 1:
        raise ValueError("not yet")
    await work(payload)


@task("block_the_loop", max_attempts=1000)
async def block_the_loop(payload: dict):
    work_in_thread(payload)


@task("end_in_silence", max_attempts=1000)
async def end_in_silence(payload: dict):
    """Its end needs no Postgres."""
    await asyncio.to_thread(enter, uuid.uuid4(), "began")
    await asyncio.sleep(payload["seconds"])


@task("kill_the_process", max_attempts=3)
async def kill_the_process(payload: dict):
    await asyncio.to_thread(enter, uuid.uuid4(), "began")
    os._exit(137)
'''

LEDGER: Final = """
CREATE TABLE IF NOT EXISTS ledger (
    execution uuid NOT NULL,
    event text NOT NULL,
    task_id bigint NOT NULL,
    attempt integer NOT NULL,
    pid integer NOT NULL,
    entered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (execution, event)
);
CREATE INDEX IF NOT EXISTS ledger_task ON ledger (task_id);
TRUNCATE ledger, taskflow.tasks, taskflow.attempts, taskflow.workers;
"""

MISTAKES: Final[Mapping[str, LiteralString]] = {
    # Each time a task is re-queued by hand it has one more.
    "without exactly one final transition": """
        SELECT id, count(*) FILTER (WHERE history.new_status IN ('succeeded', 'failed', 'cancelled')),
               count(*) FILTER (WHERE history.old_status IN ('failed', 'cancelled'))
        FROM taskflow.tasks LEFT JOIN taskflow.task_history AS history ON history.task_id = id
        GROUP BY id
        HAVING count(*) FILTER (WHERE history.new_status IN ('succeeded', 'failed', 'cancelled'))
               - count(*) FILTER (WHERE history.old_status IN ('failed', 'cancelled')) <> 1
    """,
    "an attempt that ended twice": """
        SELECT task_id, attempt, count(*) FROM taskflow.task_history WHERE old_status = 'running'
        GROUP BY task_id, attempt HAVING count(*) > 1
    """,
    "succeeded, but the attempt was not executed to its end": """
        SELECT id, attempt FROM taskflow.tasks
        WHERE status = 'succeeded' AND type <> 'end_in_silence' AND NOT EXISTS (
            SELECT FROM ledger WHERE task_id = id AND ledger.attempt = tasks.attempt AND event = 'done')
    """,
    "executed in an attempt that was never made": """
        SELECT task_id, ledger.attempt FROM ledger LEFT JOIN taskflow.tasks ON id = task_id
        WHERE id IS NULL OR ledger.attempt > tasks.attempt
    """,
    "failed, although its type does not": """
        SELECT id, type, error FROM taskflow.tasks WHERE status = 'failed' AND type <> 'kill_the_process'
    """,
}
