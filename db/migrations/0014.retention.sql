-- What is needed to forget what is old: finished tasks are deleted by taskflow.delete_final.
-- depends: 0013.once

-- Chores that one worker does for all: whoever moves next_at on, once it has passed, has the turn.
CREATE TABLE taskflow.turns (
    chore   text PRIMARY KEY,
    next_at timestamptz NOT NULL
);

-- Groups that are a day old, and of which nothing is left: looked for among *at_most* from beyond *after* on. The last
-- that was looked at; null: that was all.
CREATE FUNCTION taskflow.prune_groups(after bigint, at_most integer) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH page AS MATERIALIZED (
        SELECT id, callback_id
        FROM taskflow.groups
        WHERE id > $1 AND created_at < now() - interval '1 day'
        ORDER BY id
        LIMIT $2
    ), pruned AS (
        DELETE FROM taskflow.groups AS old
        USING page
        WHERE old.id = page.id
          AND NOT EXISTS (SELECT FROM taskflow.members AS member WHERE member.group_id = page.id)
          AND NOT EXISTS (SELECT FROM taskflow.tasks AS task WHERE task.id = page.callback_id)
    )
    SELECT CASE WHEN count(*) = $2 THEN max(id) END FROM page
$$;

-- Workers that stopped so long ago that no task tells of them any more, or at least nobody asks.
CREATE FUNCTION taskflow.prune_workers() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM taskflow.workers AS worker
    WHERE worker.stopped_at < now() - interval '90 days'
      AND NOT EXISTS (SELECT FROM taskflow.tasks AS task WHERE task.worker_id = worker.id AND task.status = 'running')
$$;
