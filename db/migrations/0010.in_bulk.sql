-- What people do to many tasks at once, and nobody may do to a task in other ways: see deploy/roles.sql.
-- depends: 0009.schedules

-- Queued tasks of another priority; the others, and those that have it already, are left alone and not answered.
CREATE FUNCTION taskflow.reprioritise(ids bigint[], priority taskflow.priority) RETURNS SETOF bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    -- Gates lock holds before tasks: while these change both, nothing passes.
    WITH alone AS MATERIALIZED (
        SELECT pg_advisory_xact_lock(1952543595)
        WHERE EXISTS (SELECT FROM taskflow.holds AS hold WHERE hold.task_id = ANY ($1))
    ), old AS (
        SELECT id
        FROM taskflow.tasks AS task
        WHERE (SELECT count(*) FROM alone) >= 0
          AND task.id = ANY ($1) AND task.status = 'queued' AND task.priority <> $2
        ORDER BY id
        FOR UPDATE
    ), moved AS (
        UPDATE taskflow.tasks AS task
        SET priority = $2, updated_at = now()
        FROM old
        WHERE task.id = old.id
        RETURNING task.id
    ), at_gates AS (
        UPDATE taskflow.holds AS hold
        SET priority = $2
        FROM old
        WHERE hold.task_id = old.id AND hold.position >= 2
    ), woken AS MATERIALIZED (
        SELECT taskflow.wake($2) FROM moved LIMIT 1
    )
    SELECT id FROM moved WHERE (SELECT count(*) FROM woken) > 0
$$;

-- Final tasks are deleted, with the attempts that they have left behind; the others are left alone and not answered.
CREATE FUNCTION taskflow.delete_final(ids bigint[]) RETURNS SETOF bigint
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
    )
    SELECT id FROM deleted
$$;
