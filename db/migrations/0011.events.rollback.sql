DROP FUNCTION taskflow.tell(bigint[], taskflow.status);
DROP FUNCTION taskflow.is_watched();
DROP TABLE taskflow.events;
