DROP VIEW taskflow.stuck;
DROP VIEW taskflow.throughput;
DROP VIEW taskflow.failed;
DROP VIEW taskflow.running;
DROP VIEW taskflow.queue;
