-- Enqueueing for busy workers. The condition of the insert trigger tried an advisory lock; with many connections on few
-- cores those tries met each other, and each such meeting was a notification. Now it reads a note: a sequence that was
-- "called" says that no worker is idle, of whatever priority. Sequences are read and written at once, outside of
-- transactions. After a crash or a failover the note may be wrong until the workers, whose sessions ended, are back.
--
-- The note may be missing though all workers are busy. It is never there while one is idle and has begun to wait, but for
-- the instant of a doubt (see note_all_busy). Only who finds no note asks for the lock.
-- depends: 0021.traces

-- Not unlogged: version 15 cannot read unlogged sequences after a failover ("bad magic number").
CREATE SEQUENCE taskflow.all_busy;

-- Before version 18, reading one without the right to is an error, and so would be an insert.
GRANT SELECT ON SEQUENCE taskflow.all_busy TO PUBLIC;

-- Ask for notifications of new tasks on this session's behalf. The lock comes first: whoever writes the note asks for it
-- afterwards. With the owner's rights, as only the owner may write the sequence.
CREATE FUNCTION taskflow.be_idle(priority taskflow.priority) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_advisory_lock_shared(1952543595, taskflow.idle_key(priority));
    IF pg_sequence_last_value('taskflow.all_busy') IS NOT NULL THEN
        PERFORM setval('taskflow.all_busy', 1, false);
    END IF;
END
$$;

CREATE FUNCTION taskflow.anybody_is_idle() RETURNS boolean
LANGUAGE sql VOLATILE
RETURN EXISTS (
    SELECT FROM unnest(enum_range(NULL::taskflow.priority)) AS priority WHERE taskflow.somebody_is_idle(priority)
);

-- Somebody may become idle between the question and the note, so it is asked again.
CREATE FUNCTION taskflow.note_all_busy() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF NOT taskflow.anybody_is_idle() THEN
        PERFORM setval('taskflow.all_busy', 1, true);
        IF taskflow.anybody_is_idle() THEN
            PERFORM setval('taskflow.all_busy', 1, false);
        END IF;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION taskflow.wake_for_new_task() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    -- Asked twice, for the first yes may have been another enqueue that asked at the same instant.
    IF NOT (taskflow.somebody_is_idle(NEW.priority) AND taskflow.somebody_is_idle(NEW.priority)) THEN
        IF random() < 0.05 THEN  -- if others are idle, it is in vain each time
            PERFORM taskflow.note_all_busy();
        END IF;
    ELSIF NEW.held THEN
        PERFORM taskflow.notify('taskflow', 'gate:');
    ELSIF NEW.status = 'queued' THEN
        PERFORM taskflow.notify('taskflow', NEW.priority::text);
    END IF;
    RETURN NULL;
END
$$;

-- The condition is checked before an event is queued. Postgres reads and prepares it anew for each statement, which takes
-- longer the more operators it has, and longer than to execute it; so it does not ask for the priority.
DROP TRIGGER wake_an_idle_worker ON taskflow.tasks;
CREATE TRIGGER wake_an_idle_worker
AFTER INSERT ON taskflow.tasks
FOR EACH ROW
WHEN (pg_sequence_last_value('taskflow.all_busy') IS NULL)
EXECUTE FUNCTION taskflow.wake_for_new_task();
