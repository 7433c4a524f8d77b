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
DROP TABLE taskflow.lines;
