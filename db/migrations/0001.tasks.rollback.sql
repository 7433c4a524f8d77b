DROP TABLE taskflow.workers;
DROP TABLE taskflow.attempts;
DROP TABLE taskflow.tasks;
DROP TYPE taskflow.outcome;
DROP DOMAIN taskflow.object;
DROP DOMAIN taskflow.label;
DROP TYPE taskflow.status;
DROP TYPE taskflow.priority;
