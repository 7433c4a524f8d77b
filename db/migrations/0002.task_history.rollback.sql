DROP VIEW taskflow.task_history;
