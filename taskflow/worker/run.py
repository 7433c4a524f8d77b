"""The life of a worker: register, claim and run until told to stop, end what runs, leave."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from typing import Final

import structlog
from msgspec import Struct

from taskflow import __version__, logs, metrics
from taskflow.database import TROUBLE, Connection, Database
from taskflow.errors import PresenceLost
from taskflow.maintenance import rescue_all, rescue_once
from taskflow.model import Priority, Retention
from taskflow.process import usage
from taskflow.queue.prune import take_turn
from taskflow.queue.tally import FLUSH, SAMPLE, Tally, note_depths
from taskflow.registry import Registry
from taskflow.worker.bell import Bell
from taskflow.worker.cancellations import Cancellations
from taskflow.worker.chores import Chore, do_chores
from taskflow.worker.claimer import Claimer
from taskflow.worker.finisher import Finisher
from taskflow.worker.gatekeeper import Gatekeeper
from taskflow.worker.health import serve_health
from taskflow.worker.link import Link
from taskflow.worker.meter import Meter
from taskflow.worker.names import Registration
from taskflow.worker.notes import Notes
from taskflow.worker.presence import Presence
from taskflow.worker.processes import Isolation
from taskflow.worker.pruner import Pruner
from taskflow.worker.runner import Runner
from taskflow.worker.slots import Slots
from taskflow.worker.strays import Strays
from taskflow.worker.teller import Teller
from taskflow.worker.ticks import ticks
from taskflow.worker.tracer import Tracer

log = structlog.get_logger(__name__)

SWEEP_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 1.0
STATEMENT_SECONDS: Final = 12.0
"""Together with the link's slack so short that a connection cut without a word is noticed within 20 s."""
FLUSH_SECONDS: Final = 10.0
"""How long a stopping worker tries to record its last outcomes; the rescue has them after that."""


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """How a worker runs; times in seconds. ``health_port`` None: no health endpoints."""

    name: str
    priorities: tuple[Priority, ...]
    concurrency: int
    time_out: float
    grace: float
    poll: float
    lease: float
    aging: float | None
    health_host: str
    health_port: int | None
    retention: Retention = Retention()
    isolation: Isolation | None = None


async def run(options: WorkerOptions, registry: Registry, database: Database) -> int:
    """Run a worker until SIGTERM, SIGINT or a drain; its exit status: 0, or 1 if the others took it for gone.

    A second signal ends the process at once. Raises WorkerIdTaken if the name is held by a live worker.
    """
    loop = asyncio.get_running_loop()
    stop, bell = asyncio.Event(), Bell()
    lost: list[PresenceLost] = []

    def on_lost(error: PresenceLost) -> None:
        lost.append(error)
        loop.call_soon_threadsafe(stop.set)

    def drain() -> None:
        loop.call_soon_threadsafe(stop.set)

    def ring(payload: str) -> None:
        loop.call_soon_threadsafe(bell.ring, payload)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, stop)
    presence = Presence(
        database.sessions or database.dsn,
        options.name,
        options.priorities,
        options.concurrency,
        lease=options.lease,
        pooled=database.sessions is None,
        on_wake=ring,
        on_lost=on_lost,
        on_drain=drain,
    )
    if database.sessions is None:
        log.warning("worker.sessionless", worker=options.name, poll=options.poll, note="nothing wakes it: it polls")
    registration = await asyncio.wrap_future(presence.start())
    log.info(
        "worker.started", worker=options.name, priorities=list(options.priorities), concurrency=options.concurrency
    )
    if any(task_type.keep_logs for task_type in registry):
        logs.listen()
    try:
        all_ended = await _work(options, registry, database, presence, registration, stop, bell)
    finally:
        await asyncio.to_thread(presence.stop)
    status = 1 if lost else 0
    for error in lost:
        log.error("worker.lost", worker=options.name, reason=str(error))
    log.info("worker.stopped", worker=options.name, status=status)
    if not all_ended:
        os._exit(status)  # a handler's thread that does not end would keep the process for ever
    return status


def _on_signal(stop: asyncio.Event) -> None:
    if stop.is_set():
        log.warning("worker.killed", note="second signal: attempts that still run will be rescued")
        os._exit(1)
    stop.set()


def _health(
    options: WorkerOptions, presence: Presence, claims: Link, slots: Slots, finisher: Finisher, meter: Meter | None
) -> AbstractContextManager[object]:
    """Ready means that the others know this worker lives, and that it can claim."""
    if options.health_port is None or meter is None:
        return nullcontext()

    def is_ready() -> bool:
        return presence.is_fresh and claims.is_up

    def measure() -> bytes:
        return metrics.render(
            [
                (metrics.INFO, [((__version__,), 1)]),
                *meter.read(),
                (metrics.SLOTS, [((), slots.size)]),
                (metrics.SLOTS_USED, [((), min(slots.running, slots.size))]),
                (metrics.UNRECORDED, [((), finisher.pending)]),
                (metrics.CLOCK_AHEAD, [((), presence.clock_ahead)]),
                (metrics.READY, [((), int(is_ready()))]),
                *usage(),
            ]
        )

    return serve_health(options.health_host, options.health_port, is_ready, measure)


