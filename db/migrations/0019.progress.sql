-- How far running tasks are, as their handlers tell, and where the next attempt can go on.
-- depends: 0018.minutes

-- Beside the tasks, whose rows are written at each step of all of them: few handlers tell, but those often.
CREATE TABLE taskflow.progress (
    task_id    bigint PRIMARY KEY,
    attempt    integer NOT NULL,      -- the one that told last
    fraction   double precision,      -- null: only a checkpoint was told
    message    text,
    checkpoint taskflow.object,       -- of any attempt; the next one can read it
    updated_at timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT a_fraction_is_between_nothing_and_all CHECK (fraction BETWEEN 0 AND 1)
)
WITH (fillfactor = 70);

CREATE OR REPLACE FUNCTION taskflow.delete_final(ids bigint[]) RETURNS SETOF bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH final AS (
        SELECT id
        FROM taskflow.tasks
        WHERE id = ANY ($1) AND status IN ('succeeded', 'failed', 'cancelled')
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
    )
    SELECT id FROM deleted
$$;
