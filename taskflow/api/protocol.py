"""HTTP on the wire: uvicorn's protocol, which gives clients any time and any space, with bounds."""

from asyncio import TimerHandle, Transport
from http import HTTPStatus
from itertools import chain
from typing import Any, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from taskflow.api.problems import MEDIA_TYPE, plain

LARGEST_HEAD: Final = 32_768
"""Bytes of a request line and its headers, and about those of trailers and of what stands beside a chunk's size."""

PATIENCE: Final = 10.0
"""Seconds to send a head, or to end a body after its answer."""


class HeadTooLarge(Exception):
    """The request line and its headers are larger than LARGEST_HEAD."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that refuses heads which are too large or too slow; the time of a body is bounded by TimeLimit."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: TimerHandle | None = None
        self._head = 0  # bytes that came since the last head was complete, or the last of a body
        self._is_in_head = False
        self._is_in_message = False
        self._is_answered = False  # before its end came
        self._is_refused = False

    def connection_made(self, transport: Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """From now on the client has PATIENCE."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nothing left to wait for."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the client was refused; then it is heard out, for a reset could overtake the answer."""
        if self._is_refused:
            return
        self._head += len(data)
        super().data_received(data)
        if self._is_in_message and self._head > LARGEST_HEAD:
            self._refuse_head()
        if self._is_idle():
            self._arm()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._is_in_head = self._is_in_message = True
        self._is_answered = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is complete; raises HeadTooLarge."""
        self._is_in_head = False
        self._head = 0
        self._disarm()
        separators = 4 * len(self.headers)
        if len(self.url) + sum(map(len, chain.from_iterable(self.headers))) + separators > LARGEST_HEAD:
            self._refuse_head()
            raise HeadTooLarge  # so that the parser stops
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of the head; trailers are not kept."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is complete."""
        self._is_in_message = False
        self._head = 0
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """What is left of the body must end soon; nothing is read while requests that came in one go are waiting."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()
        elif self._is_in_message:
            self._is_answered = not self._is_in_head and self._is_idle()
            self._arm()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _refuse_head(self) -> None:
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head has at most {LARGEST_HEAD:,} bytes")

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer with a problem, the last answer; or make that of the request under way the last."""
        if self._is_refused:
            return
        self._is_refused = True
        if self._is_answered:
            self.transport.write_eof()
            return
        if not self._is_idle():
            self.cycle.keep_alive = False
            if not self.cycle.more_body:
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = msgspec.json.encode(plain(status, detail))
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.write_eof()
        self._disarm()
        self._arm()

    def _is_idle(self) -> bool:
        return not self.cycle or self.cycle.response_complete

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(PATIENCE, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_in_head and not self._is_refused:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the head did not come within {PATIENCE:g} s")
        else:
            self.transport.close()
