-- What the dashboard looks up.
-- depends: 0016.sessions

-- What is left of an error if what differs from one task to the next is taken out: its first line, at most 200
-- characters, with # for numbers and ids.
CREATE FUNCTION taskflow.error_kind(error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(split_part("left"(error, 200), E'\n', 1), '\m(0x)?[0-9a-f]*[0-9][0-9a-f-]*\M', '#', 'g');

-- Tasks that wait for an earlier gate, or ended at this one: with the two indexes beside it, all tasks of a gate.
CREATE INDEX holds_other ON taskflow.holds (gate, task_id) WHERE state IN ('later', 'ended');

-- Of which group a task is the callback.
CREATE INDEX groups_callback ON taskflow.groups (callback_id) WHERE callback_id IS NOT NULL;
