"""A task type of your own: shrink a grey image, given as rows of brightness values.

Start the server and a worker in this folder; both must know the module:

    taskflow-server --app resize
    taskflow-worker --app resize

Then enqueue a task, and ask for its result by the id that is answered:

    curl http://127.0.0.1:8086/tasks -H 'Content-Type: application/json' -d '{
      "name": "a gradient", "type": "resize_image",
      "payload": {"rows": [[0, 85, 170, 255], [0, 85, 170, 255]], "width": 2, "height": 1}}'
    curl http://127.0.0.1:8086/tasks/1
"""

from typing import Annotated

from msgspec import Meta, Struct

from taskflow import task

Brightness = Annotated[int, Meta(ge=0, le=255)]
Row = Annotated[list[Brightness], Meta(min_length=1)]
Pixels = Annotated[int, Meta(ge=1, le=1_000)]


class Resize(Struct, frozen=True):
    """The payload. The API refuses what does not fit it; the handler gets it typed."""

    rows: Annotated[list[Row], Meta(min_length=1)]
    width: Pixels
    height: Pixels


@task("resize_image", max_attempts=3, timeout=30)
def resize_image(job: Resize) -> list[list[int]]:
    """Pick the nearest pixel for each of the new ones. What a handler returns becomes the task's result.

    An exception would be a failed attempt, tried again later. As this handler is no coroutine, it runs in a thread.
    """
    return [
        [row[column * len(row) // job.width] for column in range(job.width)]
        for row in (job.rows[line * len(job.rows) // job.height] for line in range(job.height))
    ]
