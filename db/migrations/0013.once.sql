-- What keeps a task from being enqueued twice: unique_key, for as long as a task with it lives, and idempotency keys, for a
-- day after a request.
-- depends: 0012.views

-- Store a task (an object as taskflow.enqueue_held takes in its array) unless a live one has its unique_key. Then
-- *on_conflict* decides: reject raises unique_violation; existing answers that one; replace gives that one the new payload
-- as long as it is queued and of the same type, and raises unique_violation otherwise. *outcome* is added, existing or replaced.
CREATE FUNCTION taskflow.enqueue_unique(task jsonb, on_conflict text, OUT id bigint, OUT outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key text := task ->> 'unique_key';
    violated text;
    live record;
BEGIN
    IF on_conflict IS NULL OR on_conflict NOT IN ('reject', 'existing', 'replace') THEN
        RAISE invalid_parameter_value USING MESSAGE = 'on_conflict: is none of reject, existing, replace';
    END IF;
    IF key IS NULL THEN
        id := taskflow.enqueue_held(jsonb_build_array(task));
        outcome := 'added';
        RETURN;
    END IF;
    -- What stands in the way may end before it is looked at, so that it is tried again.
    FOR try IN 1..10 LOOP
        SELECT tasks.id, tasks.status, tasks.type INTO live
        FROM taskflow.tasks
        WHERE tasks.unique_key = key AND tasks.status IN ('queued', 'running');
        IF NOT FOUND THEN
            BEGIN
                id := taskflow.enqueue_held(jsonb_build_array(task));
                outcome := 'added';
                RETURN;
            EXCEPTION WHEN unique_violation THEN
                GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
                IF violated <> 'tasks_unique_key' THEN
                    RAISE;
                END IF;
                CONTINUE;
            END;
        END IF;
        IF on_conflict = 'existing' THEN
            id := live.id;
            outcome := 'existing';
            RETURN;
        ELSIF on_conflict = 'replace' AND live.type <> task ->> 'type' THEN
            RAISE unique_violation USING
                MESSAGE = format('task %s has this unique_key and is of another type, %s', live.id, live.type),
                CONSTRAINT = 'tasks_unique_key';
        ELSIF on_conflict = 'replace' THEN
            UPDATE taskflow.tasks
            SET payload = coalesce(task -> 'payload', '{}'), updated_at = now()
            WHERE tasks.id = live.id AND tasks.status = 'queued'
            RETURNING tasks.id INTO id;
            IF FOUND THEN
                outcome := 'replaced';
                RETURN;
            END IF;
            SELECT tasks.id, tasks.status INTO live FROM taskflow.tasks WHERE tasks.id = live.id AND tasks.status = 'running';
            CONTINUE WHEN NOT FOUND;
        END IF;
        EXIT;
    END LOOP;
    RAISE unique_violation USING
        MESSAGE = format('task %s is %s and has this unique_key', live.id, live.status), CONSTRAINT = 'tasks_unique_key';
END
$$;

-- Requests that stored tasks. Each row is written in the transaction that stores them.
CREATE TABLE taskflow.idempotency_keys (
    key        bytea PRIMARY KEY,               -- SHA-256 of who sent it, and of the key
    request    bytea NOT NULL,                  -- SHA-256 of the path and the body
    task_ids   bigint[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT a_key_is_a_hash CHECK (octet_length(key) = 32 AND octet_length(request) = 32)
);
CREATE INDEX idempotency_keys_age ON taskflow.idempotency_keys (created_at);

-- Forget at most *at_most* keys that are older than a day; how many they were.
CREATE FUNCTION taskflow.prune_keys(at_most integer) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH pruned AS (
        DELETE FROM taskflow.idempotency_keys
        WHERE key = ANY (ARRAY(
            SELECT key
            FROM taskflow.idempotency_keys
            WHERE created_at < now() - interval '1 day'
            ORDER BY created_at
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ))
        RETURNING key
    )
    SELECT count(*) FROM pruned
$$;
