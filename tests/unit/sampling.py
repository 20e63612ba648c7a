"""Reads this process's metrics."""

from prometheus_client import REGISTRY


def sample(name: str, **labels: str) -> float:
    """The value of the metric `name` with exactly `labels`; 0 where it was never counted."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
