DROP TRIGGER wake_an_idle_worker ON taskflow.tasks;
DROP FUNCTION taskflow.wake_for_new_task();
DROP FUNCTION taskflow.wake(taskflow.priority);
DROP FUNCTION taskflow.notify(text, text);
DROP FUNCTION taskflow.somebody_is_idle(taskflow.priority);
DROP FUNCTION taskflow.idle_key(taskflow.priority);
