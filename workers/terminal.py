"""One verification from a terminal: the same as a worker's, without a service, queue or database."""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import NoReturn

import click
import structlog

from app.domain import prefix
from app.domain.deletes import DeletePolicy
from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import Fault
from app.domain.types import SPECS, parse
from app.domain.types.base import Spec
from app.domain.verification import Report
from app.observe import logs
from app.settings import InvalidSettings, Settings, read_settings

log = structlog.get_logger()

PASSED, REFUSED, BAD_PARAMETERS, BROKEN, INTERRUPTED = 0, 1, 2, 3, 130

_CREDENTIALS = frozenset().union(*(spec.credentials() for spec in SPECS.values()))


class _Command(click.Command):
    """One whose options are the parameters of all types, but for credentials: arguments can be seen by everybody."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            # What is no option is not repeated as click would: it may be a secret.
            if left := super().parse_args(ctx, args):
                _fail(f"{len(left)} of the arguments belong to no option: `dropoff verify --help` lists the options")
            return left
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-").replace("-", "_")
            if name not in _CREDENTIALS:
                raise
            _fail(
                f"{error.option_name} is no option, since everybody on this machine can see arguments, and a shell "
                f"keeps them: set {name.upper()} in the environment, or be asked for it. Replace a secret that was "
                "given so."
            )


def _run(as_json: bool, **given: str | None) -> NoReturn:
    settings = _settings()
    try:
        spec = _spec(given, settings)
    except click.Abort:
        sys.exit(INTERRUPTED)
    key = prefix.test_key(spec.path_prefix, datetime.now(UTC))
    logs.configure("verify", "WARNING")
    try:
        report = asyncio.run(_verified(spec, key, settings))
    except KeyboardInterrupt:
        click.echo(f"Interrupted: {key} may have been left behind; remove it if it is there.", err=True)
        sys.exit(INTERRUPTED)
    except Exception:  # whatever broke: the log redacts it
        log.exception("verification broke")
        sys.exit(BROKEN)
    click.echo(json.dumps(report.as_answer(), ensure_ascii=False, indent=2) if as_json else report.as_text())
    if report.code in (Fault.ENDPOINT_NOT_ALLOWED, Fault.HOST_NOT_FOUND):
        _hint(
            "if this store is in a network of yours, name that in DROPOFF_EGRESS_ALLOW, as 10.20.30.0/24, here and for "
            "every worker"
        )
    sys.exit(PASSED if report.ok else REFUSED)


def _settings() -> Settings:
    try:
        return read_settings()
    except InvalidSettings as error:
        _fail(str(error))


def _spec(given: Mapping[str, str | None], settings: Settings) -> Spec:
    """The spec that the arguments and the environment describe; credentials that are missing are asked for, once
    nothing else is wrong, where somebody is there to be asked."""
    kind = SPECS.get(given["type"] or "")
    credentials = kind.credentials() if kind else frozenset()
    whole = {**given, **{name: os.environ.get(name.upper()) or None for name in credentials}}
    while True:
        try:
            return parse(whole, allow_http=settings.allow_http)
        except InvalidParameters as error:
            missing = [each.parameter for each in error.faults if each.code == "missing_parameter"]
            if not settings.allow_http and (whole.get("s3_endpoint") or "").strip().lower().startswith("http://"):
                _hint(
                    "for a store in a network of yours, DROPOFF_ALLOW_HTTP=1 takes http://, here and on API processes"
                )
            if len(missing) < len(error.faults) or not credentials.issuperset(missing) or not sys.stdin.isatty():
                _fail(*(_advice(fault, credentials) for fault in error.faults))
        for name in missing:
            whole[name] = click.prompt(f"{name} (is not shown)", hide_input=True, err=True)


def _advice(fault: ParameterFault, credentials: frozenset[str]) -> str:
    if fault.parameter in credentials and fault.code == "missing_parameter":
        return f"{fault.message} Set {fault.parameter.upper()} in the environment."
    return fault.message


async def _verified(spec: Spec, key: str, settings: Settings) -> Report:
    # The SDKs, once it is known that there is something to do.
    from workers.storage.registry import open_providers
    from workers.verify import verify

    async with AsyncExitStack() as stack:
        provider_for = await open_providers(stack, settings)
        job = str(uuid.uuid4())
        lenient = settings.delete is DeletePolicy.LENIENT

        return await verify(
            await provider_for(spec), spec, key,
            timeout=settings.verify_seconds, job=job, lenient=lenient, multipart=settings.delivers,
        )  # fmt: skip


def _hint(message: str) -> None:
    """Tell the operator which setting is meant, which a customer is not told."""
    click.echo(f"dropoff verify: {message}; docs/operating.md, A store in your own network", err=True)


def _fail(*messages: str) -> NoReturn:
    for message in messages:
        click.echo(f"dropoff verify: {message}", err=True)
    sys.exit(BAD_PARAMETERS)


def _options() -> list[click.Parameter]:
    types: dict[str, list[str]] = {}
    for kind, spec in SPECS.items():
        for name, field in spec.model_fields.items():
            if name != "type" and name not in spec.credentials():
                types.setdefault(name, []).append(kind if field.is_required() else f"{kind} (optional)")
    return [
        click.Option(["--type"], metavar="TYPE", help=f"One of {', '.join(SPECS)}."),
        *(click.Option([f"--{name.replace('_', '-')}"], help=", ".join(kinds)) for name, kinds in types.items()),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the report as JSON."),
    ]


def _secrets_by_type() -> str:
    width = max(map(len, SPECS))
    return "\n".join(
        f"  {kind:{width}}  {' '.join(name.upper() for name in spec.model_fields if name in spec.credentials())}"
        for kind, spec in SPECS.items()
    )


_HELP = f"""Upload a small test file to a destination, delete it again, and tell how each step went.

Secrets are no options. Each is read from a variable of the environment, or asked for where this runs on a terminal:

\b
{_secrets_by_type()}

GCS_SERVICE_ACCOUNT_KEY holds the whole JSON key, in place of the other two, and is never asked for.

DROPOFF_EGRESS_ALLOW, DROPOFF_ALLOW_HTTP, DROPOFF_VERIFY_SECONDS and the providers' endpoints mean what they mean to a
worker.

\b
Exit codes:
  {PASSED}    the destination works
  {REFUSED}    it does not
  {BAD_PARAMETERS}    a parameter or setting is missing or malformed
  {BROKEN}    the verification broke on our side
  {INTERRUPTED}  interrupted
"""

main = _Command(
    "verify",
    params=_options(),
    callback=_run,
    help=_HELP,
    context_settings={"allow_extra_args": True, "help_option_names": ["-h", "--help"]},
)
