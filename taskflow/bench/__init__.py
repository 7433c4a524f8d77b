"""``taskflow bench``: what this machine and this Postgres can do, each figure beside a limit from the same run."""
