CREATE OR REPLACE FUNCTION taskflow.check_many(tasks jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    SELECT key INTO wrong
    FROM jsonb_array_elements(tasks) AS task CROSS JOIN jsonb_object_keys(task) AS key
    WHERE key NOT IN ('type', 'payload', 'name', 'priority', 'max_attempts', 'scheduled_at', 'delay', 'after',
                      'after_failure', 'order_key', 'tenant', 'limit_key', 'unique_key', 'on_conflict', 'traceparent')
    LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s: is no field of a task', wrong);
    ELSIF tasks @? '$[*].on_conflict ? (@ != "reject")' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'on_conflict: many tasks can only reject';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION taskflow.enqueue_group(tasks jsonb, callback jsonb DEFAULT NULL, name text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[] := ARRAY(SELECT taskflow.enqueue_held(tasks));
    callback_id bigint;
    group_id bigint;
BEGIN
    PERFORM taskflow.check_many(CASE WHEN callback IS NULL THEN tasks ELSE tasks || jsonb_build_array(callback) END);
    IF cardinality(ids) = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'tasks: a group has at least one';
    END IF;
    IF callback IS NOT NULL THEN
        callback_id := taskflow.enqueue_held(jsonb_build_array(
            callback || jsonb_build_object('after', to_jsonb(ids), 'after_failure', 'run')));
    END IF;
    INSERT INTO taskflow.groups AS g (name, callback_id) VALUES ($3, callback_id) RETURNING g.id INTO group_id;
    INSERT INTO taskflow.members SELECT unnest(ids), group_id;
    RETURN group_id;
END
$$;
