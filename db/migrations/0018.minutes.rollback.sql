DROP TABLE taskflow.depths;
DROP TABLE taskflow.minutes;
