"""The clients: how steps are done over HTTP."""

import asyncio
import time
from typing import Any, Self, TypeVar

import httpx
import msgspec

from taskflow.client.calls import Calls
from taskflow.client.steps import Ask, Steps

T = TypeVar("T")


class Client(Calls):
    """Taskflow's API at *url*, as who has *token*. Threads may share it. *timeout* is of one request, in seconds."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30.0, **options: Any) -> None:
        self._http = httpx.Client(**_options(url, token, timeout, options))

    def run(self, steps: Steps[T]) -> T:
        """Do what *steps* say; what comes of it."""
        try:
            step = next(steps)
            while True:
                if not isinstance(step, Ask):
                    time.sleep(step)
                    step = steps.send(None)
                    continue
                try:
                    answer = self._http.request(**_request(step, self._http.timeout))
                except httpx.TransportError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return end.value

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Calls):
    """The same for one event loop."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30.0, **options: Any) -> None:
        self._http = httpx.AsyncClient(**_options(url, token, timeout, options))

    async def run(self, steps: Steps[T]) -> T:
        """Do what *steps* say; what comes of it."""
        try:
            step = next(steps)
            while True:
                if not isinstance(step, Ask):
                    await asyncio.sleep(step)
                    step = steps.send(None)
                    continue
                try:
                    answer = await self._http.request(**_request(step, self._http.timeout))
                except httpx.TransportError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return end.value

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _options(url: str, token: str | None, timeout: float, options: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return {"base_url": url, "headers": headers, "timeout": timeout, **options}


def _request(ask: Ask, timeout: httpx.Timeout) -> dict[str, Any]:
    headers = dict(ask.headers)
    if ask.body is not None:
        headers["Content-Type"] = "application/json"
    content = None if ask.body is None else msgspec.json.encode(ask.body)
    if ask.wait and timeout.read is not None:
        timeout = httpx.Timeout(
            connect=timeout.connect, read=timeout.read + ask.wait, write=timeout.write, pool=timeout.pool
        )
    return {
        "method": ask.method,
        "url": ask.path,
        "params": ask.query,
        "headers": headers,
        "content": content,
        "timeout": timeout,
    }
