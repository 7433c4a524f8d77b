"""A load generator for where wrk is not installed: ``python -m taskflow.bench.poster URL CONNECTIONS SECONDS BODY``."""

import asyncio
import sys
import time
from urllib.parse import urlsplit

import msgspec

from taskflow.bench.load import Load
from taskflow.bench.report import quantile
from taskflow.bench.stage import BenchmarkFailed
from taskflow.cli.context import run_async

HEAD = "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"


async def main(url: str, connections: int, seconds: float, body: str) -> Load:
    """POST *body* again and again; raises BenchmarkFailed if an answer is not 200."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    head = HEAD.format(path=parts.path, host=parts.netloc, length=len(body.encode()))
    took: list[float] = []
    deadline = time.perf_counter() + seconds

    async def post_until_deadline(host: str) -> None:
        reader, writer = await asyncio.open_connection(host, parts.port)
        while (began := time.perf_counter()) < deadline:
            writer.write((head + body).encode())
            await read_answer(reader)
            took.append(time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(post_until_deadline(parts.hostname) for _ in range(connections)))
    return Load(len(took) / seconds, quantile(sorted(took), 0.99) * 1000)


async def read_answer(reader: asyncio.StreamReader) -> None:
    """Read one answer to its end; its length must be announced, as those of Taskflow are."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    body = await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
    if not head.startswith("http/1.1 200 "):
        raise BenchmarkFailed(f"{head.strip()} {body.decode()}")


if __name__ == "__main__":
    url, connections, seconds, body = sys.argv[1:]
    try:
        load = run_async(main(url, int(connections), float(seconds), body))
    except (BenchmarkFailed, OSError, EOFError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(load).decode())
