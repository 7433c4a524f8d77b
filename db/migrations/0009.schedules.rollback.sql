DROP TABLE taskflow.schedules;
DROP TYPE taskflow.missed;
