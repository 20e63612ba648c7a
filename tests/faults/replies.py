"""The replies that are recorded of every way to store, and which test has each fault that no reply causes.

`python -m tests.faults.replies` counts what of the vocabulary is reached.
"""

from collections.abc import Callable

from app.domain.faults import Fault
from tests.faults import test_compatible, test_hosts, test_tasks
from tests.types.base import Row
from tests.types.every import STORAGES
from tests.unit import test_specs
from workers.storage.refusals import FaultTable

ROWS: tuple[Row, ...] = tuple(row for storage in STORAGES.values() for row in storage.rows)
# Some ways to store share a table; it is called by the first of them.
TABLES: dict[str, FaultTable] = dict(
    {id(row.table): (f"{row.on} {row.at}".strip(), row.table) for row in reversed(ROWS)}.values()
)

HOSTS: dict[Fault, Callable[..., object]] = {
    Fault.ENDPOINT_NOT_ALLOWED: test_hosts.test_what_may_not_be_called_is_not_called,
    Fault.HOST_NOT_FOUND: test_hosts.test_a_name_that_nobody_has_is_not_found,
    Fault.CONNECTION_REFUSED: test_hosts.test_a_port_on_which_nobody_listens_refuses,
    Fault.CONNECTION_FAILED: test_hosts.test_an_answer_without_an_explanation_goes_by_its_status,
    Fault.TIMEOUT: test_hosts.test_a_host_that_holds_the_line_is_left_at_the_bound,
    Fault.TLS_FAILURE: test_hosts.test_a_certificate_that_nobody_trusts_is_refused,
    Fault.REDIRECT_REFUSED: test_hosts.test_a_redirect_is_not_followed,
    Fault.NOT_A_STORAGE_ENDPOINT: test_hosts.test_an_answer_without_an_explanation_goes_by_its_status,
}
"""The faults that a host causes which does not answer as storage, and the test that has every type meet one."""

LOCAL: dict[Fault, Callable[..., object]] = {
    Fault.EGRESS_UNAVAILABLE: test_hosts.test_a_name_that_nobody_has_is_not_found,
    Fault.INVALID_PARAMETER: test_specs.test_a_malformed_value_is_refused_by_name,
    Fault.TEMPORARY_CREDENTIALS_UNSUPPORTED: test_specs.test_a_malformed_value_is_refused_by_name,
    Fault.UNSUPPORTED_BUCKET_TYPE: test_specs.test_a_malformed_value_is_refused_by_name,
    Fault.BUCKET_NAME_NOT_A_HOST: test_compatible.test_a_bucket_that_no_host_can_be_named_for_is_told_so,
    Fault.ENDPOINT_NAMES_A_BUCKET: test_compatible.test_an_endpoint_that_is_another_buckets_is_refused,
    Fault.INTERNAL_ERROR: test_tasks.test_a_mistake_of_ours_is_answered_as_one_and_shows_nothing,
}
"""The faults that no reply by itself causes, and the test of each."""


def reached(name: str) -> set[Fault]:
    """The faults that the way to store called `name` is brought to over a socket."""
    return {row.fault for row in STORAGES[name].rows} | set(HOSTS)


if __name__ == "__main__":
    for way, each in STORAGES.items():
        print(f"{way:24}{len(reached(way)):3} faults over a socket, {len(each.rows):3} recorded replies")
    everywhere = set().union(*map(reached, STORAGES))
    print(f"{len(everywhere)} of {len(Fault)} faults over a socket; without one: {', '.join(sorted(LOCAL))}")
