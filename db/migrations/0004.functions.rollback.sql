DROP FUNCTION taskflow.requeue(bigint[], text);
DROP FUNCTION taskflow.fresh_budget(bigint, integer, integer);
DROP FUNCTION taskflow.enqueue_many(jsonb);
DROP FUNCTION taskflow.check_many(jsonb);
DROP FUNCTION taskflow.enqueue(text, jsonb, text, taskflow.priority, integer, timestamptz, bigint[], text, text, text, text, text, text);
