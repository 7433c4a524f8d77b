-- Waking idle workers. An idle worker holds the advisory lock (1952543595, n) of each of its priorities in shared
-- mode; 1952543595 is "task" in ASCII. Such a lock costs no row, and vanishes with its worker.
-- depends: 0002.task_history

CREATE FUNCTION taskflow.idle_key(priority taskflow.priority) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashenum(priority);

-- Whether a worker of this priority is idle. Two callers at the same instant may both be told yes: the cost is a
-- notification too many. It never says no while a worker is idle.
CREATE FUNCTION taskflow.somebody_is_idle(priority taskflow.priority) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN NOT (pg_try_advisory_lock(1952543595, taskflow.idle_key(priority))
            AND pg_advisory_unlock(1952543595, taskflow.idle_key(priority)));

-- Notify, unless somebody has stopped reading and half of the queue waits for him: with a full one, every transaction
-- that notifies fails. Notifications only save waiting; workers look now and then anyway.
CREATE FUNCTION taskflow.notify(channel text, payload text) RETURNS void
LANGUAGE sql VOLATILE
RETURN CASE WHEN pg_notification_queue_usage() < 0.5 THEN pg_notify(channel, payload) END;

-- Notify the idle workers of this priority, if there are any; NOTIFY makes commits wait for each other.
CREATE FUNCTION taskflow.wake(priority taskflow.priority) RETURNS void
LANGUAGE sql VOLATILE
RETURN CASE WHEN taskflow.somebody_is_idle(priority) THEN taskflow.notify('taskflow', priority::text) END;

CREATE FUNCTION taskflow.wake_for_new_task() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    -- Asked again, for the first yes may have been another enqueue that asked at the same instant.
    IF NEW.held THEN
        PERFORM taskflow.notify('taskflow', 'gate:');
    ELSIF NEW.status = 'queued' THEN
        PERFORM taskflow.wake(NEW.priority);
    END IF;
    RETURN NULL;
END
$$;

-- The condition is checked before an event is queued, so an insert that finds nobody idle pays for the check alone. It
-- is somebody_is_idle() written out: Postgres prepares it anew for each statement, and functions would double its cost.
CREATE TRIGGER wake_an_idle_worker
AFTER INSERT ON taskflow.tasks
FOR EACH ROW
WHEN (NOT (pg_try_advisory_lock(1952543595, hashenum(NEW.priority))
           AND pg_advisory_unlock(1952543595, hashenum(NEW.priority))))
EXECUTE FUNCTION taskflow.wake_for_new_task();
