"""How the server stops."""

import socket
from typing import cast

import uvicorn
from litestar import Litestar

from taskflow.api.services import Services


class Server(uvicorn.Server):
    """Ends streams and waiting requests first, for uvicorn waits for the requests that are under way."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        cast(Services, cast(Litestar, self.config.app).state["services"]).watch.close()
        await super().shutdown(sockets)
