"""Print each step of a task until it ends: python follow.py http://127.0.0.1:8086 25 [token]"""

import json
import sys
import time

import httpx


def main(server: str, id: str, token: str = "") -> None:
    """Follow the task; a stream that breaks off is resumed where it was."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    event = ""
    while event != "end":
        try:
            with httpx.stream("GET", f"{server}/tasks/{id}/events", headers=headers, timeout=30) as response:
                response.raise_for_status()
                for line in response.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "id":
                        headers["Last-Event-ID"] = value
                    elif name == "event":
                        event = value
                    elif name == "data" and event == "task":
                        print(json.loads(value)["status"], flush=True)
        except httpx.TransportError as error:
            print(f"again, for {error}", file=sys.stderr)
            time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
