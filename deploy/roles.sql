-- Least-privilege roles for Taskflow: who may do what in schema taskflow.
--
-- Run it as a superuser (or the provider's equivalent) on Taskflow's database, after `taskflow migrate`, and again after
-- each later migration: psql --set ON_ERROR_STOP=1 --single-transaction --file deploy/roles.sql
-- It can be repeated, and takes back whatever it does not grant. Then make login roles, and give each one of these:
--   CREATE ROLE taskflow_server LOGIN PASSWORD '…' IN ROLE taskflow_api;
--
--   taskflow_owner     owns the schema: migrations, tokens
--   taskflow_api       taskflow-server: enqueue, look, cancel, re-queue; checks tokens
--   taskflow_worker    taskflow-worker and taskflow-recovery
--   taskflow_readonly  people and dashboards
--
-- Nobody but the owner can change or delete the attempts that a task has left behind, or what a task was asked to do.
-- Some functions do for others what they may not do themselves: give a queued task another priority, delete a final
-- one, note who is idle.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['taskflow_owner', 'taskflow_api', 'taskflow_worker', 'taskflow_readonly'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        END IF;
    END LOOP;
END
$$;

-- Everything belongs to the owner, what later migrations made as well. Indexes and columns' sequences follow their tables.
ALTER SCHEMA taskflow OWNER TO taskflow_owner;
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('ALTER %s %s OWNER TO taskflow_owner',
                      CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass)
        FROM pg_class
        WHERE relnamespace = 'taskflow'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
          AND NOT (relkind = 'S' AND EXISTS (
              SELECT FROM pg_depend WHERE objid = pg_class.oid AND classid = 'pg_class'::regclass AND refobjsubid > 0))
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO taskflow_owner', oid::regprocedure)
        FROM pg_proc
        WHERE pronamespace = 'taskflow'::regnamespace
        UNION ALL
        SELECT format('ALTER TYPE %s OWNER TO taskflow_owner', oid::regtype)
        FROM pg_type
        WHERE typnamespace = 'taskflow'::regnamespace AND typtype IN ('e', 'd')
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

-- From nothing: what an earlier version granted is gone.
REVOKE ALL ON SCHEMA taskflow FROM PUBLIC, taskflow_api, taskflow_worker, taskflow_readonly;
REVOKE ALL ON ALL TABLES IN SCHEMA taskflow FROM PUBLIC, taskflow_api, taskflow_worker, taskflow_readonly;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA taskflow FROM PUBLIC, taskflow_api, taskflow_worker, taskflow_readonly;
REVOKE ALL ON ALL ROUTINES IN SCHEMA taskflow FROM PUBLIC, taskflow_api, taskflow_worker, taskflow_readonly;

GRANT USAGE ON SCHEMA taskflow TO taskflow_api, taskflow_worker, taskflow_readonly;
GRANT SELECT ON taskflow.tasks, taskflow.attempts, taskflow.workers, taskflow.task_history,
    taskflow.queue, taskflow.running, taskflow.failed, taskflow.throughput, taskflow.stuck, taskflow.schedules,
    taskflow.progress, taskflow.lines
    TO taskflow_api, taskflow_worker, taskflow_readonly;
-- Which migrations there are: a server or worker starts where none is missing.
GRANT SELECT ON taskflow._yoyo_migration TO taskflow_api, taskflow_worker;

-- Enqueue. Ids come from identity columns, which need no right to their sequence; handlers may enqueue as well.
GRANT INSERT (name, type, payload, priority, max_attempts, scheduled_at, unique_key, held) ON taskflow.tasks
    TO taskflow_api, taskflow_worker;
GRANT SELECT, INSERT, UPDATE ON taskflow.holds TO taskflow_api, taskflow_worker;
GRANT SELECT, INSERT ON taskflow.groups, taskflow.members TO taskflow_api, taskflow_worker;
-- Which requests stored tasks.
GRANT SELECT, INSERT, UPDATE ON taskflow.idempotency_keys TO taskflow_api;
GRANT EXECUTE ON FUNCTION
    taskflow.enqueue(text, jsonb, text, taskflow.priority, integer, timestamptz, bigint[], text, text, text, text,
                     text, text),
    taskflow.enqueue_unique(jsonb, text),
    taskflow.prune_keys(integer),
    taskflow.enqueue_many(jsonb),
    taskflow.check_many(jsonb),
    taskflow.enqueue_held(jsonb),
    taskflow.enqueue_group(jsonb, jsonb, text),
    taskflow.key_gate(text, text),
    taskflow.hold_limited_type(),
    taskflow.wake(taskflow.priority),
    taskflow.notify(text, text),
    taskflow.somebody_is_idle(taskflow.priority),
    taskflow.note_all_busy(),
    taskflow.idle_key(taskflow.priority)
    TO taskflow_api, taskflow_worker;
GRANT SELECT ON SEQUENCE taskflow.all_busy TO taskflow_api, taskflow_worker;

-- Cancel and re-queue.
GRANT UPDATE (status, scheduled_at, updated_at, started_at, finished_at, worker_id, max_attempts, error, held)
    ON taskflow.tasks TO taskflow_api, taskflow_worker;
GRANT INSERT (task_id, attempt, worker_id, started_at, ended_at, requeued_at, outcome, error, reason)
    ON taskflow.attempts TO taskflow_api, taskflow_worker;
GRANT EXECUTE ON FUNCTION taskflow.first_id_since(timestamptz), taskflow.error_kind(text)
    TO taskflow_api, taskflow_worker, taskflow_readonly;
GRANT EXECUTE ON FUNCTION
    taskflow.reprioritise(bigint[], taskflow.priority),
    taskflow.delete_final(bigint[]),
    taskflow.cancel(bigint[], text),
    taskflow.retry(bigint[]),
    taskflow.recover(taskflow.status, integer, integer),
    taskflow.requeue(bigint[], text),
    taskflow.fresh_budget(bigint, integer, integer)
    TO taskflow_api, taskflow_worker;

-- Claim, finish, and be present.
GRANT EXECUTE ON FUNCTION taskflow.be_idle(taskflow.priority) TO taskflow_worker;
GRANT UPDATE (attempt, result) ON taskflow.tasks TO taskflow_worker;
GRANT INSERT, UPDATE ON taskflow.progress TO taskflow_worker;
GRANT INSERT ON taskflow.lines TO taskflow_worker;
GRANT INSERT (name, host, pid, version, priorities, concurrency) ON taskflow.workers TO taskflow_worker;
GRANT UPDATE (heartbeat_at, stopped_at) ON taskflow.workers TO taskflow_worker;
-- Drain workers, and tell that they are gone. A server that serves workers over HTTP needs taskflow_worker as well.
GRANT UPDATE (draining_at, stopped_at) ON taskflow.workers TO taskflow_api, taskflow_worker;

-- Schedules: the server makes and changes them, workers let them tick.
GRANT INSERT, UPDATE, DELETE ON taskflow.schedules TO taskflow_api;
GRANT INSERT, UPDATE ON taskflow.schedules TO taskflow_worker;

-- Gates: people limit and pause through the server; workers let tasks pass.
GRANT SELECT ON taskflow.holds, taskflow.limits, taskflow.pauses, taskflow.buckets, taskflow.groups, taskflow.members
    TO taskflow_api, taskflow_worker, taskflow_readonly;
GRANT INSERT, UPDATE, DELETE ON taskflow.limits, taskflow.pauses TO taskflow_api, taskflow_worker;
GRANT INSERT, UPDATE ON taskflow.buckets TO taskflow_worker;
GRANT DELETE ON taskflow.holds TO taskflow_worker;
GRANT UPDATE (priority) ON taskflow.tasks TO taskflow_worker;
GRANT EXECUTE ON FUNCTION
    taskflow.set_limit(text, integer, integer, integer, integer, double precision, boolean),
    taskflow.tidy_limit(text),
    taskflow.pause(taskflow.priority, text),
    taskflow.resume(taskflow.priority),
    taskflow.pause_type(text, text),
    taskflow.resume_type(text)
    TO taskflow_api, taskflow_worker;
GRANT EXECUTE ON FUNCTION
    taskflow.admit(text[], integer, double precision),
    taskflow.settle(bigint[]),
    taskflow.settle_others(bigint[]),
    taskflow.adopt(),
    taskflow.room(text, integer),
    taskflow.limited_type(text),
    taskflow.turn(taskflow.priority, double precision),
    taskflow.unclaimed(text),
    taskflow.fill_buckets(text[]),
    taskflow.gates_after(text, integer, text)
    TO taskflow_worker;

-- Tell watchers what happens, and hear it; the server forgets what is old.
GRANT SELECT ON taskflow.events TO taskflow_api, taskflow_worker, taskflow_readonly;
GRANT INSERT (count, changes) ON taskflow.events TO taskflow_api, taskflow_worker;
GRANT DELETE ON taskflow.events TO taskflow_api;
GRANT EXECUTE ON FUNCTION
    taskflow.is_watched(),
    taskflow.tell(bigint[], taskflow.status)
    TO taskflow_api, taskflow_worker;

-- Traces: who enqueues leaves one, workers follow it.
GRANT SELECT, INSERT ON taskflow.traces TO taskflow_api, taskflow_worker;
GRANT DELETE ON taskflow.traces TO taskflow_worker;
GRANT SELECT ON taskflow.traces TO taskflow_readonly;

-- Retention: whose turn it is, and what is too old.
GRANT SELECT, INSERT, UPDATE ON taskflow.turns TO taskflow_worker;
GRANT SELECT ON taskflow.turns TO taskflow_readonly;
GRANT EXECUTE ON FUNCTION taskflow.prune_workers(), taskflow.prune_groups(bigint, integer) TO taskflow_worker;

-- Charts: workers write down what they did, and how the queues stand.
GRANT SELECT, INSERT, UPDATE, DELETE ON taskflow.minutes, taskflow.depths TO taskflow_worker;
GRANT SELECT ON taskflow.minutes, taskflow.depths TO taskflow_api, taskflow_readonly;

-- Tokens: the server checks hashes, people see names, workers see neither.
GRANT SELECT (id, name, hash, scopes, expires_at, revoked_at) ON taskflow.tokens TO taskflow_api;
GRANT SELECT, INSERT, DELETE ON taskflow.sessions TO taskflow_api;
GRANT SELECT (id, name, scopes, created_at, expires_at, revoked_at) ON taskflow.tokens TO taskflow_readonly;
