-- Views for people: what waits, runs, failed, is done, and needs a look. docs/sql.md describes them.
-- depends: 0011.events

-- Queued tasks in the order of claiming. `waits` is negative while a task is not due yet. The inner orders are those of
-- two indexes, which are merged, so that the first rows of a long queue come at once.
CREATE VIEW taskflow.queue AS
SELECT id, priority, type, name, attempt, max_attempts, scheduled_at, now() - scheduled_at AS waits, held
FROM (
    (SELECT id, priority, type, name, attempt, max_attempts, scheduled_at, held
     FROM taskflow.tasks
     WHERE status = 'queued' AND NOT held
     ORDER BY priority, scheduled_at, id)
    UNION ALL
    (SELECT id, priority, type, name, attempt, max_attempts, scheduled_at, held
     FROM taskflow.tasks
     WHERE status = 'queued' AND held
     ORDER BY priority, scheduled_at, id)
) AS queued
ORDER BY priority, scheduled_at, id;

-- Running tasks, the longest first, with who runs them.
CREATE VIEW taskflow.running AS
SELECT task.id, task.priority, task.type, task.name, task.attempt, task.max_attempts, task.started_at,
       now() - task.started_at AS runs, worker.name AS worker, worker.host
FROM taskflow.tasks AS task
LEFT JOIN taskflow.workers AS worker ON worker.id = task.worker_id
WHERE task.status = 'running'
ORDER BY task.started_at, task.id;

-- Failed tasks, the latest first, with the first line of their error.
CREATE VIEW taskflow.failed AS
SELECT id, priority, type, name, attempt, max_attempts, finished_at, split_part(error, E'\n', 1) AS error
FROM taskflow.tasks
WHERE status = 'failed'
ORDER BY updated_at DESC, id DESC;

-- What was finished in each minute of the last hour, the latest first: how much, and how long a task waited and ran on
-- average. It reads all tasks.
CREATE VIEW taskflow.throughput AS
SELECT date_trunc('minute', finished_at) AS minute,
       count(*) FILTER (WHERE status = 'succeeded') AS succeeded,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
       avg(started_at - scheduled_at) AS waited,
       avg(finished_at - started_at) AS ran
FROM taskflow.tasks
WHERE finished_at > now() - interval '1 hour'
GROUP BY minute
ORDER BY minute DESC;

-- Tasks that will not move unless somebody does something, or the rescue comes: what runs on a worker that is gone, and
-- what has been due for a minute although no worker claims its priority.
CREATE VIEW taskflow.stuck AS
SELECT task.id, task.status, task.priority, task.type, task.name, task.started_at AS since,
       format('worker %s on %s is silent since %s', coalesce(worker.name, task.worker_id::text), worker.host,
              coalesce(worker.stopped_at, worker.heartbeat_at)) AS why
FROM taskflow.tasks AS task
LEFT JOIN taskflow.workers AS worker ON worker.id = task.worker_id
WHERE task.status = 'running'
  AND (worker.id IS NULL OR worker.stopped_at IS NOT NULL OR worker.heartbeat_at < now() - interval '30 seconds')
UNION ALL
SELECT task.id, task.status, task.priority, task.type, task.name, task.scheduled_at,
       format('no worker claims priority %s', task.priority)
FROM taskflow.tasks AS task
WHERE task.status = 'queued' AND NOT task.held AND task.scheduled_at < now() - interval '1 minute'
  AND task.priority <> ALL (
      SELECT unnest(priorities)
      FROM taskflow.workers
      WHERE stopped_at IS NULL AND heartbeat_at > now() - interval '30 seconds'
  );
