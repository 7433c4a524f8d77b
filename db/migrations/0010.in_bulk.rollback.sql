DROP FUNCTION taskflow.delete_final(bigint[]);
DROP FUNCTION taskflow.reprioritise(bigint[], taskflow.priority);
