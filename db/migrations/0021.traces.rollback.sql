DROP TABLE taskflow.traces;
