-- The tables of Taskflow, in schema taskflow (made by `taskflow migrate`, yoyo's tables lie there too). Read with docs/sql.md; the states are explained in taskflow/model.py.

-- Enum order is claim order. `test` is for integration tests: claimed only by a worker that names it.
CREATE TYPE taskflow.priority AS ENUM ('high', 'normal', 'low', 'test');

CREATE TYPE taskflow.status AS ENUM ('queued', 'running', 'succeeded', 'failed', 'cancelled');

-- What never changes is checked by its type: a CHECK of the table would run again at each claim and each finish.
CREATE DOMAIN taskflow.label AS text
    CONSTRAINT a_label_has_1_to_128_characters CHECK (char_length(VALUE) BETWEEN 1 AND 128);
CREATE DOMAIN taskflow.object AS jsonb
    CONSTRAINT a_payload_is_an_object CHECK (jsonb_typeof(VALUE) = 'object');

-- How an attempt ended that its task has left behind.
CREATE TYPE taskflow.outcome AS ENUM ('failed', 'released', 'lost', 'cancelled');

CREATE TABLE taskflow.tasks (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scheduled_at timestamptz NOT NULL DEFAULT now(),  -- due from then on
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),  -- set by the statements; no trigger touches it
    started_at   timestamptz,                         -- of the current attempt
    finished_at  timestamptz,                         -- when it became succeeded, failed or cancelled
    worker_id    bigint,                              -- who runs, or ran, the current attempt: taskflow.workers.id
    attempt      integer NOT NULL DEFAULT 0,          -- grows by one at each claim, never shrinks: it is the fence
    max_attempts integer NOT NULL DEFAULT 5,          -- a fresh budget raises it
    priority     taskflow.priority NOT NULL DEFAULT 'normal',
    status       taskflow.status NOT NULL DEFAULT 'queued',
    held         boolean NOT NULL DEFAULT false,      -- some gate keeps it from being claimed, however due it is
    name         taskflow.label NOT NULL,
    type         taskflow.label NOT NULL,
    unique_key   taskflow.label,                      -- of all live tasks, one may have it
    error        text,                                -- of the latest failed attempt, or why it was cancelled
    payload      taskflow.object NOT NULL DEFAULT '{}',
    result       jsonb,

    CONSTRAINT a_schedule_is_a_date_of_our_time CHECK (scheduled_at BETWEEN '1970-01-01Z' AND '9999-01-01Z'),
    CONSTRAINT attempts_are_counted_from_zero CHECK (attempt >= 0),
    CONSTRAINT a_task_may_be_attempted_once CHECK (max_attempts >= 1),
    CONSTRAINT a_queued_task_belongs_to_nobody
        CHECK (status <> 'queued' OR (worker_id IS NULL AND started_at IS NULL)),
    CONSTRAINT a_running_task_has_a_worker
        CHECK (status <> 'running' OR (worker_id IS NOT NULL AND started_at IS NOT NULL)),
    CONSTRAINT a_task_with_an_outcome_has_run
        CHECK (status NOT IN ('succeeded', 'failed') OR (worker_id IS NOT NULL AND started_at IS NOT NULL)),
    CONSTRAINT a_final_task_says_when_it_ended
        CHECK ((status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CONSTRAINT a_failed_task_says_why CHECK (status <> 'failed' OR error IS NOT NULL)
)
-- A page that is filled by half has room for the second version of its rows, which is then written to the log as a
-- difference; the third replaces the first. Each task leaves two dead versions: vacuum comes by count, not by share.
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
      autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1,
      autovacuum_vacuum_cost_delay = 0);

-- The claim reads this in order. No index stands on status alone: it would be rewritten at every step.
CREATE INDEX tasks_ready ON taskflow.tasks (priority, scheduled_at, id) WHERE status = 'queued' AND NOT held;
CREATE UNIQUE INDEX tasks_unique_key ON taskflow.tasks (unique_key)
    WHERE unique_key IS NOT NULL AND status IN ('queued', 'running');
CREATE INDEX tasks_running ON taskflow.tasks (worker_id) WHERE status = 'running';
CREATE INDEX tasks_failed ON taskflow.tasks (updated_at, id) WHERE status = 'failed';
CREATE INDEX tasks_cancelled ON taskflow.tasks (updated_at, id) WHERE status = 'cancelled';

-- The attempts that a task has left behind; the current one is told by the task's own row. No foreign key:
-- its trigger would cost more than the row.
CREATE TABLE taskflow.attempts (
    task_id     bigint NOT NULL,
    id          bigint GENERATED ALWAYS AS IDENTITY,
    attempt     integer NOT NULL,            -- 0: the task was cancelled before its first attempt
    worker_id   bigint,
    started_at  timestamptz,                 -- null: the task was cancelled while it was queued
    ended_at    timestamptz NOT NULL,
    requeued_at timestamptz,                 -- null: re-queued by the statement that ended the attempt
    outcome     taskflow.outcome NOT NULL,
    error       text,
    reason      text NOT NULL,               -- who re-queued it: retry, release, rescue, recovery, retry by hand

    PRIMARY KEY (task_id, id),
    CONSTRAINT only_a_cancelled_attempt_may_not_have_started
        CHECK (started_at IS NOT NULL OR outcome = 'cancelled'),
    CONSTRAINT a_cancelled_task_is_requeued_later CHECK (outcome <> 'cancelled' OR requeued_at IS NOT NULL)
);

-- One row per worker process. It lives while stopped_at is null and its heartbeat is younger than the lease.
CREATE TABLE taskflow.workers (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL,               -- what --id gave; unique among live workers by an advisory lock
    host         text NOT NULL,
    pid          integer NOT NULL,
    version      text NOT NULL,
    priorities   taskflow.priority[] NOT NULL,
    concurrency  integer NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    stopped_at   timestamptz                  -- set by the worker itself, or by who found it gone
);

CREATE INDEX workers_live ON taskflow.workers (name) WHERE stopped_at IS NULL;
