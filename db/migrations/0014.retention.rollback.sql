DROP FUNCTION taskflow.prune_workers();
DROP TABLE taskflow.turns;