async def _work(
    options: WorkerOptions,
    registry: Registry,
    database: Database,
    presence: Presence,
    registration: Registration,
    stop: asyncio.Event,
    bell: Bell,
) -> bool:
    """Claim and run until *stop*, then end what runs; whether every handler has ended."""
    async with (
        _link(database, options, "claim") as claims,
        _link(database, options, "finish") as finishes,
        _link(database, options, "maintain") as maintains,
        _link(database, options, "gates") as gates,
        _link(database, options, "prune") as prunes,
        _link(database, options, "progress") as tells,
    ):
        worker = registration.worker
        pruner = Pruner(prunes, options.retention)
        meter = None if options.health_port is None else Meter(lambda: time.time() + presence.clock_ahead)
        gatekeeper = Gatekeeper(gates, bell.woken, registry, options.concurrency, options.aging)
        teller = Teller()
        bell.on("watch", teller.hear)
        tally, notes = Tally(), Notes(tells, worker)
        follow_ups = [gatekeeper.follow_up, teller.tell]
        finisher = Finisher(finishes, worker, bell.woken, follow_ups, tally, notes.write_before)
        tracer = Tracer.find()
        runner = Runner([*([tracer.call] if tracer else []), *registry.middlewares], notes, options.isolation)
        slots = Slots(options.concurrency, registry, options.time_out, finisher.add, meter, runner)
        claimer = Claimer(
            claims,
            worker,
            options.priorities,
            slots,
            finisher,
            bell.woken,
            poll=options.poll,
            on_claim=None if meter is None else meter.claimed,
            policy=lambda: gatekeeper.policy,
            follow_up=teller.tell if tracer is None else tracer.learns_before(teller.tell),
            presence=presence if database.is_pooled else None,
        )
        cancellations = Cancellations(worker, slots)
        bell.on("cancel", cancellations.hear)
        bell.on("gate", gatekeeper.hear)
        chores = [
            Chore(LOOK_SECONDS, gatekeeper.look),  # first, for the first claim waits for it
            _rescue(options, presence, registration, Strays(worker, slots, finisher)),
            Chore(options.lease / 5, cancellations.look),
            *ticks(registry.schedules()),
            pruner.chore,
            Chore(FLUSH, tally.flush),
            Chore(SAMPLE / 2, _note_depths),
            *([] if tracer is None else [tracer.chore]),
        ]
        jobs = [
            asyncio.create_task(finisher.run()),
            asyncio.create_task(gatekeeper.run()),
            asyncio.create_task(do_chores(maintains, chores, stop)),
            asyncio.create_task(cancellations.look_when_told(database, options.name)),
            asyncio.create_task(_sweep(slots)),
            asyncio.create_task(pruner.run()),
            asyncio.create_task(notes.run()),
        ]
        with _health(options, presence, claims, slots, finisher, meter):
            claiming = claimer.start(after=gatekeeper.knows_policy)
            await _first(stop, [claiming, *jobs])
            log.info("worker.stopping", worker=options.name, running=slots.running, grace=options.grace)
            slots.stop()
            claimer.stop()
            await asyncio.wait([claiming])
            if not await slots.wait_for_all(options.grace):
                await slots.release_all()
            if not await finisher.drain(FLUSH_SECONDS):
                log.error(
                    "worker.unrecorded", outcomes=finisher.pending, note="their tasks will be rescued and run again"
                )
        await _cancel(jobs)
        await _flush_last(maintains, tally)
        runner.close()
        return slots.close()


@asynccontextmanager
async def _link(database: Database, options: WorkerOptions, purpose: str) -> AsyncGenerator[Link]:
    purpose = f"taskflow {purpose} {options.name}"
    link = Link(database.dsn, purpose, statement_timeout=STATEMENT_SECONDS, pooled=database.is_pooled)
    try:
        yield link
    finally:
        await link.close()


async def _first(stop: asyncio.Event, jobs: Sequence[asyncio.Task[None]]) -> None:
    """Return once *stop* is set; raises the error of a job that ends before, for none of them should."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *jobs], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for job in done - {stopping}:
        job.result()


async def _sweep(slots: Slots) -> None:
    while True:
        slots.sweep()
        await asyncio.sleep(SWEEP_SECONDS)


def _rescue(options: WorkerOptions, presence: Presence, registration: Registration, strays: Strays) -> Chore:
    """Rescue: at once what former workers of this name left, then now and then what any worker left that is gone.

    And put back what this worker claimed without learning of it.
    """
    former = list(registration.former)

    async def step(conn: Connection) -> None:
        while former:
            rescued = await rescue_all(conn, former[-1])
            log.info("worker.took_over", worker=options.name, rescued=rescued)
            former.pop()
        await strays.put_back(conn)
        if presence.is_steady:
            await rescue_once(conn, options.lease)

    return Chore(options.lease / 5, step)


async def _note_depths(conn: Connection) -> None:
    if await take_turn(conn, "depths", SAMPLE):
        await note_depths(conn)


async def _flush_last(link: Link, tally: Tally) -> None:
    """Write what was recorded lately, if Postgres is there."""
    with suppress(TimeoutError, *TROUBLE):
        async with asyncio.timeout(1):
            await tally.flush(await link.get())


async def _cancel(jobs: Sequence[asyncio.Task[None]]) -> None:
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
