"""The reference pages of the documentation, written from the code when the site is built."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, LiteralString

import click
import httpx
import psycopg
from msgspec import Meta

from taskflow import registry, settings
from taskflow.api.app import create_app
from taskflow.cli.main import main
from taskflow.embedded import private_server
from taskflow.migrate import migrate

COLUMNS: Final = """
SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid), attidentity <> ''
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
RELATIONS: Final = """
SELECT oid, relname, relkind IN ('v', 'm') FROM pg_class
WHERE relnamespace = 'taskflow'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND relname !~ 'yoyo'
    AND NOT relispartition
ORDER BY relkind IN ('v', 'm'), relname
"""
CONSTRAINTS: Final = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s AND contype <> 'n'
ORDER BY contype DESC, conname
"""
INDEXES: Final = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'taskflow' AND tablename = %s ORDER BY indexname"
FUNCTIONS: Final = """
SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc
WHERE pronamespace = 'taskflow'::regnamespace AND prorettype <> 'trigger'::regtype ORDER BY proname, oid
"""
TYPES: Final = """
SELECT typname, string_agg(enumlabel, ', ' ORDER BY enumsortorder) FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid
WHERE typnamespace = 'taskflow'::regnamespace GROUP BY typname ORDER BY typname
"""


def pages() -> dict[str, str]:
    """Markdown by the path of the page."""
    return {
        "reference/settings.md": "".join(settings_page()),
        "reference/commands.md": "".join(commands_page()),
        "reference/api.md": "".join(api_page(api_description())),
        "reference/schema.md": "".join(schema_page()),
    }


def settings_page() -> Iterator[str]:
    """Every variable, its default, type and meaning."""
    yield "# Settings\n\nFrom the environment or `.env`; an empty value counts as unset.\n\n"
    yield "| variable | default | type | meaning |\n|---|---|---|---|\n"
    for name, field in settings.VARIABLES.items():
        kind, meta = field.type.__origin__, [each for each in field.type.__metadata__ if isinstance(each, Meta)]
        default = "–" if field.default is None else f"`{json.dumps(field.default).strip(chr(34))}`"
        meaning = next(each.description for each in meta if each.description)
        yield f"| `{name}` | {default} | {describe_type(kind)} | {meaning} |\n"


def describe_type(kind: Any) -> str:
    """In words: what a variable may hold."""
    written = str(kind).replace("typing.", "")
    if "Literal" in written:
        return ", ".join(f"`{word}`" for word in kind.__args__)
    for name, word in (("bool", "true or false"), ("int", "whole number"), ("float", "number")):
        if name in written:
            return word
    return "text"


def commands_page() -> Iterator[str]:
    """Every command with its options."""
    yield "# Commands\n\n`taskflow-server`, `taskflow-worker` and `taskflow-recovery` are `taskflow server`, "
    yield "`taskflow worker` and `taskflow recovery` by another name.\n"
    yield from command_section("taskflow", main, click.Context(main, info_name="taskflow"))


def command_section(path: str, command: click.Command, context: click.Context) -> Iterator[str]:
    """A command, and the commands below it."""
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"\n## {path}\n\n```text\n{path} {usage}\n```\n\n{(command.help or '').strip()}\n"
    options = [each for each in command.params if isinstance(each, click.Option) and each.name != "version"]
    if options:
        yield "\n| option | meaning |\n|---|---|\n"
    for option in options:
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        text = (option.help or "").replace("|", "\\|")
        default = option.to_info_dict()["default"]
        shown = f" Default: `{default}`." if option.show_default and default is not None else ""
        yield f"| {names} | {text}{shown} |\n"
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from command_section(f"{path} {name}", below, click.Context(below, context, info_name=name))


def api_description() -> dict[str, Any]:
    """The OpenAPI document, as the server gives it; no database is needed for that."""
    given = settings.Settings()
    app = create_app(given, "host=nowhere.invalid", registry.load(given.apps))

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as client:
            return await client.get("/schema/openapi.json")

    return asyncio.run(get()).raise_for_status().json()


def api_page(document: dict[str, Any]) -> Iterator[str]:
    """Every operation with its parameters and answers, and every body."""
    yield "# HTTP API\n\nThe server gives the same as OpenAPI 3.1 at `/schema/openapi.json`, and to try out at "
    yield "`/schema`.\n"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = ", ".join(f"`{scope}`" for each in operation.get("security", []) for scope in each["token"])
            yield f"\n## {method.upper()} {path}\n\n{operation['summary']}. {operation.get('description', '')}\n\n"
            yield f"Scope: {scopes or 'none, open to all'}.\n"
            if parameters := operation.get("parameters"):
                yield "\n| parameter | in | |\n|---|---|---|\n"
                for each in parameters:
                    needed = ", required" if each.get("required") else ""
                    yield f"| `{each['name']}` | {each['in']}{needed} | {cell(each.get('description', ''))} |\n"
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"\nTakes `{kind}`: {type_of(content['schema'])}.\n"
            yield "\n| answer | |\n|---|---|\n"
            for status, answer in sorted(operation["responses"].items()):
                bodies = [type_of(content["schema"]) for content in answer.get("content", {}).values()]
                yield f"| {status} | {cell(answer['description'])}{': ' if bodies else ''}{', '.join(bodies)} |\n"
    yield "\n## Bodies\n"
    for name, schema in document["components"]["schemas"].items():
        yield f"\n### {name}\n\n{schema.get('description', '')}\n"
        if properties := schema.get("properties"):
            yield "\n| field | type | |\n|---|---|---|\n"
            for field, described in properties.items():
                needed = "required. " if field in schema.get("required", []) else ""
                yield f"| `{field}` | {type_of(described)} | {needed}{cell(described.get('description', ''))} |\n"
        elif "enum" in schema:
            yield "\n" + ", ".join(f"`{each}`" for each in schema["enum"]) + "\n"


def type_of(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(type_of(choice) for choice in choices)
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {type_of(schema.get('items', {}))}"
    return cell(str(schema.get("type", "anything")))


def cell(text: str) -> str:
    """Text that fits into a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def schema_page() -> Iterator[str]:
    """Every table, view, type and function, read from a database that was just migrated."""
    yield "# SQL objects\n\nAll in schema `taskflow`. What they mean: [Taskflow in SQL](../sql.md).\n"
    with tempfile.TemporaryDirectory() as folder, private_server(Path(folder)) as dsn:
        migrate(dsn)
        with psycopg.connect(dsn) as conn:
            for oid, name, is_view in conn.execute(RELATIONS).fetchall():
                yield f"\n## {'View' if is_view else 'Table'} {name}\n\n| column | type | |\n|---|---|---|\n"
                for column, kind, needed, default, identity in conn.execute(COLUMNS, [oid]):
                    notes = ["not null"] * (needed and not is_view) + ["identity"] * identity
                    notes += [f"default `{cell(default)}`"] if default else []
                    yield f"| `{column}` | {kind} | {', '.join(notes)} |\n"
                yield from bullets(f"`{each}`: `{rule}`" for each, rule in conn.execute(CONSTRAINTS, [oid]))
                yield from bullets(f"`{index}`" for (index,) in conn.execute(INDEXES, [name]))
            yield from table(conn, "Types", "type | values", TYPES)
            yield from table(conn, "Functions", "function | arguments | returns", FUNCTIONS)


def bullets(lines: Iterator[str]) -> Iterator[str]:
    """A list, if there is anything to list."""
    if found := [f"- {line}\n" for line in lines]:
        yield "\n"
        yield from found


def table(conn: psycopg.Connection[Any], title: str, head: str, query: LiteralString) -> Iterator[str]:
    """A heading, and what *query* gives as a table."""
    rows = conn.execute(query).fetchall()
    yield f"\n## {title}\n\n| {head} |\n|{'---|' * (head.count('|') + 1)}\n"
    for row in rows:
        yield "| " + " | ".join(f"`{cell(value)}`" if value else "" for value in row) + " |\n"
