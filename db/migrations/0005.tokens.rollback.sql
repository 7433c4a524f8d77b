DROP TABLE taskflow.tokens;
DROP TYPE taskflow.scope;
