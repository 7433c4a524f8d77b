"""What the demo shows beside its samples, so that each screen of the dashboard has something to show."""

from typing import Any, Final

import httpx
import psycopg

from taskflow.errors import TaskflowError

EMAIL: Final = {"to": "someone@example.com", "subject": "Hello"}

REPORTS_OF_MAY: Final = ("Ada", "Grace", "Edsger")
AS_CSV: Final = ("Barbara", "Tony", "Niklaus", "Frances")

SCHEDULES: Final[tuple[dict[str, Any], ...]] = (
    {"name": "mail new orders", "rule": "every 15s", "type": "send_email", "payload": EMAIL, "priority": "low"},
    {
        "name": "report of the day",
        "rule": "30 7 * * 1-5",
        "time_zone": "Europe/Berlin",
        "type": "make_report",
        "payload": {"customer": "sales", "pages": 12},
        "priority": "high",
    },
    {
        "name": "orders of the night",
        "rule": "15 */2 * * *",
        "time_zone": "America/New_York",
        "type": "import_orders",
        "payload": {"shop": "Boston", "orders": 40},
    },
    {"name": "weekly newsletter", "rule": "0 9 * * 1", "type": "send_newsletter", "payload": {"issue": "next"}},
)

PAUSED_SCHEDULE: Final = "weekly newsletter"
PAUSED_TYPE: Final = "send_newsletter"
REASON: Final = "Grace still reads the proofs"

IS_NEW: Final = "SELECT NOT EXISTS (SELECT FROM taskflow.tasks) AND NOT EXISTS (SELECT FROM taskflow.minutes)"

# A day of a shop: quiet at its beginning, with two waves, and half an hour in which a mail server was away.
PAST: Final = """
WITH given AS (
    SELECT date_trunc('minute', now()) - interval '1 minute' * ago AS at, priority, share, ago,
           420 + 260 * sin(ago / 230.0) + 60 * sin(ago / 17.0) + 25 * sin(ago * share * 7) AS pace
    FROM generate_series(1, 1439) AS ago,
         (VALUES ('high'::taskflow.priority, 0.2), ('normal', 0.5), ('low', 0.3)) AS kind (priority, share)
), minutes AS (
    INSERT INTO taskflow.minutes (at, priority, succeeded, retried, failed)
    SELECT at, priority, round(share * pace), round(share * (12 + 11 * sin(ago / 5.0))),
           CASE WHEN priority <> 'high' AND ago BETWEEN 17 AND 31 THEN round(share * 55) ELSE ago % 3 / 2 END
    FROM given
)
INSERT INTO taskflow.depths (at, priority, waiting, oldest_seconds)
SELECT at, priority, greatest(round(share * pace / 9 + 8 * sin(ago / 4.0)), 0), 3 * share
FROM given
"""


class SampleRefused(TaskflowError):
    """The API did not take a sample."""


def make_up_a_past(dsn: str) -> None:
    """Give a database that has never had a task the numbers of a day before, for the charts."""
    with psycopg.connect(dsn) as conn:
        ((is_new,),) = conn.execute(IS_NEW).fetchall()
        if is_new:
            conn.execute(PAST)


def enqueue_showcase(url: str) -> None:
    """Tell the API at *url* all that there is to see; raises SampleRefused."""
    with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
        Showcase(client).show()


class Showcase:
    """What is told to an API."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def show(self) -> None:
        """A group and what waits for it, failures, retries, long runs, a queue in order, pauses, schedules."""
        self._stop_newsletters()
        self._write_reports()
        self._import_orders()
        self._send_emails()
        self._make_schedules()

    def _post(self, path: str, body: Any) -> Any:
        try:
            return self._client.post(path, json=body).raise_for_status().json()
        except httpx.HTTPError as error:
            raise SampleRefused(f"the API did not take a sample: {error}") from error

    def _stop_newsletters(self) -> None:
        self._post(f"/limits/{PAUSED_TYPE}/pause", {"reason": REASON})
        for tenant in ("acme", "globex", "initech"):
            letter = {"name": f"newsletter for {tenant}", "type": PAUSED_TYPE, "payload": {"issue": "May"}}
            self._post("/tasks", {**letter, "tenant": tenant, "priority": "low"})

    def _write_reports(self) -> None:
        reports = [_report(customer, pages) for pages, customer in enumerate(REPORTS_OF_MAY, 20)]
        group = self._post(
            "/groups", {"name": "reports of May", "tasks": reports, "callback": _email("tell accounting")}
        )
        archive = _email("archive the reports", after=group["added_task_ids"], priority="low")
        self._post("/tasks", archive)
        for number, customer in enumerate(AS_CSV, 3):
            self._post("/tasks", _report(customer, number, format="csv", max_attempts=1))
        for priority in ("high", "normal"):
            self._post("/tasks", _report(f"the archive, {priority}", 1000, priority=priority))

    def _import_orders(self) -> None:
        for shop, more in (("Lisbon", {}), ("Oslo", {"is_closed": True}), ("Porto", {"is_closed": True})):
            payload = {"shop": shop, "orders": 12, **more}
            self._post("/tasks", {"name": f"orders of {shop}", "type": "import_orders", "payload": payload})

    def _send_emails(self) -> None:
        for step in ("received", "packed", "sent"):
            self._post("/tasks", _email(f"order 7012 is {step}", order_key="order 7012", tenant="acme"))
        self._post("/tasks", _email("remind Ada", delay_seconds=3600, unique_key="remind Ada", on_conflict="replace"))
        twice = self._post("/tasks", _email("welcome Ada again", delay_seconds=3600))
        self._post(f"/tasks/{twice['added_task_id']}/cancel", {"reason": "ordered twice"})

    def _make_schedules(self) -> None:
        try:
            known = self._client.get("/schedules", params={"limit": 100}).raise_for_status().json()["schedules"]
        except httpx.HTTPError as error:
            raise SampleRefused(f"the API does not tell its schedules: {error}") from error
        names = {schedule["name"] for schedule in known}
        for schedule in SCHEDULES:
            if schedule["name"] in names:
                continue  # of a demo before this one
            self._post("/schedules", schedule)
            if schedule["name"] == PAUSED_SCHEDULE:
                self._post(f"/schedules/{PAUSED_SCHEDULE}/pause", {"reason": REASON})


def _email(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "send_email", "payload": EMAIL, **more}


def _report(customer: str, pages: int, format: str = "pdf", **more: Any) -> dict[str, Any]:
    payload = {"customer": customer, "pages": pages, "format": format, "month": "2026-05-01"}
    return {"name": f"report for {customer}", "type": "make_report", "payload": payload, **more}
