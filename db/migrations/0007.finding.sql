-- What finding tasks needs.
-- depends: 0006.by_hand

-- Held tasks are in no other index; those that never are cost it nothing.
CREATE INDEX tasks_held ON taskflow.tasks (priority, scheduled_at, id) WHERE status = 'queued' AND held;

-- The first id of the tasks that were created at *moment* or later, by halves: as if ids were drawn in the order of
-- created_at. They are, except in transactions that overlap; so allow for the longest one.
CREATE FUNCTION taskflow.first_id_since(moment timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    low bigint := (SELECT coalesce(min(id), 1) FROM taskflow.tasks);
    high bigint := (SELECT coalesce(max(id), 0) + 1 FROM taskflow.tasks);
    middle bigint;
    found record;
BEGIN
    WHILE low < high LOOP
        middle := low + (high - low) / 2;
        SELECT id, created_at INTO found FROM taskflow.tasks WHERE id >= middle ORDER BY id LIMIT 1;
        IF found.created_at >= moment THEN
            high := middle;
        ELSE
            low := found.id + 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;
