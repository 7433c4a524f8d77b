-- Every change of a task's status, oldest first: the original's history table, as a view over what is stored anyway.
-- depends: 0001.tasks

CREATE VIEW taskflow.task_history AS
SELECT task_id, old_status, new_status, attempt, worker_id, reason, created_at
FROM (
    -- The attempts left behind: started; ended (re-queued at once, or final); re-queued later by hand.
    SELECT a.task_id, a.id AS position, step.number, step.old_status, step.new_status, a.attempt, a.worker_id,
           step.reason, step.created_at
    FROM taskflow.attempts AS a
    CROSS JOIN LATERAL (VALUES
        (1, 'queued'::taskflow.status, 'running'::taskflow.status, NULL, a.started_at),
        (2,
         CASE WHEN a.started_at IS NULL THEN 'queued' ELSE 'running' END::taskflow.status,
         CASE WHEN a.requeued_at IS NULL THEN 'queued'
              WHEN a.outcome = 'cancelled' THEN 'cancelled'
              ELSE 'failed' END::taskflow.status,
         CASE WHEN a.requeued_at IS NULL THEN concat_ws(': ', a.reason, split_part(a.error, E'\n', 1))
              ELSE split_part(a.error, E'\n', 1) END,
         a.ended_at),
        (3,
         CASE WHEN a.outcome = 'cancelled' THEN 'cancelled' ELSE 'failed' END::taskflow.status,
         'queued'::taskflow.status,
         a.reason,
         a.requeued_at)
    ) AS step (number, old_status, new_status, reason, created_at)
    WHERE step.created_at IS NOT NULL

    UNION ALL

    -- The current attempt, told by the task's own row.
    SELECT t.id, 9223372036854775807, step.number, step.old_status, step.new_status, t.attempt, t.worker_id,
           step.reason, step.created_at
    FROM taskflow.tasks AS t
    CROSS JOIN LATERAL (VALUES
        (1, 'queued'::taskflow.status, 'running'::taskflow.status, NULL, t.started_at),
        (2,
         CASE WHEN t.started_at IS NULL THEN 'queued' ELSE 'running' END::taskflow.status,
         t.status,
         CASE WHEN t.status = 'succeeded' THEN NULL ELSE split_part(t.error, E'\n', 1) END,
         t.finished_at)
    ) AS step (number, old_status, new_status, reason, created_at)
    WHERE step.created_at IS NOT NULL
) AS transitions
ORDER BY task_id, position, number;
