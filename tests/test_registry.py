"""Task types: registered under a stable name, with a typed payload, from modules of the user."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

import taskflow
from taskflow import Backoff
from taskflow.errors import AppNotLoaded, DuplicateTaskType, InvalidTask, UnknownTaskType
from taskflow.registry import Registry, TaskType, load
from taskflow.registry import registry as global_registry


class Email(Struct, frozen=True):
    to: str
    copies: list[str] = []


@pytest.fixture
def registry() -> Registry:
    return Registry()


def registered(registry: Registry, name: str) -> TaskType:
    found = registry.find(name)
    assert found is not None
    return found


def test_the_payloads_type_is_the_annotation_of_the_only_parameter(registry: Registry):
    @registry.task("send_email")
    async def send_email(payload: Email) -> None: ...

    task_type = registered(registry, "send_email")
    assert (task_type.payload_type, task_type.takes_payload, task_type.is_async) == (Email, True, True)
    assert task_type.handler is send_email
    assert task_type.decode(b'{"to": "a@example.com"}') == Email("a@example.com")


def test_a_handler_is_sync_or_async_and_called_with_its_payload(registry: Registry):
    @registry.task("double")
    def double(payload: dict[str, int]) -> int:
        return 2 * payload["n"]

    task_type = registered(registry, "double")
    assert not task_type.is_async
    assert task_type.call(task_type.decode(b'{"n": 21}')) == 42
    assert double({"n": 1}) == 2


def test_a_handler_without_parameters_ignores_its_payload(registry: Registry):
    @registry.task("tick")
    def tick(times: int = 1) -> str:
        return f"tick {times}"

    assert registry.validate("tick", b'{"anything": [1, 2]}').call({"anything": 1}) == "tick 1"
    with pytest.raises(InvalidTask):
        registry.validate("tick", b"[]")
    assert tick(2) == "tick 2"


def test_a_parameter_without_annotation_takes_any_object(registry: Registry):
    namespace: dict[str, Any] = {}
    exec("def free(payload): return payload", namespace)
    registry.task("free")(namespace["free"])
    assert registry.validate("free", b'{"a": {"b": null}}').payload_type == dict[str, Any]


def test_the_payloads_type_may_be_given_beside_the_function(registry: Registry):
    @registry.task("send", payload=Email)
    def send(payload: Any) -> str:
        return payload.to

    task_type = registry.validate("send", b'{"to": "a"}')
    assert task_type.call(task_type.decode(b'{"to": "a"}')) == "a"
    assert send(Email("b")) == "b"


def test_a_string_annotation_is_resolved(registry: Registry):
    @registry.task("later")
    def later(payload: "Email") -> None: ...

    assert registered(registry, "later").payload_type is Email
    assert later(Email("a")) is None


def test_a_second_parameter_is_the_context_or_refused(registry: Registry):
    def contextual(payload: Email, context: taskflow.Context) -> None: ...

    def other(payload: Email, other: int) -> None: ...

    def swapped(context: taskflow.Context, payload: Email) -> None: ...

    def three(payload: Email, context: taskflow.Context, more: Any) -> None: ...

    registry.task("contextual")(contextual)
    assert (registered(registry, "contextual").payload_type, registered(registry, "contextual").takes_context) == (
        Email,
        True,
    )
    for handler in (other, swapped, three):
        with pytest.raises(TypeError, match=f"{handler.__name__} must take the payload, or the payload and its"):
            registry.task("refused")(handler)
    assert "refused" not in registry


def test_options_have_defaults_and_are_kept(registry: Registry):
    def handler() -> None: ...

    slow = Backoff(first=timedelta(minutes=1))
    registry.task("plain")(handler)
    registry.task("tuned", max_attempts=1, timeout=0.5, backoff=slow)(handler)
    plain, tuned = registered(registry, "plain"), registered(registry, "tuned")
    assert (plain.max_attempts, plain.timeout, plain.backoff) == (5, None, Backoff())
    assert (tuned.max_attempts, tuned.timeout, tuned.backoff) == (1, 0.5, slow)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("", {}),
        ("n" * 129, {}),
        ("n", {"max_attempts": 0}),
        ("n", {"max_attempts": 2**31}),
        ("n", {"timeout": 0}),
        ("n", {"timeout": -1.0}),
        ("n", {"timeout": float("nan")}),
    ],
)
def test_options_that_make_no_sense_are_refused_where_they_are_written(
    registry: Registry, name: str, options: dict[str, Any]
):
    with pytest.raises(ValueError):
        registry.task(name, **options)
    assert registry.names() == []


def test_a_name_is_given_once_and_both_places_are_named(registry: Registry):
    def one() -> None: ...

    def two() -> None: ...

    registry.task("n")(one)
    with pytest.raises(DuplicateTaskType, match=r"'n' is registered by .*\.one and by .*\.two; give one another name"):
        registry.task("n")(two)
    assert registered(registry, "n").handler is one


def test_the_registry_tells_what_it_knows(registry: Registry):
    for name in ("b", "a"):
        registry.task(name)(lambda: None)
    assert registry.names() == ["a", "b"]
    assert {task_type.name for task_type in registry} == {"a", "b"}
    assert "a" in registry
    assert "c" not in registry
    assert registry.find("c") is None


# --- validation -------------------------------------------------------------------------------------------------------


def test_an_unknown_type_is_told_with_the_known_ones(registry: Registry):
    with pytest.raises(UnknownTaskType, match="unknown task type 'x'; known are none"):
        registry.validate("x", b"{}")
    registry.task("b")(lambda: None)
    registry.task("a")(lambda: None)
    with pytest.raises(UnknownTaskType, match="known are a, b"):
        registry.validate("x", b"{}")


@pytest.mark.parametrize(
    ("payload", "field", "problem"),
    [
        (b"{}", "payload", "missing required field `to`"),
        (b'{"to": 1}', "payload.to", "Expected `str`, got `int`"),
        (b'{"to": "a", "copies": ["b", 2]}', "payload.copies[1]", "Expected `str`, got `int`"),
        (b"[]", "payload", "Expected `object`, got `array`"),
        (b"{", "payload", "Input data was truncated"),
        (b'{"to": "\xff"}', "payload", "utf-8"),
        (b'{"to": ' + b"[" * 100_000, "payload", "recursion"),
    ],
    ids=range(7),
)
def test_a_payload_that_does_not_fit_names_the_field_at_fault(
    registry: Registry, payload: bytes, field: str, problem: str
):
    @registry.task("send_email", payload=Email)
    def _(payload: Email) -> None: ...

    with pytest.raises(InvalidTask) as told:
        registry.validate("send_email", payload)
    if problem != "recursion":  # msgspec skips what it does not want without recursion
        assert told.value.field == field
        assert problem in told.value.problem
    assert str(told.value) == f"{told.value.field}: {told.value.problem}"


def test_a_payload_types_own_check_is_told_as_invalid(registry: Registry):
    class Even(Struct):
        n: int

        def __post_init__(self) -> None:
            if self.n % 2:
                raise ValueError("n must be even")

    @registry.task("even")
    def even(payload: Even) -> int:
        return payload.n

    assert registry.validate("even", msgspec.Raw(b'{"n": 2}')).name == "even"
    with pytest.raises(InvalidTask, match="n must be even"):
        registry.validate("even", msgspec.Raw(b'{"n": 3}'))
    assert even(Even(2)) == 2


# --- loading the user's modules ---------------------------------------------------------------------------------------


@pytest.fixture
def app(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for modules of a user; what they register and import is forgotten after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(global_registry, "_types", {})
    before = set(sys.modules)
    yield work_dir
    for name in set(sys.modules) - before:
        del sys.modules[name]


def module(name: str, task_type: str) -> None:
    Path(f"{name}.py").write_text(f"from taskflow import task\n\n@task({task_type!r})\ndef handler(): ...\n")


def test_modules_are_loaded_from_the_working_directory(app: Path):
    module("my_tasks", "one")
    (app / "package").mkdir()
    (app / "package" / "__init__.py").touch()
    module("package/more", "two")
    assert load(["my_tasks", "package.more"]).names() == ["one", "two"]
    assert load(["my_tasks"]).names() == ["one", "two"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "it registers no task type with @task"),
    ],
)
def test_a_module_that_cannot_be_used_is_told_with_the_reason(app: Path, source: str, reason: str):
    (app / "broken_tasks.py").write_text(source)
    with pytest.raises(AppNotLoaded, match=r"cannot load 'broken_tasks': .*; check --app or TASKFLOW_APP") as told:
        load(["broken_tasks"])
    assert reason in str(told.value)


def test_a_module_that_is_not_there_is_told(app: Path):
    with pytest.raises(AppNotLoaded, match="No module named 'not_there'"):
        load(["not_there"])


def test_the_public_names_are_few():
    assert taskflow.__all__ == [
        "Backoff",
        "Context",
        "Fail",
        "Limit",
        "RetryAfter",
        "enqueue",
        "enqueue_many",
        "middleware",
        "schedule",
        "task",
    ]
    assert taskflow.task == global_registry.task
