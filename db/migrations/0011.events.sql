-- What happens to tasks, told to those who watch, and only while somebody does. A server with watchers holds the advisory
-- lock (1952543595, 1) in shared mode and notifies the workers with `watch:`; who changes tasks calls taskflow.tell(…).
-- depends: 0010.in_bulk

-- One row for each batch of changes, kept for some minutes so that a stream can be resumed. A row without changes says
-- that nobody had watched before it.
CREATE TABLE taskflow.events (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    count   integer NOT NULL,      -- of the changes
    changes json NOT NULL          -- an array of objects: task_id, name, type, priority, status, attempt
)
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Whether somebody watches. As with idle workers, it may say yes too often, but never no while somebody does.
CREATE FUNCTION taskflow.is_watched() RETURNS boolean
LANGUAGE sql VOLATILE
RETURN NOT (pg_try_advisory_lock(1952543595, 1) AND pg_advisory_unlock(1952543595, 1));

-- Tell those who watch, if there are any, how tasks *ids* stand now; whether there are any. *status* is for callers that
-- change it in the same statement.
CREATE FUNCTION taskflow.tell(ids bigint[], status taskflow.status DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    event bigint;
BEGIN
    IF NOT taskflow.is_watched() THEN
        RETURN false;
    END IF;
    INSERT INTO taskflow.events (count, changes)
    SELECT count(*), json_agg(json_build_object(
               'task_id', task.id, 'name', task.name, 'type', task.type, 'priority', task.priority,
               'status', coalesce($2, task.status), 'attempt', task.attempt))
    FROM taskflow.tasks AS task
    WHERE task.id = ANY ($1)
    HAVING count(*) > 0
    RETURNING id INTO event;
    IF event IS NOT NULL THEN
        PERFORM taskflow.notify('taskflow_events', event::text);
    END IF;
    RETURN true;
END
$$;
