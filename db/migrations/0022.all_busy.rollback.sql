DROP TRIGGER wake_an_idle_worker ON taskflow.tasks;
CREATE TRIGGER wake_an_idle_worker
AFTER INSERT ON taskflow.tasks
FOR EACH ROW
WHEN (NOT (pg_try_advisory_lock(1952543595, hashenum(NEW.priority))
           AND pg_advisory_unlock(1952543595, hashenum(NEW.priority))))
EXECUTE FUNCTION taskflow.wake_for_new_task();
CREATE OR REPLACE FUNCTION taskflow.wake_for_new_task() RETURNS trigger
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
DROP FUNCTION taskflow.note_all_busy();
DROP FUNCTION taskflow.anybody_is_idle();
DROP FUNCTION taskflow.be_idle(taskflow.priority);
DROP SEQUENCE taskflow.all_busy;
