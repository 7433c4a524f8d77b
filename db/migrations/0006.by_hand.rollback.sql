DROP FUNCTION taskflow.recover(taskflow.status, integer, integer);
DROP FUNCTION taskflow.retry(bigint[]);
DROP FUNCTION taskflow.cancel(bigint[], text);
