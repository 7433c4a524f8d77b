"""A delayed task starts when it is due, on a worker that has nothing else to do."""

from support import Workers

START = """
SELECT extract(epoch FROM entered_at - scheduled_at)::float8
FROM ledger JOIN taskflow.tasks AS task ON task.id = task_id
ORDER BY 1
"""


def test_a_delayed_task_starts_at_its_time_on_an_idle_worker(workers: Workers):
    workers.start_sleepy()
    ids = [workers.database.enqueue("quick", delay=1 + 0.2 * n) for n in range(10)]
    for id in ids:
        workers.database.await_status(id, "succeeded")
    late = [seconds for (seconds,) in workers.database.rows(START)]
    assert late[0] >= 0
    assert late[len(late) // 2] < 0.5, late  # a few milliseconds on a quiet machine
