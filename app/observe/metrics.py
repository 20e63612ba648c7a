"""What is counted and timed, by its Prometheus name; every label has a bounded set of values."""

from prometheus_client import Counter, Gauge, Histogram

from app.domain.verification import Outcome, Report

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)

REQUESTS = Counter(
    "dropoff_requests", "Requests answered, by the route's pattern, method and status.", ["route", "method", "status"]
)
HELD = Gauge("dropoff_held_requests", "Requests that this process holds now.")
HOLD = Histogram("dropoff_hold_seconds", "From the submission of a job to its report.", buckets=_SECONDS)
NOT_PUBLISHED = Counter("dropoff_publish_failures", "Jobs that the queue did not take.")
CONNECTIONS_REFUSED = Counter(
    "dropoff_connections_refused", "Connections that ended before they had a request, by why.", ["reason"]
)
NOT_ADMITTED = Counter(
    "dropoff_requests_not_admitted", "Requests refused before they were looked at, since too many waited."
)
REPLY_LAG = Histogram(
    "dropoff_reply_lag_seconds", "From a worker's reply to the request that waits for it.", buckets=_SECONDS
)
QUEUED = Gauge("dropoff_queue_depth", "Jobs that no worker has taken yet; not a number while Redis does not answer.")
WORKERS = Gauge("dropoff_workers_alive", "Workers that read the queue; not a number while Redis does not answer.")
DELIVERY_WORKERS = Gauge(
    "dropoff_delivery_workers_alive", "Workers that deliver; not a number while Redis does not answer."
)
BACKGROUND_FAILURES = Counter(
    "dropoff_background_failures", "Steps of a process's background tasks that failed; each goes on.", ["task"]
)
MESSAGES_REFUSED = Counter(
    "dropoff_messages_refused",
    "Messages that are not ours and were dropped: of a queue, of the replies, or of Celery's remote control.",
    ["source"],
)
RESUBMITTED = Counter(
    "dropoff_jobs_resubmitted",
    "Jobs handed in again, by what became of the first: worker_lost or message_lost.",
    ["reason"],
)
CLOCK_OFFSET = Gauge("dropoff_clock_offset_seconds", "How far this machine's clock is ahead of Redis'.")

VERIFICATIONS = Histogram(
    "dropoff_verification_seconds", "Whole verifications, by type.", ["type", "outcome"], buckets=_SECONDS
)
STEPS = Histogram(
    "dropoff_step_seconds", "The steps of verifications, by type; skipped ones not.", ["type", "step"], buckets=_SECONDS
)
FAULTS = Counter(
    "dropoff_faults", "Verifications that failed, by the code that the customer was told.", ["type", "code"]
)
LEFT_BEHIND = Counter("dropoff_files_left_behind", "Test files that may have been left behind.", ["type"])
DELIVERIES = Histogram(
    "dropoff_delivery_seconds",
    "Attempts at a delivery, by type and what came of them: ok, or the fault.",
    ["type", "outcome"],
    buckets=(*_SECONDS, 120, 300, 600, 1800, 3600),
)
DELIVERED_BYTES = Counter("dropoff_delivered_bytes", "Bytes of files that were delivered.", ["type"])
DELIVERIES_FAILED = Counter(
    "dropoff_deliveries_failed", "Deliveries that were given up, whoever decided it, by the fault.", ["code"]
)
UNENDED_DELIVERIES = Gauge(
    "dropoff_deliveries", "Deliveries that have not ended, by state: pending or uploading.", ["state"]
)
LEFTOVERS = Gauge(
    "dropoff_leftovers",
    "Test files on record that may have been left behind, by what is done about them: waiting or kept.",
    ["state"],
)
NOTIFICATION_ATTEMPTS = Counter(
    "dropoff_notification_attempts",
    "Requests to the platform's address, by the event's type and whether it was taken or refused.",
    ["type", "outcome"],
)
NOTIFICATIONS = Gauge(
    "dropoff_notifications",
    "Events that the platform was not told of, by what is done about them: waiting, or kept, which is given up.",
    ["state"],
)
EGRESS_REFUSED = Counter("dropoff_egress_refusals", "Connections that the egress guard did not let be made.")


def note(report: Report) -> None:
    """Count a verification that has ended."""
    outcome = Outcome.PASSED if report.ok else Outcome.FAILED
    VERIFICATIONS.labels(report.type, outcome).observe(report.duration_ms / 1000)
    for step in report.steps:
        if step.ms is not None:
            STEPS.labels(report.type, step.step).observe(step.ms / 1000)
    if report.code:
        FAULTS.labels(report.type, report.code).inc()
    if report.left_behind and not report.ok:
        LEFT_BEHIND.labels(report.type).inc()
