DROP TABLE taskflow.sessions;
