-- Sessions that adopt at once take turns. One that came while another had not committed found all tasks locked, took that for
-- the end, and up to 20,000 tasks of the type stayed out of the limit for good.
-- depends: 0023.terms

CREATE OR REPLACE FUNCTION taskflow.adopt() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '1s' AS $$
DECLARE
    types text[] := ARRAY(SELECT type FROM taskflow.limits WHERE adopted_at IS NULL AND is_of_all
                          ORDER BY type FOR UPDATE);
    adopted bigint[];
BEGIN
    UPDATE taskflow.limits SET adopted_at = now() WHERE adopted_at IS NULL AND NOT is_of_all;
    IF types = '{}' THEN
        RETURN true;
    END IF;
    IF EXISTS (SELECT FROM pg_trigger
               WHERE tgrelid = 'taskflow.tasks'::regclass AND tgname = 'hold_limited_types' AND tgenabled = 'D') THEN
        ALTER TABLE taskflow.tasks ENABLE TRIGGER hold_limited_types;
        RETURN false;  -- the next call sees what was enqueued without the trigger
    END IF;
    WITH free AS (
        SELECT id
        FROM taskflow.tasks
        WHERE status = 'queued' AND id = ANY (ARRAY(
            (SELECT id FROM taskflow.tasks AS task
             WHERE status = 'queued' AND NOT held AND type = ANY (types)
               AND NOT EXISTS (SELECT FROM taskflow.holds AS h WHERE h.task_id = task.id AND h.gate = 'type:' || type)
             ORDER BY priority, scheduled_at, id
             LIMIT 10000)
            UNION ALL
            (SELECT id FROM taskflow.tasks AS task
             WHERE status = 'queued' AND held AND type = ANY (types)
               AND NOT EXISTS (SELECT FROM taskflow.holds AS h WHERE h.task_id = task.id AND h.gate = 'type:' || type)
             ORDER BY priority, scheduled_at, id
             LIMIT 10000)))
        FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE taskflow.tasks AS task
        SET held = true
        FROM free
        WHERE task.id = free.id
        RETURNING task.id, task.type, task.priority, task.scheduled_at
    ), placed AS (
        INSERT INTO taskflow.holds (task_id, scheduled_at, priority, state, position, gate)
        SELECT id, scheduled_at, priority,
               CASE WHEN EXISTS (SELECT FROM taskflow.holds AS hold
                                 WHERE hold.task_id = moved.id AND hold.position < 3 AND hold.state IN ('waiting', 'later'))
                    THEN 'later' ELSE 'waiting' END::taskflow.hold_state,
               3, 'type:' || type
        FROM moved
        RETURNING task_id
    )
    SELECT array_agg(task_id) INTO adopted FROM placed;
    IF adopted IS NULL THEN
        UPDATE taskflow.limits SET adopted_at = now() WHERE type = ANY (types);
    END IF;
    RETURN adopted IS NULL;
END
$$;
