"""What this process uses, as Prometheus wants to know."""

import os
import time
from pathlib import Path
from typing import Final

from taskflow.metrics import CPU_SECONDS, RESIDENT_BYTES, START_TIME, Metric, Sample

STARTED_AT: Final = time.time()
STATM: Final = Path("/proc/self/statm")


def usage() -> list[tuple[Metric, list[Sample]]]:
    """CPU time, start and, on Linux, memory."""
    told: list[tuple[Metric, list[Sample]]] = [
        (CPU_SECONDS, [((), time.process_time())]),
        (START_TIME, [((), STARTED_AT)]),
    ]
    if STATM.exists():
        pages = int(STATM.read_text().split()[1])
        told.append((RESIDENT_BYTES, [((), pages * os.sysconf("SC_PAGE_SIZE"))]))
    return told
