-- Draining a worker from afar: it claims nothing more, ends what it runs, and stops.
-- depends: 0014.retention

ALTER TABLE taskflow.workers ADD draining_at timestamptz;  -- set by an operator; the worker learns of it by its heartbeat

COMMENT ON COLUMN taskflow.workers.pid IS '0: a worker over HTTP, whose process is not known';
