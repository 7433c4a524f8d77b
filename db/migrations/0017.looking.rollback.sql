DROP INDEX taskflow.groups_callback;
DROP INDEX taskflow.holds_other;
DROP FUNCTION taskflow.error_kind(text);
