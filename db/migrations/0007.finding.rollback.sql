DROP FUNCTION taskflow.first_id_since(timestamptz);
DROP INDEX taskflow.tasks_held;
