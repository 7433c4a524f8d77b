"""The schema: migrations, what autovacuum is told of the tables, and who may use them."""

from collections.abc import AsyncIterator
from typing import Final

from taskflow.database import Connection
from taskflow.doctor.finding import Finding, Level, Limits, judge
from taskflow.queries.system import find_migrations

HAS_SCHEMA: Final = "SELECT FROM pg_class WHERE oid = to_regclass('taskflow._yoyo_migration')"


async def check_migrations(conn: Connection) -> Finding:
    """Whether the database's schema is that of this version."""
    if await (await conn.execute(HAS_SCHEMA)).fetchone() is None:
        return Finding("migrations", Level.PROBLEM, "the database has no schema taskflow", "run `taskflow migrate`")
    migrations = await find_migrations(conn)
    if missing := [migration.id for migration in migrations if migration.applied_at is None]:
        return Finding("migrations", Level.PROBLEM, f"missing: {', '.join(missing)}", "run `taskflow migrate`")
    if newer := [migration.id for migration in migrations if not migration.is_known]:
        advice = "the database is of a later Taskflow: install that version here"
        return Finding("migrations", Level.WARNING, f"unknown here: {', '.join(newer)}", advice)
    return Finding("migrations", Level.OK, f"all {len(migrations)} are applied")


DEAD_ROWS: Final = 100_000
"""Fewer dead rows are no matter, whatever their share."""

TABLES: Final = """
SELECT relname::text, 'autovacuum_enabled=false' = ANY (reloptions) OR 'autovacuum_enabled=off' = ANY (reloptions),
       relname = 'tasks' AND coalesce(array_to_string(reloptions, ' '), '') !~ 'autovacuum_vacuum_scale_factor',
       coalesce(pg_stat_get_live_tuples(oid), 0), coalesce(pg_stat_get_dead_tuples(oid), 0)
FROM pg_class
WHERE relnamespace = 'taskflow'::regnamespace AND relkind = 'r' AND relname !~ '^_?yoyo'
ORDER BY relname
"""


async def check_autovacuum(conn: Connection, limits: Limits) -> AsyncIterator[Finding]:
    """Whether autovacuum may keep the tables small, and does."""
    good = True
    for table, is_off, is_reset, live, dead in await (await conn.execute(TABLES)).fetchall():
        if is_off:
            good = False
            advice = f"dead rows pile up: ALTER TABLE taskflow.{table} RESET (autovacuum_enabled)"
            yield Finding("autovacuum", Level.PROBLEM, f"it is off for {table}", advice)
        if is_reset:
            good = False
            advice = "it comes too rarely: ALTER TABLE taskflow.tasks SET (autovacuum_vacuum_scale_factor = 0.02)"
            yield Finding("autovacuum", Level.WARNING, "tasks has not the settings it was made with", advice)
        if dead >= DEAD_ROWS:
            found = f"{table} has {dead:,} dead rows and {live:,} live ones"
            advice = f"autovacuum does not keep up: end old transactions and snapshots, then VACUUM taskflow.{table}"
            finding = judge("autovacuum", dead / max(live, DEAD_ROWS), limits.dead, found, advice)
            good = good and finding.level is Level.OK
            if finding.level is not Level.OK:
                yield finding
    if good:
        yield Finding("autovacuum", Level.OK, "it is on, and keeps up")


WHO: Final = """
SELECT current_user, rolsuper, pg_has_role(current_user, nspowner, 'USAGE'),
       has_schema_privilege('taskflow', 'USAGE')
FROM pg_roles, pg_namespace
WHERE rolname = current_user AND nspname = 'taskflow'
"""

MAY: Final = """
SELECT has_table_privilege('taskflow.tasks', 'SELECT') AS look,
       has_any_column_privilege('taskflow.tasks', 'INSERT') AS enqueue,
       has_column_privilege('taskflow.tasks', 'attempt', 'UPDATE') AS work
"""

# What roles.sql did not see: no role but the owner may look at it.
FORGOTTEN: Final = """
SELECT relname::text
FROM pg_class
WHERE relnamespace = 'taskflow'::regnamespace AND relkind IN ('r', 'v') AND relname !~ '^_?yoyo'
  AND NOT EXISTS (
      SELECT FROM pg_roles
      WHERE rolname = ANY ('{taskflow_api, taskflow_worker, taskflow_readonly}')
        AND has_any_column_privilege(rolname, pg_class.oid, 'SELECT'))
  AND EXISTS (
      SELECT FROM pg_roles
      WHERE rolname = 'taskflow_api' AND has_table_privilege(rolname, 'taskflow.tasks', 'SELECT'))
ORDER BY relname
"""


async def check_roles(conn: Connection, *, embedded: bool) -> AsyncIterator[Finding]:
    """What this role may do, and whether the roles of deploy/roles.sql know every table."""
    role, is_super, owns, may_enter = await (await conn.execute(WHO)).fetchone() or ("?", False, False, False)
    if not may_enter:
        advice = "run deploy/roles.sql, and grant it taskflow_api or taskflow_worker"
        yield Finding("role", Level.PROBLEM, f"{role} may not use the schema taskflow", advice)
        return
    look, enqueue, work = await (await conn.execute(MAY)).fetchone() or (False, False, False)
    rights = {"look": look, "enqueue": enqueue, "work": work, "migrate": owns}
    may = [word for word, allowed in rights.items() if allowed]
    found = f"{role} may {', '.join(may) or 'nothing'}"
    if is_super and not embedded:
        advice = "a superuser may do anything to the server: run deploy/roles.sql, and connect as a lesser role"
        yield Finding("role", Level.WARNING, f"{role} is a superuser", advice)
    elif not look:
        yield Finding("role", Level.PROBLEM, found, "run deploy/roles.sql, and grant it one of its roles")
    else:
        yield Finding("role", Level.OK, found)
    if forgotten := [name for (name,) in await (await conn.execute(FORGOTTEN)).fetchall()]:
        advice = "run deploy/roles.sql again, as after each migration"
        yield Finding("grants", Level.PROBLEM, f"no role may read {', '.join(forgotten)}", advice)
