"""Calls without I/O: what to send and how long to sleep, so that they are written once for both clients."""

from collections.abc import Awaitable, Callable, Generator
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

import httpx
from msgspec import Struct

P = ParamSpec("P")
T = TypeVar("T")


class Ask(Struct, frozen=True, kw_only=True):
    """One request. It may be sent again after a failure if ``again``: sent twice, it changes no more than once.

    The server may take ``wait`` seconds longer to answer than it usually does.
    """

    method: str = "GET"
    path: str
    query: dict[str, str] = {}
    body: Any = None
    headers: dict[str, str] = {}
    again: bool = False
    wait: float = 0.0


Steps = Generator[Ask | float, httpx.Response | None, T]
"""A call as what it does on the outside: requests to send, seconds to sleep; it is sent the answers."""


class Asking(Protocol):
    """A client that does steps at once."""

    def run(self, steps: Steps[T]) -> T:
        """Do what *steps* say; what comes of it."""
        ...


class Awaiting(Protocol):
    """A client that is awaited."""

    async def run(self, steps: Steps[T]) -> T:
        """Do what *steps* say; what comes of it."""
        ...


class call(Generic[P, T]):
    """A method that is written once as Steps: sync on a Client, to be awaited on an AsyncClient."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self._steps = steps
        update_wrapper(self, steps)  # pyright: ignore[reportArgumentType]

    @overload
    def __get__(self, client: Asking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Awaitable[T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self._steps

        def bound(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.run(self._steps(client, *args, **kwargs))

        return update_wrapper(bound, self._steps)
