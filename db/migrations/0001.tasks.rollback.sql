DROP TABLE taskflow.workers;
DROP TABLE taskflow.attempts;
DROP TABLE taskflow.tasks;
DROP TYPE taskflow.outcome;
DROP TYPE taskflow.status;
DROP TYPE taskflow.priority;
