-- What was done in each minute, and how the queues stood: what charts are drawn from. Counting finished tasks would read
-- them all, or need an index that each finish writes to. Workers add up what they record, and write a sum now and then.
-- depends: 0017.looking

CREATE TABLE taskflow.minutes (
    at        timestamptz NOT NULL,                -- its beginning
    priority  taskflow.priority NOT NULL DEFAULT 'normal',
    succeeded bigint NOT NULL DEFAULT 0,
    failed    bigint NOT NULL DEFAULT 0,           -- for good
    retried   bigint NOT NULL DEFAULT 0,           -- failed, with attempts left

    PRIMARY KEY (at, priority)
)
WITH (fillfactor = 50);

CREATE TABLE taskflow.depths (
    at             timestamptz NOT NULL,
    priority       taskflow.priority NOT NULL,
    waiting        integer NOT NULL,               -- due tasks; at 10,000 it is no longer counted
    oldest_seconds double precision NOT NULL,      -- for how long the oldest of them is due

    PRIMARY KEY (at, priority)
);
