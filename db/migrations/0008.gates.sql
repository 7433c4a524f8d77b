-- Gates keep queued tasks from being claimed although they are due: until other tasks have ended, until it is their
-- turn in the order of a key or beside other tenants, until the limits of their type leave room. One idea serves them
-- all: a task that has gates to pass is *held*, which keeps it out of the claim's index, and has one row here per gate.
-- Tasks without gates have no rows, and cost nothing. docs/gates.md explains it; docs/decisions/0009-gates.md says why.
-- depends: 0007.finding

CREATE TYPE taskflow.hold_state AS ENUM (
    'later',    -- gates with a lower position come first
    'waiting',  -- the task stands before this gate
    'passed',   -- it passed, and counts at this gate until it ends
    'ended'     -- it ended without success; re-queued, it has to pass again
);

CREATE TABLE taskflow.holds (
    task_id       bigint NOT NULL,
    scheduled_at  timestamptz NOT NULL,          -- with priority and task_id: the order before the gate
    priority      taskflow.priority NOT NULL,
    state         taskflow.hold_state NOT NULL,
    position      smallint NOT NULL,             -- passed in this order, so that no two tasks wait for each other
    needs_success boolean NOT NULL DEFAULT true, -- before a task: one that does not succeed cancels this one
    gate          text COLLATE "C" NOT NULL,     -- task:7  order:KEY  tenant:PRIORITY:NAME  type:TYPE  key:["TYPE", "KEY"]
    PRIMARY KEY (task_id, gate)
)
WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000,
      autovacuum_vacuum_cost_delay = 0);
CREATE INDEX holds_waiting ON taskflow.holds (gate, priority, scheduled_at, task_id) WHERE state = 'waiting';
CREATE INDEX holds_passed ON taskflow.holds (gate, task_id) WHERE state = 'passed';

-- What is asked of all tasks of a type. A row without a limit and without a pause is deleted.
CREATE TABLE taskflow.limits (
    type                text PRIMARY KEY CHECK (length(type) BETWEEN 1 AND 128),
    concurrency         integer CHECK (concurrency >= 0),         -- so many run, or are about to, at once
    concurrency_per_key integer CHECK (concurrency_per_key >= 0), -- the same for each limit_key
    rate                integer CHECK (rate >= 1),                -- so many start in rate_seconds: a bucket of tokens
    rate_per_key        integer CHECK (rate_per_key >= 1),        -- the same for each limit_key
    rate_seconds        double precision NOT NULL DEFAULT 1 CHECK (rate_seconds > 0 AND rate_seconds <= 1e9),
    paused_at           timestamptz,
    pause_reason        text,
    is_declared         boolean NOT NULL DEFAULT false,           -- by @task(limit=…); workers keep it up to date
    adopted_at          timestamptz,                              -- tasks that were queued before stand at the gate
    -- Each task of the type stands at the type's gate; otherwise only those with a limit_key do, at that of their key.
    is_of_all boolean GENERATED ALWAYS AS (num_nonnulls(concurrency, rate, paused_at) > 0) STORED
);

