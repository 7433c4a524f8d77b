DROP FUNCTION taskflow.prune_keys(integer);
DROP TABLE taskflow.idempotency_keys;
DROP FUNCTION taskflow.enqueue_unique(jsonb, text);
