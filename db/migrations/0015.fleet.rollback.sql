ALTER TABLE taskflow.workers DROP draining_at;
