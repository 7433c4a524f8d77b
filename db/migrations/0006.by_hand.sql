-- What people do to tasks by hand, from SQL and from the API alike: cancel, retry, recover.
-- depends: 0005.tokens

-- Queued and running tasks become cancelled, at once; the others are left alone and not answered. The worker of a
-- running one is told, as `cancel:<worker id>`, to interrupt its attempt, whose later outcome is dropped in any case.
CREATE FUNCTION taskflow.cancel(ids bigint[], reason text DEFAULT NULL) RETURNS SETOF bigint
LANGUAGE sql VOLATILE AS $$
    WITH live AS (
        SELECT id, status, worker_id
        FROM taskflow.tasks
        WHERE id = ANY ($1) AND status IN ('queued', 'running')
        ORDER BY id
        FOR UPDATE
    ), cancelled AS (
        UPDATE taskflow.tasks AS task
        SET status = 'cancelled', finished_at = now(), updated_at = now(), error = $2
        FROM live
        WHERE task.id = live.id
        RETURNING task.id
    ), told AS MATERIALIZED (
        SELECT taskflow.notify('taskflow', 'cancel:' || worker_id)
        FROM (SELECT DISTINCT worker_id FROM live WHERE status = 'running') AS workers
    )
    SELECT id FROM cancelled WHERE (SELECT count(*) FROM told) >= 0
$$;

-- Failed and cancelled tasks, queued again with a fresh budget of attempts; the others are left alone and not answered.
CREATE FUNCTION taskflow.retry(ids bigint[]) RETURNS SETOF bigint
LANGUAGE sql VOLATILE AS $$
    SELECT id FROM taskflow.requeue($1, 'retry by hand') AS id
$$;

-- At most *at_most* tasks of *status* that have not changed for *past_seconds*; how many they were. Failed ones are
-- queued again with a fresh budget of attempts; queued ones that are due keep their place, and their workers are woken.
-- What somebody else is changing at this moment is passed over.
CREATE FUNCTION taskflow.recover(status taskflow.status, past_seconds integer, at_most integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    recovered bigint;
BEGIN
    IF $1 = 'failed' THEN
        SELECT count(*) INTO recovered
        FROM taskflow.requeue(
            ARRAY(
                SELECT task.id
                FROM taskflow.tasks AS task
                WHERE task.status = 'failed' AND task.updated_at <= now() - make_interval(secs => $2)
                  AND task.id = ANY (ARRAY(
                        SELECT old.id
                        FROM taskflow.tasks AS old
                        WHERE old.status = 'failed' AND old.updated_at <= now() - make_interval(secs => $2)
                        ORDER BY old.updated_at, old.id
                        LIMIT $3))
                ORDER BY task.id
                FOR UPDATE SKIP LOCKED
            ),
            'recovery');
    ELSIF $1 = 'queued' THEN
        WITH old AS (
            SELECT task.id
            FROM taskflow.tasks AS task
            WHERE task.status = 'queued' AND task.updated_at <= now() - make_interval(secs => $2)
              AND task.id = ANY (ARRAY(
                    SELECT due.id
                    FROM taskflow.tasks AS due
                    WHERE due.status = 'queued' AND NOT due.held AND due.scheduled_at <= now()
                      AND due.updated_at <= now() - make_interval(secs => $2)
                    ORDER BY due.priority, due.scheduled_at, due.id
                    LIMIT $3))
            ORDER BY task.id
            FOR UPDATE SKIP LOCKED
        ), touched AS (
            UPDATE taskflow.tasks AS task
            SET updated_at = now()
            FROM old
            WHERE task.id = old.id
            RETURNING task.priority
        ), woken AS MATERIALIZED (
            SELECT count(*) AS tasks, taskflow.wake(touched.priority) FROM touched GROUP BY touched.priority
        )
        SELECT coalesce(sum(tasks), 0) INTO recovered FROM woken;
    ELSE
        RAISE invalid_parameter_value USING MESSAGE = format(
            'only queued and failed tasks can be recovered, not %s', coalesce($1::text, 'null'));
    END IF;
    RETURN recovered;
END
$$;
