"""A PostgreSQL of one's own under a directory: started on demand, shared by processes, gone with the last of them.

Every user of a directory holds a shared lock on its ``users.lock`` (`users.py`). A keeper process (`keeper.py`) owns
Postgres (`server.py`, `cluster.py`) and stops it once it gets that lock for itself. Locks vanish with their process, so
this also holds after a kill -9 of anyone.
"""

from taskflow.embedded.binaries import EmbeddedUnavailable, find_binaries
from taskflow.embedded.users import hold, private_server

__all__ = ["EmbeddedUnavailable", "find_binaries", "hold", "private_server"]
