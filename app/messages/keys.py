"""The names of what API processes and workers share in Redis; docs/operating.md lists them for an ACL."""

TASK = "dropoff.verify"
QUEUE = "dropoff"
DELIVERY_TASK = "dropoff.deliver"
DELIVERY_QUEUE = "dropoff:deliveries"
TASKS = {QUEUE: TASK, DELIVERY_QUEUE: DELIVERY_TASK}
"""What a worker is asked for on each queue."""
DELIVERY_REPORTS = "dropoff:delivery-reports"
"""The list on which workers tell of deliveries; any API process reads it, so that none is lost with the one that
dispatched."""
HELD = "dropoff:held"
"""The jobs that requests are held for, on all processes together, by the time after which nobody waits any more."""
WORKERS = "dropoff:workers"
"""The workers, by the time of their last heartbeat."""
INTENTS = "dropoff:intents"
"""The intents of verifications that were begun, by when: see app.messages.intents."""
UNSETTLED = "dropoff:unsettled"
"""Those whose file may remain, which an API process is to take into the database, by when that was found."""


def intent_key(intent: str) -> str:
    """What is to be deleted where nobody else does: a sealed job."""
    return f"dropoff:intent:{intent}"


def marker_key(process: str) -> str:
    """What the API process with this id wrote to see whether Redis loses its data."""
    return f"dropoff:marker:{process}"


def heartbeat_key(worker: str) -> str:
    """What a worker last said of itself."""
    return f"dropoff:worker:{worker}"


def claim_key(job: str) -> str:
    """Who has begun `job`, or what came of it: see app.messages.claims."""
    return f"dropoff:claim:{job}"


def slots_key(account: int) -> str:
    """The jobs that `account` has under way, as HELD has everybody's."""
    return f"dropoff:underway:{account}"


def replies_key(process: str) -> str:
    """The list on which the API process with this id reads its replies."""
    return f"dropoff:replies:{process}"


def key_seen_key(fingerprint: str) -> str:
    """When an access key was first seen; it stands there by a keyed hash."""
    return f"dropoff:seen:{fingerprint}"


def failing_key(fingerprint: str) -> str:
    """How many verifications in a row failed at a bucket's service; it stands there by a keyed hash."""
    return f"dropoff:failing:{fingerprint}"
