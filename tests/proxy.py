"""A way to Postgres that can be cut without a word, as by a router that forgets its connections: no FIN, no RST."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class _Pair:
    """The two ends of one connection, named by its application_name."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.name = ""
        self.is_cut = False

    def close(self) -> None:
        for end in (self.near, self.far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Carries connections to the server of *dsn* over loopback; its own ``dsn`` leads over it."""

    def __init__(self, dsn: str, listener: socket.socket) -> None:
        parts = conninfo_to_dict(dsn)
        host, port = str(parts.get("host") or "127.0.0.1"), int(parts.get("port") or 5432)
        self._family = socket.AF_UNIX if host.startswith("/") else socket.AF_INET
        self._address = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        self._listener = listener
        self._pairs: list[_Pair] = []
        self._is_dark = False
        self._fuses: dict[bytes, str] = {}
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=listener.getsockname()[1], sslmode="disable")

    def cut(self, application: str) -> int:
        """From now on nothing comes through on the connections whose name begins so; how many these are.

        New ones come through.
        """
        cut = [pair for pair in self._pairs if pair.name.startswith(application) and not pair.is_cut]
        for pair in cut:
            pair.is_cut = True
        return len(cut)

    def cut_after(self, application: str, words: bytes) -> None:
        """Cut the next connection whose name begins so, once it has sent *words*: the answer is lost."""
        self._fuses[words] = application

    def darken(self) -> None:
        """Nothing comes through any more, on new connections neither."""
        self._is_dark = True
        self.cut("")

    def lighten(self) -> None:
        """New connections come through again; the old ones are lost for good."""
        self._is_dark = False

    def _serve(self) -> None:
        """Accept connections until the listener is shut down."""
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                pair = _Pair(near, socket.socket(self._family))
                pair.is_cut = self._is_dark
                self._pairs.append(pair)
                pair.far.connect(self._address)
                threading.Thread(target=self._carry_out, args=[pair], daemon=True).start()
                threading.Thread(target=self._carry_back, args=[pair], daemon=True).start()

    def close(self) -> None:
        """End everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._serving.join()  # it may just have accepted one more
        for pair in self._pairs:
            pair.close()

    def _carry_out(self, pair: _Pair) -> None:
        with suppress(OSError):
            while block := pair.near.recv(65536):
                if pair.is_cut:
                    return
                if b"application_name\0" in block:
                    pair.name = block.partition(b"application_name\0")[2].partition(b"\0")[0].decode()
                for words, application in list(self._fuses.items()):
                    if words in block and pair.name.startswith(application):
                        del self._fuses[words]
                        pair.is_cut = True
                pair.far.sendall(block)
            if not pair.is_cut:
                pair.far.shutdown(socket.SHUT_WR)

    def _carry_back(self, pair: _Pair) -> None:
        with suppress(OSError):
            while block := pair.far.recv(65536):
                if pair.is_cut:
                    return
                pair.near.sendall(block)
            if not pair.is_cut:
                pair.near.shutdown(socket.SHUT_WR)


@contextmanager
def proxy(dsn: str) -> Generator[Proxy]:
    """A proxy to the server of *dsn*, until this context ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(dsn, listener)
        try:
            yield proxy
        finally:
            proxy.close()
