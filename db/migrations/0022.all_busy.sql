-- Enqueueing for busy workers. The condition of the insert trigger tried an advisory lock; with many connections on few
-- cores those tries met each other, and each such meeting was a notification. Now it reads a note: a sequence that was
-- called says that the workers of its priority are all busy, or that there are none. Sequences are read and written at
-- once, outside of transactions; unlogged ones cost no WAL, and forget in a crash, as all sessions do.
--
-- The note may be missing though all are busy; it is never there while somebody is idle and has begun to wait, but for
-- the instant of a doubt (see note_all_busy). Only who finds no note asks for the lock.
-- depends: 0021.traces

CREATE UNLOGGED SEQUENCE taskflow.all_busy_high;
CREATE UNLOGGED SEQUENCE taskflow.all_busy_normal;
CREATE UNLOGGED SEQUENCE taskflow.all_busy_low;
CREATE UNLOGGED SEQUENCE taskflow.all_busy_test;

-- Before version 18, reading one without the right to is an error, and so would be an insert.
GRANT SELECT ON SEQUENCE
    taskflow.all_busy_high, taskflow.all_busy_normal, taskflow.all_busy_low, taskflow.all_busy_test
    TO PUBLIC;

CREATE FUNCTION taskflow.all_busy(priority taskflow.priority) RETURNS regclass
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE priority WHEN 'high' THEN 'taskflow.all_busy_high'::regclass
                     WHEN 'normal' THEN 'taskflow.all_busy_normal'::regclass
                     WHEN 'low' THEN 'taskflow.all_busy_low'::regclass
                     WHEN 'test' THEN 'taskflow.all_busy_test'::regclass END;

-- Ask for notifications of new tasks on this session's behalf. The lock comes first: whoever notes that all are busy
-- asks for it afterwards. With the owner's rights, as only the owner may write the sequences.
CREATE FUNCTION taskflow.be_idle(priority taskflow.priority) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_advisory_lock_shared(1952543595, taskflow.idle_key(priority));
    PERFORM setval(taskflow.all_busy(priority), 1, false);
END
$$;

-- Note that nobody is idle, for who has just asked. Somebody may have become idle since then, so it is asked again.
CREATE FUNCTION taskflow.note_all_busy(priority taskflow.priority) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM setval(taskflow.all_busy(priority), 1, true);
    IF taskflow.somebody_is_idle(priority) THEN
        PERFORM setval(taskflow.all_busy(priority), 1, false);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION taskflow.wake_for_new_task() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT taskflow.somebody_is_idle(NEW.priority) THEN
        PERFORM taskflow.note_all_busy(NEW.priority);
    ELSIF NEW.held THEN
        PERFORM taskflow.notify('taskflow', 'gate:');
    ELSIF NEW.status = 'queued' THEN
        PERFORM taskflow.notify('taskflow', NEW.priority::text);
    END IF;
    RETURN NULL;
END
$$;

-- The condition is checked before an event is queued. It is all_busy() written out: Postgres prepares it anew for each
-- statement, and a function would double its cost.
DROP TRIGGER wake_an_idle_worker ON taskflow.tasks;
CREATE TRIGGER wake_an_idle_worker
AFTER INSERT ON taskflow.tasks
FOR EACH ROW
WHEN (pg_sequence_last_value(CASE NEW.priority WHEN 'high' THEN 'taskflow.all_busy_high'::regclass
                                               WHEN 'normal' THEN 'taskflow.all_busy_normal'::regclass
                                               WHEN 'low' THEN 'taskflow.all_busy_low'::regclass
                                               WHEN 'test' THEN 'taskflow.all_busy_test'::regclass END) IS NULL)
EXECUTE FUNCTION taskflow.wake_for_new_task();
