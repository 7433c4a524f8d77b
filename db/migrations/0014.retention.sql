-- What is needed to forget what is old: finished tasks are deleted by taskflow.delete_final.
-- depends: 0013.once

-- Chores that one worker does for all: whoever moves next_at on, once it has passed, has the turn.
CREATE TABLE taskflow.turns (
    chore   text PRIMARY KEY,
    next_at timestamptz NOT NULL
);

-- Workers that stopped so long ago that no task tells of them any more, or at least nobody asks.
CREATE FUNCTION taskflow.prune_workers() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM taskflow.workers AS worker
    WHERE worker.stopped_at < now() - interval '90 days'
      AND NOT EXISTS (SELECT FROM taskflow.tasks AS task WHERE task.worker_id = worker.id AND task.status = 'running')
$$;
