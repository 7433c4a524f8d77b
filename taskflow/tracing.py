"""OpenTelemetry: a span at each enqueue, and one around each attempt that is its child.

Nothing of it is imported, stored or asked for unless the process has set up a tracer provider by itself, as
``opentelemetry-instrument`` does. The attributes are those of the semantic conventions for messaging, where the task
type is the destination.
"""

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from msgspec.structs import replace

from taskflow.model import NewTask

SYSTEM: Final = {"messaging.system": "taskflow"}


def find_tracer() -> Any | None:
    """Our tracer, or None while this process records no spans."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer("taskflow")


@contextmanager
def sending(types: Sequence[str], headers: Mapping[str, str] | None = None) -> Generator[dict[str, str]]:
    """A producer's span around an enqueue of *types*; yields the headers that carry it on, none if nothing is recorded.

    It is a child of the span that is current, else of the one that *headers* of a request carry. It is not made the
    current one.
    """
    if not types or (tracer := find_tracer()) is None:
        yield {}
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    propagator = TraceContextTextMapPropagator()
    here = trace.get_current_span().get_span_context().is_valid
    context = None if here or headers is None else propagator.extract(dict(headers))
    destination = types[0] if len(set(types)) == 1 else "(several)"
    attributes: dict[str, Any] = SYSTEM | {
        "messaging.operation.type": "send",
        "messaging.operation.name": "enqueue",
        "messaging.destination.name": destination,
    }
    if len(types) > 1:
        attributes["messaging.batch.message_count"] = len(types)
    span = tracer.start_span(f"enqueue {destination}", context, trace.SpanKind.PRODUCER, attributes)
    carrier: dict[str, str] = {}
    propagator.inject(carrier, trace.set_span_in_context(span))
    with ended(span):
        yield carrier


def traced(tasks: list[NewTask], headers: Mapping[str, str]) -> list[NewTask]:
    """*tasks* with the ``traceparent`` of *headers*, if they have one."""
    if (traceparent := headers.get("traceparent")) is None:
        return tasks
    return [replace(task, traceparent=traceparent) for task in tasks]


@contextmanager
def ended(span: Any) -> Generator[None]:
    """End *span*, with the error if one is raised. It is not made current: generators would lose track of it."""
    from opentelemetry.trace import Status, StatusCode

    try:
        yield
    except BaseException as error:
        span.record_exception(error)
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        span.end()
