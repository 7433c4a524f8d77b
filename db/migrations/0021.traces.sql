-- Which span of OpenTelemetry enqueued a task. Beside the tasks, for few installations trace: a task without one costs
-- nothing, and only workers that trace look here, once for each claim.
-- depends: 0020.lines

CREATE TABLE taskflow.traces (
    task_id     bigint PRIMARY KEY,  -- forgotten by age, so that deleting tasks need not know of it
    traceparent text NOT NULL,
    CONSTRAINT a_traceparent_is_as_w3c_writes_it CHECK (traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$')
);
