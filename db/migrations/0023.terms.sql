-- What is wrong with one of many tasks is told with its index, and of many a word that is neither cancel nor run is refused also
-- where the task waits for no other.
-- depends: 0022.all_busy

CREATE OR REPLACE FUNCTION taskflow.check_many(tasks jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    SELECT format('[%s].%s: %s', number - 1, key,
                  CASE key WHEN 'on_conflict' THEN 'many tasks can only reject'
                           WHEN 'after_failure' THEN 'is neither cancel nor run'
                           ELSE 'is no field of a task' END)
    INTO wrong
    FROM jsonb_array_elements(tasks) WITH ORDINALITY AS given (task, number)
    CROSS JOIN jsonb_each(task) AS term (key, value)
    WHERE CASE key WHEN 'on_conflict' THEN value NOT IN ('"reject"', 'null')
                   WHEN 'after_failure' THEN value NOT IN ('"cancel"', '"run"', 'null')
                   ELSE key NOT IN ('type', 'payload', 'name', 'priority', 'max_attempts', 'scheduled_at', 'delay',
                                    'after', 'order_key', 'tenant', 'limit_key', 'unique_key', 'traceparent') END
    LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING MESSAGE = wrong;
    END IF;
END
$$;

-- The callback waits for the tasks of its group, whatever becomes of them, and for no others.
CREATE OR REPLACE FUNCTION taskflow.enqueue_group(tasks jsonb, callback jsonb DEFAULT NULL, name text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    callback_id bigint;
    group_id bigint;
BEGIN
    PERFORM taskflow.check_many(CASE WHEN callback IS NULL THEN tasks ELSE tasks || jsonb_build_array(callback) END);
    ids := ARRAY(SELECT taskflow.enqueue_held(tasks));
    IF cardinality(ids) = 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'tasks: a group has at least one';
    ELSIF callback -> 'after' <> 'null' THEN
        RAISE invalid_parameter_value
            USING MESSAGE = 'callback.after: a callback waits for the tasks of its group, and for no others';
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
