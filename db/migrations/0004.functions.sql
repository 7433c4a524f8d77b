-- Enqueueing from SQL, in the caller's own transaction. A plain INSERT INTO taskflow.tasks works as well.
-- depends: 0003.wake_up

CREATE FUNCTION taskflow.enqueue(
    type          text,
    payload       jsonb DEFAULT '{}',
    name          text DEFAULT NULL,              -- null: the type
    priority      taskflow.priority DEFAULT 'normal',
    max_attempts  integer DEFAULT 5,
    scheduled_at  timestamptz DEFAULT NULL,       -- null: due at once
    after         bigint[] DEFAULT NULL,          -- claimed only when these tasks have succeeded
    after_failure text DEFAULT 'cancel',          -- if one does not: cancel this one, or run it all the same
    order_key     text DEFAULT NULL,              -- tasks of one key run one at a time, in the order of their ids
    tenant        text DEFAULT NULL,              -- tenants with work take turns
    limit_key     text DEFAULT NULL,              -- for the type's limits per key
    unique_key    text DEFAULT NULL,              -- of all queued and running tasks, one may have it
    on_conflict   text DEFAULT 'reject'           -- if one has it: reject, existing or replace; see enqueue_unique
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    id bigint;
BEGIN
    IF unique_key IS NULL AND on_conflict <> 'reject' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'on_conflict: is for tasks with a unique_key';
    END IF;
    IF unique_key IS NULL AND num_nonnulls(after, order_key, tenant, limit_key) > 0 THEN
        RETURN taskflow.enqueue_held(jsonb_build_array(jsonb_build_object(
            'type', $1, 'payload', $2, 'name', $3, 'priority', $4, 'max_attempts', $5, 'scheduled_at', $6,
            'after', $7, 'after_failure', $8, 'order_key', $9, 'tenant', $10, 'limit_key', $11)));
    ELSIF unique_key IS NOT NULL THEN
        SELECT task.id INTO id
        FROM taskflow.enqueue_unique(
            jsonb_build_object(
                'type', $1, 'payload', $2, 'name', $3, 'priority', $4, 'max_attempts', $5, 'scheduled_at', $6,
                'after', $7, 'after_failure', $8, 'order_key', $9, 'tenant', $10, 'limit_key', $11, 'unique_key', $12),
            $13) AS task;
        RETURN id;
    END IF;
    INSERT INTO taskflow.tasks (type, payload, name, priority, max_attempts, scheduled_at)
    VALUES ($1, $2, coalesce($3, $1), $4, $5, coalesce($6, now()))
    RETURNING tasks.id INTO id;
    RETURN id;
END
$$;

-- Refuse keys that tell nothing of a task, such as a misspelt one, and what many tasks at once cannot do.
CREATE FUNCTION taskflow.check_many(tasks jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    SELECT key INTO wrong
    FROM jsonb_array_elements(tasks) AS task CROSS JOIN jsonb_object_keys(task) AS key
    WHERE key NOT IN ('type', 'payload', 'name', 'priority', 'max_attempts', 'scheduled_at', 'delay', 'after',
                      'after_failure', 'order_key', 'tenant', 'limit_key', 'unique_key', 'on_conflict', 'traceparent')
    LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s: is no field of a task', wrong);
    ELSIF tasks @? '$[*].on_conflict ? (@ != "reject")' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'on_conflict: many tasks can only reject';
    END IF;
END
$$;

-- Many tasks in one statement: a JSON array of objects with the parameters of taskflow.enqueue as keys, and delay in
-- seconds. All or nothing; the ids come in the array's order. A thousand tasks a call are as fast as it gets.
CREATE FUNCTION taskflow.enqueue_many(tasks jsonb) RETURNS SETOF bigint
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskflow.check_many(tasks);
    IF jsonb_path_exists(tasks, '$[*] ? (exists (@.after) || exists (@.order_key) || exists (@.tenant)
                                         || exists (@.limit_key) || exists (@.unique_key))') THEN
        RETURN QUERY SELECT taskflow.enqueue_held(tasks);
        RETURN;
    END IF;
    RETURN QUERY
    INSERT INTO taskflow.tasks (type, payload, name, priority, max_attempts, scheduled_at)
    SELECT given.type, coalesce(given.payload, '{}'), coalesce(given.name, given.type),
           coalesce(given.priority, 'normal'), coalesce(given.max_attempts, 5),
           coalesce(given.scheduled_at, now() + make_interval(secs => given.delay), now())
    FROM ROWS FROM (
            jsonb_to_recordset($1)
            AS (type text, payload jsonb, name text, priority taskflow.priority, max_attempts integer,
                scheduled_at timestamptz, delay double precision)
         ) WITH ORDINALITY AS given (type, payload, name, priority, max_attempts, scheduled_at, delay, position)
    ORDER BY given.position
    RETURNING id;
END
$$;

-- The max_attempts that gives a task its first budget again: recovery and retry by hand raise it, for attempt numbers
-- only grow. What earlier re-queues by hand used up, and what releases gave back, is not part of the first budget.
CREATE FUNCTION taskflow.fresh_budget(task_id bigint, attempt integer, max_attempts integer) RETURNS integer
LANGUAGE sql STABLE AS $$
    WITH earlier AS (
        SELECT coalesce(max(a.attempt) FILTER (WHERE a.requeued_at IS NOT NULL), 0) AS used
        FROM taskflow.attempts AS a
        WHERE a.task_id = $1
    )
    SELECT least(2147483647, $2 + greatest(1, $3 - earlier.used - (
        SELECT count(*)
        FROM taskflow.attempts AS a
        WHERE a.task_id = $1 AND a.outcome = 'released' AND a.attempt > earlier.used
    )))::integer
    FROM earlier
$$;

-- Failed or cancelled tasks back to queued, with a fresh budget of attempts; the attempts they leave stay in the
-- history with *reason*. Answers the ids that were re-queued: what was neither failed nor cancelled is left alone, and so
-- is what has the unique_key of a live task, or of a later one among *ids*. A group's callback that still waits for others
-- waits for them as well.
CREATE FUNCTION taskflow.requeue(ids bigint[], reason text) RETURNS SETOF bigint
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH old AS (
        SELECT id, attempt, worker_id, started_at, finished_at, error, status
        FROM taskflow.tasks
        WHERE id = ANY ($1) AND status IN ('failed', 'cancelled')
          AND (unique_key IS NULL
               OR NOT (EXISTS (SELECT FROM taskflow.tasks AS live
                               WHERE live.unique_key = tasks.unique_key AND live.status IN ('queued', 'running'))
                       OR EXISTS (SELECT FROM taskflow.tasks AS later
                                  WHERE later.id = ANY ($1) AND later.id > tasks.id
                                    AND later.unique_key = tasks.unique_key
                                    AND later.status IN ('failed', 'cancelled'))))
        ORDER BY id
        FOR UPDATE
    ), left_behind AS (
        INSERT INTO taskflow.attempts
            (task_id, attempt, worker_id, started_at, ended_at, requeued_at, outcome, error, reason)
        SELECT id, attempt, worker_id, started_at, finished_at, now(), status::text::taskflow.outcome, error, $2
        FROM old
    ), requeued AS (
        UPDATE taskflow.tasks AS task
        SET status = 'queued', scheduled_at = now(), updated_at = now(),
            started_at = NULL, finished_at = NULL, worker_id = NULL,
            held = EXISTS (SELECT FROM taskflow.holds AS hold WHERE hold.task_id = task.id),
            max_attempts = taskflow.fresh_budget(task.id, task.attempt, task.max_attempts)
        FROM old
        WHERE task.id = old.id
        RETURNING task.id, task.priority
    ), held_back AS (
        UPDATE taskflow.holds AS hold
        SET state = CASE WHEN hold.position = (SELECT min(h.position) FROM taskflow.holds AS h
                                               WHERE h.task_id = hold.task_id)
                         THEN 'waiting' ELSE 'later' END::taskflow.hold_state
        FROM old
        WHERE hold.task_id = old.id
    ), called_back AS (
        INSERT INTO taskflow.holds (task_id, scheduled_at, priority, state, position, needs_success, gate)
        SELECT called.callback_id, '-infinity', 'high', 'waiting', 0, false, 'task:' || old.id
        FROM old
        JOIN taskflow.members AS member ON member.task_id = old.id
        JOIN taskflow.groups AS called ON called.id = member.group_id
        WHERE EXISTS (SELECT FROM taskflow.holds AS other
                      WHERE other.task_id = called.callback_id AND other.position = 0 AND other.state = 'waiting')
        ON CONFLICT DO NOTHING
    ), woken AS MATERIALIZED (
        SELECT taskflow.wake(priority) FROM (SELECT DISTINCT priority FROM requeued) AS priorities
    )
    SELECT requeued.id FROM requeued WHERE (SELECT count(*) FROM woken) > 0;
END
$$;
