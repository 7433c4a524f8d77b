-- Schedules: what enqueues a task at each tick of a rule. Workers compute the ticks; the row holds the next one.
-- depends: 0008.gates

-- What is done about ticks that came while no worker ran.
CREATE TYPE taskflow.missed AS ENUM ('skip', 'once', 'all');

CREATE TABLE taskflow.schedules (
    name         taskflow.label PRIMARY KEY,                -- its tasks have it as well
    rule         text NOT NULL,                             -- five cron fields, @daily and its kin, or every 30s
    time_zone    text NOT NULL DEFAULT 'UTC',
    type         taskflow.label NOT NULL,
    payload      taskflow.object NOT NULL DEFAULT '{}',
    priority     taskflow.priority NOT NULL DEFAULT 'normal',
    max_attempts integer NOT NULL DEFAULT 5,
    missed       taskflow.missed NOT NULL DEFAULT 'once',
    tick_field   taskflow.label,                            -- the payload's field that gets the time of the tick
    declared_at  timestamptz,                               -- when a worker's code last declared it; null: made by API
    paused_at    timestamptz,
    pause_reason text,
    next_tick    timestamptz NOT NULL,
    last_tick    timestamptz,
    last_task_id bigint,                                    -- of the latest tick, or run by hand
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT a_scheduled_task_may_be_attempted_once CHECK (max_attempts >= 1),
    CONSTRAINT only_a_paused_schedule_has_a_reason CHECK (pause_reason IS NULL OR paused_at IS NOT NULL)
);

CREATE INDEX schedules_due ON taskflow.schedules (next_tick) WHERE paused_at IS NULL;