-- The tokens that are left at a gate with a rate.
CREATE TABLE taskflow.buckets (
    gate       text COLLATE "C" PRIMARY KEY,
    tokens     double precision NOT NULL,
    per_second double precision NOT NULL,
    filled_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Priorities that are paused: workers leave them alone.
CREATE TABLE taskflow.pauses (
    priority  taskflow.priority PRIMARY KEY,
    reason    text,
    paused_at timestamptz NOT NULL DEFAULT now()
);

-- Tasks that were enqueued together.
CREATE TABLE taskflow.groups (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text,
    callback_id bigint,                          -- the task that waits until all members have ended
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE taskflow.members (
    task_id  bigint PRIMARY KEY,
    group_id bigint NOT NULL
);
CREATE INDEX members_group ON taskflow.members (group_id);

CREATE FUNCTION taskflow.key_gate(type text, key text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN 'key:' || jsonb_build_array(type, key)::text;

-- Many tasks with gates: a JSON array of objects as taskflow.enqueue_many takes, and beside its keys delay (seconds),
-- after (ids), after_failure ('cancel', the default, or 'run'), order_key, tenant, limit_key, unique_key. All or nothing;
-- the ids come in the array's order. A unique_key that a live task has raises unique_violation. An id that does not exist raises foreign_key_violation: so no cycle can be made.
--
-- The setting: in a database that was empty until now, tasks to wait for would be looked for in all of the table.
CREATE FUNCTION taskflow.enqueue_held(tasks jsonb) RETURNS SETOF bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    missing bigint;
    ids bigint[];
BEGIN
    SELECT before INTO missing
    FROM jsonb_to_recordset($1) AS given (after bigint[]) CROSS JOIN unnest(given.after) AS before
    WHERE NOT EXISTS (SELECT FROM taskflow.tasks AS task WHERE task.id = before)
    LIMIT 1;
    IF FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format('after: there is no task %s', missing);
    ELSIF tasks @? '$[*].after_failure ? (@ != "cancel" && @ != "run" && @ != null)' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'after_failure: is neither cancel nor run';
    END IF;
    WITH given AS MATERIALIZED (
        SELECT *
        FROM ROWS FROM (
                jsonb_to_recordset($1)
                AS (type text, payload jsonb, name text, priority taskflow.priority, max_attempts integer,
                    scheduled_at timestamptz, delay double precision, after bigint[], after_failure text,
                    order_key taskflow.label, tenant taskflow.label, limit_key taskflow.label,
                    unique_key taskflow.label)
             ) WITH ORDINALITY AS given (type, payload, name, priority, max_attempts, scheduled_at, delay, after,
                                         after_failure, order_key, tenant, limit_key, unique_key, number)
    ), stored AS (
        INSERT INTO taskflow.tasks (type, payload, name, priority, max_attempts, scheduled_at, unique_key, held)
        SELECT type, coalesce(payload, '{}'), coalesce(name, type), coalesce(priority, 'normal'),
               coalesce(max_attempts, 5), coalesce(scheduled_at, now() + make_interval(secs => delay), now()), unique_key,
               num_nonnulls(order_key, tenant, limit_key) > 0
               OR EXISTS (SELECT FROM taskflow.tasks AS before
                          WHERE before.id = ANY (after)
                            AND (before.finished_at IS NULL
                                 OR (before.status <> 'succeeded' AND after_failure IS DISTINCT FROM 'run')))
        FROM given
        ORDER BY number
        RETURNING id, type, priority, scheduled_at
    ), numbered AS (
        SELECT *, row_number() OVER (ORDER BY id) AS number FROM stored
    ), placed AS (
        INSERT INTO taskflow.holds (task_id, scheduled_at, priority, state, position, needs_success, gate)
        SELECT numbered.id, gate.scheduled_at, gate.priority,
               CASE WHEN gate.position = min(gate.position) OVER (PARTITION BY numbered.id) THEN 'waiting' ELSE 'later'
               END::taskflow.hold_state,
               gate.position, given.after_failure IS DISTINCT FROM 'run', gate.gate
        FROM numbered
        JOIN given USING (number)
        CROSS JOIN LATERAL (
            -- Before a task and in the order of a key, who came first is first.
            SELECT DISTINCT 0, 'task:' || before.id, 'high'::taskflow.priority, '-infinity'::timestamptz
            FROM taskflow.tasks AS before
            WHERE before.id = ANY (given.after)
              AND (before.finished_at IS NULL
                   OR (before.status <> 'succeeded' AND given.after_failure IS DISTINCT FROM 'run'))
            UNION ALL
            SELECT 1, 'order:' || given.order_key, 'high', '-infinity' WHERE given.order_key IS NOT NULL
            UNION ALL
            SELECT 2, format('tenant:%s:%s', numbered.priority, given.tenant), numbered.priority, numbered.scheduled_at
            WHERE given.tenant IS NOT NULL
            UNION ALL
            SELECT 4, taskflow.key_gate(numbered.type, given.limit_key), numbered.priority, numbered.scheduled_at
            WHERE given.limit_key IS NOT NULL
        ) AS gate (position, gate, priority, scheduled_at)
    )
    SELECT array_agg(id ORDER BY id) INTO ids FROM stored;
    -- The trigger has put tasks of limited types before their type's gate, which is the third.
    UPDATE taskflow.holds AS hold
    SET state = 'later'
    WHERE hold.task_id = ANY (ids) AND hold.position >= 3 AND hold.state = 'waiting'
      AND EXISTS (SELECT FROM taskflow.holds AS other
                  WHERE other.task_id = hold.task_id AND other.position < hold.position);
    RETURN QUERY SELECT unnest(ids);
END
$$;

-- Tasks of a limited type are held however they are enqueued. The trigger is off until there is a limit or a paused
-- type: taskflow.adopt() turns it on.
CREATE FUNCTION taskflow.hold_limited_type() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'queued' AND EXISTS (SELECT FROM taskflow.limits WHERE type = NEW.type AND is_of_all) THEN
        NEW.held := true;
        INSERT INTO taskflow.holds (task_id, scheduled_at, priority, state, position, gate)
        VALUES (NEW.id, NEW.scheduled_at, NEW.priority, 'waiting', 3, 'type:' || NEW.type);
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER hold_limited_types BEFORE INSERT ON taskflow.tasks
FOR EACH ROW EXECUTE FUNCTION taskflow.hold_limited_type();
ALTER TABLE taskflow.tasks DISABLE TRIGGER hold_limited_types;

-- Put what was queued before its type was limited before the gate, at most 20,000 tasks a call; true once all is there.
-- Raises lock_not_available if the table cannot be had within a second: call again. With the owner's rights, for it
-- turns the trigger on.
CREATE FUNCTION taskflow.adopt() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET lock_timeout = '1s' AS $$
DECLARE
    types text[] := ARRAY(SELECT type FROM taskflow.limits WHERE adopted_at IS NULL AND is_of_all);
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

-- The gates with waiting tasks, in the order of their names, from after *gate* on, at most *most*; in the range of one
-- kind or of all. It steps from gate to gate, however many tasks wait at each.
CREATE FUNCTION taskflow.gates_after(gate text, most integer, last text DEFAULT 'z') RETURNS SETOF text
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE walk AS (
        (SELECT h.gate FROM taskflow.holds AS h WHERE h.state = 'waiting' AND h.gate > $1 ORDER BY h.gate LIMIT 1)
        UNION ALL
        SELECT (SELECT h.gate FROM taskflow.holds AS h
                WHERE h.state = 'waiting' AND h.gate > walk.gate ORDER BY h.gate LIMIT 1)
        FROM walk
        WHERE walk.gate IS NOT NULL
    )
    SELECT walk.gate FROM walk WHERE walk.gate < $3 COLLATE "C" LIMIT $2
$$;

-- How many tasks of one tenant may have passed and not ended yet: enough for all slots and, for each slot, *ahead* tasks
-- that are next; shared by the tenants.
CREATE FUNCTION taskflow.turn(priority taskflow.priority, ahead double precision) RETURNS integer
LANGUAGE sql STABLE AS $$
    SELECT greatest(1, ceil((1 + $2) * slots / greatest(1, tenants)))::integer
    FROM (SELECT coalesce(sum(concurrency), 0) FROM taskflow.workers
          WHERE stopped_at IS NULL AND $1 = ANY (priorities)) AS fleet (slots),
         (SELECT count(*) FROM taskflow.gates_after(format('tenant:%s:', $1), 1000, format('tenant:%s;', $1)))
            AS waiting (tenants)
$$;

-- The type whose limits a gate is of.
CREATE FUNCTION taskflow.limited_type(gate text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN gate LIKE 'type:%' THEN substr(gate, 6) WHEN gate LIKE 'key:%' THEN substr(gate, 5)::jsonb ->> 0 END;

-- How many tasks a gate of a limit lets pass now, at most *most*.
CREATE FUNCTION taskflow.room(gate text, most integer) RETURNS integer
LANGUAGE plpgsql STABLE AS $$
DECLARE
    is_of_type constant boolean := gate LIKE 'type:%';
    limits taskflow.limits;
    concurrency integer;
    rate integer;
    passed bigint;
    free bigint := most;
BEGIN
    SELECT l.* INTO limits FROM taskflow.limits AS l WHERE l.type = taskflow.limited_type(gate);
    IF is_of_type AND limits.paused_at IS NOT NULL THEN
        RETURN 0;
    END IF;
    concurrency := CASE WHEN is_of_type THEN limits.concurrency ELSE limits.concurrency_per_key END;
    rate := CASE WHEN is_of_type THEN limits.rate ELSE limits.rate_per_key END;
    IF concurrency IS NOT NULL OR rate IS NOT NULL THEN
        SELECT count(*) INTO passed FROM taskflow.holds AS h WHERE h.gate = $1 AND h.state = 'passed';
    END IF;
    IF concurrency IS NOT NULL THEN
        free := least(free, concurrency - passed);
    END IF;
    IF rate IS NOT NULL THEN
        free := least(free, (SELECT floor(b.tokens) FROM taskflow.buckets AS b WHERE b.gate = $1)::bigint);
        -- Who has passed but was not claimed yet may start at any time: no more of them than the bucket holds.
        IF rate - passed < free THEN
            free := least(free, rate - taskflow.unclaimed(gate));
        END IF;
    END IF;
    RETURN greatest(0, free);
END
$$;

-- How many tasks have passed a gate and still wait for a worker.
CREATE FUNCTION taskflow.unclaimed(gate text) RETURNS integer
LANGUAGE sql STABLE AS $$
    SELECT count(*)::integer
    FROM taskflow.holds AS h JOIN taskflow.tasks AS task ON task.id = h.task_id
    WHERE h.gate = $1 AND h.state = 'passed' AND task.status = 'queued'
$$;

-- Let tasks pass the given gates as far as there is room, and those that come after them. All gates get the same share
-- of about *most* tasks a step; *more* are those that had room for more, or will have in *seconds_to_token*. One call at
-- a time in the whole database: another at that moment answers null, and all gates. What may be claimed now becomes due now, gates by
-- turns, for the order of the queue is the order in which tasks came into it. *ahead*: see taskflow.turn.
--
-- Whoever changes a task locks its row first and its holds then. So does this, and passes over what somebody else has
-- locked, and the next walk finds what is left.
--
-- The settings pin the plans: whatever statistics say of so lively a table, everything here is found by an index.
CREATE FUNCTION taskflow.admit(
    gates text[], most integer, ahead double precision DEFAULT 2,
    OUT admitted integer, OUT more text[], OUT seconds_to_token double precision
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET lock_timeout = '500ms' -- as a claim: SKIP LOCKED may wait, and locks are not taken in the order of ids
AS $$
DECLARE
    at text[] := gates;
    share integer;
    has_rates constant boolean := EXISTS (SELECT FROM taskflow.limits WHERE num_nonnulls(rate, rate_per_key) > 0);
    kind text[];
    full_gates text[];
    passed bigint[];
    doomed bigint[];
    blocked bigint[];
    ready bigint[] := '{}';
    freed taskflow.priority[];
    began constant timestamptz := clock_timestamp();
BEGIN
    more := gates;
    IF NOT pg_try_advisory_xact_lock(1952543595) THEN
        RETURN;
    END IF;
    more := '{}';
    WHILE cardinality(at) > 0 LOOP
        passed := '{}';
        doomed := '{}';
        kind := ARRAY(SELECT g FROM unnest(at) AS g WHERE g LIKE 'task:%');
        IF kind <> '{}' THEN
            share := greatest(1, most / cardinality(kind));
            WITH chosen AS MATERIALIZED (
                SELECT next.spot, here.gate, here.status
                FROM (SELECT g.gate, task.status
                      FROM unnest(kind) AS g (gate)
                      LEFT JOIN taskflow.tasks AS task ON task.id = substr(g.gate, 6)::bigint
                      WHERE task.id IS NULL OR task.finished_at IS NOT NULL) AS here
                CROSS JOIN LATERAL (
                    SELECT h.ctid, h.task_id FROM taskflow.holds AS h WHERE h.gate = here.gate AND h.state = 'waiting'
                    ORDER BY h.priority, h.scheduled_at, h.task_id
                    LIMIT share
                ) AS next (spot, task_id)
                CROSS JOIN LATERAL (
                    SELECT FROM taskflow.tasks AS task WHERE task.id = next.task_id FOR UPDATE SKIP LOCKED
                ) AS ours
            ), over AS (
                DELETE FROM taskflow.holds AS hold
                USING chosen
                WHERE hold.ctid = chosen.spot AND hold.state = 'waiting'
                RETURNING hold.task_id, hold.gate,
                          coalesce(hold.needs_success AND chosen.status IN ('failed', 'cancelled'), false) AS is_doomed
            )
            SELECT coalesce(array_agg(DISTINCT task_id) FILTER (WHERE NOT is_doomed), '{}'),
                   coalesce(array_agg(DISTINCT task_id) FILTER (WHERE is_doomed), '{}'),
                   (SELECT array_agg(gate) FROM (SELECT gate FROM over GROUP BY gate HAVING count(*) = share) AS f)
            INTO passed, doomed, full_gates
            FROM over;
            more := more || full_gates;
        END IF;

        kind := ARRAY(SELECT g FROM unnest(at) AS g WHERE g LIKE 'order:%');
        IF kind <> '{}' THEN
            WITH chosen AS MATERIALIZED (
                SELECT next.spot
                FROM unnest(kind) AS here (gate)
                CROSS JOIN LATERAL (
                    SELECT h.ctid, h.task_id FROM taskflow.holds AS h WHERE h.gate = here.gate AND h.state = 'waiting'
                    ORDER BY h.priority, h.scheduled_at, h.task_id
                    LIMIT 1
                ) AS next (spot, task_id)
                CROSS JOIN LATERAL (
                    SELECT FROM taskflow.tasks AS task WHERE task.id = next.task_id FOR UPDATE SKIP LOCKED
                ) AS ours
                WHERE (SELECT h.task_id FROM taskflow.holds AS h
                       WHERE h.gate = here.gate AND h.state = 'passed' LIMIT 1) IS NULL
            ), moved AS (
                UPDATE taskflow.holds AS hold
                SET state = 'passed'
                FROM chosen
                WHERE hold.ctid = chosen.spot AND hold.state = 'waiting'
                RETURNING hold.task_id
            )
            SELECT passed || array_agg(task_id) INTO passed FROM moved;
        END IF;

        kind := ARRAY(SELECT g FROM unnest(at) AS g WHERE g NOT LIKE 'task:%' AND g NOT LIKE 'order:%');
        IF kind <> '{}' THEN
            share := greatest(1, most / cardinality(kind));
            IF has_rates THEN
                PERFORM taskflow.fill_buckets(kind);
            END IF;
            WITH turns AS MATERIALIZED (
                SELECT priority, taskflow.turn(priority::taskflow.priority, ahead) AS turn
                FROM (SELECT DISTINCT split_part(g, ':', 2) FROM unnest(kind) AS g WHERE g LIKE 'tenant:%') AS p (priority)
            ), chosen AS MATERIALIZED (
                SELECT next.spot, next.turn
                FROM (SELECT g.gate,
                             CASE WHEN g.gate LIKE 'tenant:%'
                                  THEN (SELECT turns.turn FROM turns WHERE turns.priority = split_part(g.gate, ':', 2))
                                       - (SELECT count(*) FROM taskflow.holds AS h
                                          WHERE h.gate = g.gate AND h.state = 'passed')
                                  ELSE taskflow.room(g.gate, share)
                             END AS free
                      FROM unnest(kind) AS g (gate)) AS here
                CROSS JOIN LATERAL (
                    SELECT h.ctid, h.task_id, row_number() OVER (ORDER BY h.priority, h.scheduled_at, h.task_id)
                    FROM taskflow.holds AS h
                    WHERE h.gate = here.gate AND h.state = 'waiting' AND h.scheduled_at <= now()
                    ORDER BY h.priority, h.scheduled_at, h.task_id
                    LIMIT greatest(0, least(here.free, share))
                ) AS next (spot, task_id, turn)
                CROSS JOIN LATERAL (
                    SELECT FROM taskflow.tasks AS task WHERE task.id = next.task_id FOR UPDATE SKIP LOCKED
                ) AS ours
            ), moved AS (
                UPDATE taskflow.holds AS hold
                SET state = 'passed'
                FROM chosen
                WHERE hold.ctid = chosen.spot AND hold.state = 'waiting'
                RETURNING hold.task_id, hold.gate, chosen.turn
            ), used AS MATERIALIZED (
                SELECT gate, count(*) AS tokens FROM moved GROUP BY gate
            ), paid AS (
                UPDATE taskflow.buckets AS bucket
                SET tokens = bucket.tokens - used.tokens
                FROM used
                WHERE has_rates AND bucket.gate = used.gate
            )
            SELECT passed || array_agg(task_id ORDER BY turn, task_id),
                   (SELECT array_agg(gate) FROM used WHERE tokens = share)
            INTO passed, full_gates
            FROM moved;
            more := more || full_gates;
        END IF;

        -- Those with other gates before them come to the next one, if they do not stand before another already.
        blocked := ARRAY(SELECT DISTINCT h.task_id FROM taskflow.holds AS h
                         WHERE h.task_id = ANY (passed) AND h.state IN ('waiting', 'later'));
        IF blocked = '{}' THEN
            ready := ready || passed;
        ELSE
            ready := ready || ARRAY(SELECT p.id FROM unnest(passed) WITH ORDINALITY AS p (id, number)
                                    WHERE NOT EXISTS (SELECT FROM taskflow.holds AS h
                                                      WHERE h.task_id = p.id AND h.state IN ('waiting', 'later'))
                                    ORDER BY p.number);
        END IF;
        at := '{}';
        IF blocked <> '{}' THEN
            WITH next AS (
                UPDATE taskflow.holds AS hold
                SET state = 'waiting'
                FROM (SELECT h.task_id, min(h.position) AS position
                      FROM taskflow.holds AS h
                      WHERE h.task_id = ANY (blocked) AND h.state = 'later'
                        AND NOT EXISTS (SELECT FROM taskflow.holds AS w
                                        WHERE w.task_id = h.task_id AND w.state = 'waiting')
                      GROUP BY h.task_id) AS following
                WHERE hold.task_id = following.task_id AND hold.position = following.position
                RETURNING hold.gate
            )
            SELECT coalesce(array_agg(DISTINCT gate), '{}') INTO at FROM next;
        END IF;
        -- And those that wait for one that is cancelled here, to its gate.
        IF doomed <> '{}' THEN
            WITH cancelled AS (
                UPDATE taskflow.tasks AS task
                SET status = 'cancelled', finished_at = now(), updated_at = now(),
                    error = 'a task that it waited for did not succeed'
                WHERE task.id = ANY (ARRAY(SELECT live.id FROM taskflow.tasks AS live
                                           WHERE live.id = ANY (doomed) AND live.status = 'queued'
                                           ORDER BY live.id FOR UPDATE))
                RETURNING task.id
            ), dropped AS (
                DELETE FROM taskflow.holds AS hold WHERE hold.task_id = ANY (doomed) AND hold.gate LIKE 'task:%'
            )
            SELECT at || array_agg('task:' || id) INTO at FROM cancelled;
        END IF;
    END LOOP;

    WITH opened AS (
        UPDATE taskflow.tasks AS task
        SET held = false, updated_at = now(),
            scheduled_at = greatest(task.scheduled_at, began + given.turn * interval '1 microsecond')
        FROM (SELECT id, turn FROM unnest(ready) WITH ORDINALITY AS r (id, turn) ORDER BY id) AS given
        -- CASE: the planner, who may not know yet how many are held, shall not walk the index of those.
        WHERE task.id = given.id AND CASE WHEN task.held THEN task.status = 'queued' ELSE false END
        RETURNING task.priority
    )
    SELECT array_agg(DISTINCT priority), count(*) INTO freed, admitted FROM opened;
    PERFORM taskflow.wake(priority) FROM unnest(freed) AS f (priority);
    IF admitted < cardinality(ready) THEN
        -- Those that were cancelled meanwhile shall not count.
        PERFORM taskflow.settle(ARRAY(SELECT id FROM taskflow.tasks WHERE id = ANY (ready) AND finished_at IS NOT NULL));
    END IF;
    IF has_rates THEN
        SELECT more || array_agg(bucket.gate), min((1 - bucket.tokens) / bucket.per_second) INTO more, seconds_to_token
        FROM taskflow.buckets AS bucket
        WHERE bucket.gate = ANY (gates) AND bucket.tokens < 1
          AND EXISTS (SELECT FROM taskflow.holds AS h WHERE h.gate = bucket.gate AND h.state = 'waiting');
    END IF;
END
$$;

-- Add to the buckets of these gates what has come in since they were last filled. A new bucket is full.
CREATE FUNCTION taskflow.fill_buckets(gates text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO taskflow.buckets AS bucket (gate, tokens, per_second)
    SELECT g.gate, bound.rate, bound.rate / limits.rate_seconds
    FROM unnest($1) AS g (gate)
    JOIN taskflow.limits ON limits.type = taskflow.limited_type(g.gate)
    CROSS JOIN LATERAL (SELECT CASE WHEN g.gate LIKE 'type:%' THEN limits.rate ELSE limits.rate_per_key END) AS bound (rate)
    WHERE bound.rate IS NOT NULL
    ON CONFLICT (gate) DO UPDATE
    SET filled_at = clock_timestamp(), per_second = excluded.per_second,
        tokens = least(excluded.tokens, bucket.tokens
                       + excluded.per_second * extract(epoch FROM clock_timestamp() - bucket.filled_at))
$$;

-- Take what has ended off its gates: the gates at which others may pass now. A task that waits for its next attempt
-- leaves its place in tenants' turns and limits, but keeps that in the order of its key.
CREATE FUNCTION taskflow.settle(ids bigint[]) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    at text[];
BEGIN
    -- Most have succeeded. What somebody else has locked is passed over, here and below: a later look finds it.
    WITH removed AS (
        DELETE FROM taskflow.holds AS hold
        WHERE hold.ctid = ANY (ARRAY(
            SELECT free.ctid
            FROM taskflow.holds AS free
            JOIN taskflow.tasks AS task ON task.id = free.task_id
            WHERE free.task_id = ANY (ids) AND task.status = 'succeeded'
            FOR UPDATE OF free SKIP LOCKED))
        RETURNING hold.gate, hold.position
    )
    SELECT array_agg(DISTINCT gate) FILTER (WHERE position > 0) INTO at FROM removed;
    RETURN QUERY SELECT unnest(at);

    IF EXISTS (SELECT FROM taskflow.holds AS hold WHERE hold.task_id = ANY (ids) AND hold.state <> 'ended') THEN
        RETURN QUERY SELECT taskflow.settle_others(ids);
    END IF;

    IF EXISTS (SELECT FROM taskflow.holds AS hold
               WHERE hold.gate > 'task:' AND hold.gate < 'task;' AND hold.state = 'waiting') THEN
        RETURN QUERY
        SELECT before.gate
        FROM (SELECT 'task:' || id FROM unnest(ids) AS id) AS before (gate)
        WHERE EXISTS (SELECT FROM taskflow.holds AS hold WHERE hold.gate = before.gate AND hold.state = 'waiting');
    END IF;
END
$$;

-- The part of taskflow.settle for tasks that did not succeed.
CREATE FUNCTION taskflow.settle_others(ids bigint[]) RETURNS SETOF text
LANGUAGE sql VOLATILE AS $$
    WITH over AS (
        SELECT hold.task_id, hold.gate, hold.position, task.status, task.scheduled_at
        FROM taskflow.holds AS hold
        JOIN taskflow.tasks AS task ON task.id = hold.task_id
        WHERE hold.task_id = ANY ($1) AND hold.state <> 'ended'
          AND (task.finished_at IS NOT NULL
               OR (hold.position >= 2 AND hold.state = 'passed' AND task.status = 'queued' AND NOT task.held
                   AND task.scheduled_at > now() + interval '1 second'))
        ORDER BY hold.task_id, hold.gate
        FOR UPDATE OF task, hold SKIP LOCKED
    ), held AS (
        UPDATE taskflow.tasks AS task
        SET held = true
        WHERE task.id IN (SELECT task_id FROM over WHERE status = 'queued') AND task.status = 'queued'
        RETURNING task.id
    ), removed AS (
        DELETE FROM taskflow.holds AS hold
        USING over
        WHERE hold.task_id = over.task_id AND hold.gate = over.gate
          AND (over.status = 'succeeded' OR (over.status IN ('failed', 'cancelled') AND over.position = 0))
    ), changed AS (
        UPDATE taskflow.holds AS hold
        SET state = CASE WHEN over.status <> 'queued' THEN 'ended'
                         WHEN over.position = (SELECT min(o.position) FROM over AS o WHERE o.task_id = over.task_id)
                         THEN 'waiting' ELSE 'later' END::taskflow.hold_state,
            scheduled_at = CASE WHEN over.position < 2 THEN hold.scheduled_at ELSE over.scheduled_at END
        FROM over
        WHERE hold.task_id = over.task_id AND hold.gate = over.gate
          AND ((over.status IN ('failed', 'cancelled') AND over.position > 0)
               OR over.task_id IN (SELECT id FROM held))
    )
    SELECT DISTINCT over.gate FROM over WHERE over.position > 0
$$;

-- Forget a type that is neither limited nor paused, and tell the workers.
CREATE FUNCTION taskflow.tidy_limit(type text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM taskflow.limits AS l
    WHERE l.type = $1 AND l.paused_at IS NULL
      AND num_nonnulls(l.concurrency, l.concurrency_per_key, l.rate, l.rate_per_key) = 0;
    SELECT taskflow.notify('taskflow', 'gate:')
$$;

-- Limit a type: what is null has no limit. A task declares its own with @task(limit=…).
CREATE FUNCTION taskflow.set_limit(
    type                text,
    concurrency         integer DEFAULT NULL,
    concurrency_per_key integer DEFAULT NULL,
    rate                integer DEFAULT NULL,   -- starts in rate_seconds
    rate_per_key        integer DEFAULT NULL,
    rate_seconds        double precision DEFAULT 1,
    is_declared         boolean DEFAULT false
) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO taskflow.limits AS l
        (type, concurrency, concurrency_per_key, rate, rate_per_key, rate_seconds, is_declared)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (type) DO UPDATE
    SET concurrency = $2, concurrency_per_key = $3, rate = $4, rate_per_key = $5, rate_seconds = $6, is_declared = $7,
        adopted_at = CASE WHEN l.is_of_all OR num_nonnulls($2, $4) = 0 THEN l.adopted_at END;
    SELECT taskflow.tidy_limit($1)
$$;

-- Start no more tasks of a type, or of a priority, until it is resumed; what runs goes on. In force within a second.
CREATE FUNCTION taskflow.pause_type(type text, reason text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO taskflow.limits AS l (type, paused_at, pause_reason) VALUES ($1, now(), $2)
    ON CONFLICT (type) DO UPDATE SET paused_at = coalesce(l.paused_at, now()), pause_reason = $2,
                                     adopted_at = CASE WHEN l.is_of_all THEN l.adopted_at END;
    SELECT taskflow.notify('taskflow', 'gate:')
$$;

CREATE FUNCTION taskflow.resume_type(type text) RETURNS void
LANGUAGE sql VOLATILE AS $$
    UPDATE taskflow.limits AS l SET paused_at = NULL, pause_reason = NULL WHERE l.type = $1;
    SELECT taskflow.tidy_limit($1)
$$;

CREATE FUNCTION taskflow.pause(priority taskflow.priority, reason text DEFAULT NULL) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO taskflow.pauses AS p (priority, reason) VALUES ($1, $2)
    ON CONFLICT (priority) DO UPDATE SET reason = $2;
    SELECT taskflow.notify('taskflow', 'gate:')
$$;

CREATE FUNCTION taskflow.resume(priority taskflow.priority) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM taskflow.pauses AS p WHERE p.priority = $1;
    SELECT taskflow.notify('taskflow', 'gate:')
$$;

-- Enqueue tasks as a group: objects as taskflow.enqueue_held takes. The callback, one more object, runs when all of them
-- have ended, however. Answers the group's id.
CREATE FUNCTION taskflow.enqueue_group(tasks jsonb, callback jsonb DEFAULT NULL, name text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[] := ARRAY(SELECT taskflow.enqueue_held(tasks));
    callback_id bigint;
    group_id bigint;
BEGIN
    PERFORM taskflow.check_many(CASE WHEN callback IS NULL THEN tasks ELSE tasks || jsonb_build_array(callback) END);
    IF cardinality(ids) = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'tasks: a group has at least one';
    END IF;
    IF callback IS NOT NULL THEN
        callback_id := taskflow.enqueue_held(jsonb_build_array(
            callback || jsonb_build_object('after', to_jsonb(ids), 'after_failure', 'run')));
    END IF;
    INSERT INTO taskflow.groups AS g (name, callback_id) VALUES ($3, callback_id) RETURNING g.id INTO group_id;
    INSERT INTO taskflow.members SELECT unnest(ids), group_id;
    RETURN group_id;
END
$$;
