DROP FUNCTION taskflow.prune_workers();
DROP FUNCTION taskflow.prune_groups(bigint, integer);
DROP TABLE taskflow.turns;
