-- What the handlers of task types with keep_logs have logged.
-- depends: 0019.progress

CREATE TABLE taskflow.lines (
    task_id  bigint NOT NULL,
    attempt  integer NOT NULL,
    left_out integer NOT NULL,   -- so many earlier lines are not kept
    lines    jsonb NOT NULL,     -- of objects: at, level, text

    PRIMARY KEY (task_id, attempt),
    CONSTRAINT lines_are_a_list CHECK (jsonb_typeof(lines) = 'array')
);

CREATE OR REPLACE FUNCTION taskflow.delete_final(ids bigint[]) RETURNS SETOF bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH final AS (
        SELECT id
        FROM taskflow.tasks
        WHERE id = ANY ($1) AND status IN ('succeeded', 'failed', 'cancelled')
          -- Not before those that wait for it know how it ended.
          AND (SELECT hold.task_id FROM taskflow.holds AS hold
               WHERE hold.gate = 'task:' || tasks.id AND hold.state = 'waiting' LIMIT 1) IS NULL
        ORDER BY id
        FOR UPDATE
    ), deleted AS (
        DELETE FROM taskflow.tasks AS task
        USING final
        WHERE task.id = final.id
        RETURNING task.id
    ), forgotten AS (
        DELETE FROM taskflow.attempts AS attempt
        USING final
        WHERE attempt.task_id = final.id
    ), unheld AS (
        DELETE FROM taskflow.holds AS hold
        USING final
        WHERE hold.task_id = final.id
    ), left_group AS (
        DELETE FROM taskflow.members AS member
        USING final
        WHERE member.task_id = final.id
    ), without_progress AS (
        DELETE FROM taskflow.progress AS progress
        USING final
        WHERE progress.task_id = final.id
    ), without_lines AS (
        DELETE FROM taskflow.lines AS lines
        USING final
        WHERE lines.task_id = final.id
    )
    SELECT id FROM deleted
$$;
