"""Alibaba Cloud OSS with a RAM user's keys, by oss2, which blocks and so works in threads of its own."""

import asyncio
import contextvars
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import oss2
import requests
from oss2.exceptions import OssError, ServerError

from app.domain.errors import Fault
from app.domain.specs.base import Spec
from app.domain.specs.oss import OssSpec
from app.domain.verification import NOTHING_FOUND, Found, Step
from app.settings import Settings
from workers.egress import CONNECT_SECONDS, AnswerTooLarge, RedirectRefused
from workers.providers.base import (
    CONTENT_TYPE,
    STUMBLES,
    FaultTable,
    Refused,
    Reply,
    Uploaded,
    content_md5,
    stumbled,
    unanswered,
)

T = TypeVar("T")

# https://www.alibabacloud.com/help/en/oss/support/http-status-code-403 and the lists beside it
FAULTS = FaultTable(
    codes={
        "InvalidAccessKeyId": Fault.ACCESS_KEY_UNKNOWN,
        "SignatureDoesNotMatch": Fault.SECRET_MISMATCH,
        "SecurityTokenExpired": Fault.CREDENTIALS_EXPIRED,
        "InvalidSecurityToken": Fault.CREDENTIALS_EXPIRED,
        "UserDisable": Fault.ACCOUNT_SUSPENDED,
        "InDebt": Fault.ACCOUNT_SUSPENDED,
        "InDebtOverdue": Fault.ACCOUNT_SUSPENDED,
        "BucketDisable": Fault.ACCOUNT_SUSPENDED,
        "AbnormalBucketOwnerStatus": Fault.ACCOUNT_SUSPENDED,
        "UbsmsInvalidBid": Fault.ACCOUNT_SUSPENDED,
        "RequestTimeTooSkewed": Fault.CLOCK_SKEW,
        "NoSuchBucket": Fault.BUCKET_NOT_FOUND,
        "PublicEndpointForbidden": Fault.CUSTOM_DOMAIN_REQUIRED,
        "AccessDenied": Fault.WRITE_DENIED,
        "FileImmutable": Fault.DELETE_BLOCKED_BY_RETENTION,
        "QpsLimitExceeded": Fault.THROTTLED,
        "TotalQpsLimitExceeded": Fault.THROTTLED,
        "DownloadTrafficRateLimitExceeded": Fault.THROTTLED,
        "UploadTrafficRateLimitExceeded": Fault.THROTTLED,
        "InternalError": Fault.PROVIDER_UNAVAILABLE,
        "RequestTimeout": Fault.PROVIDER_UNAVAILABLE,
        "NotImplemented": Fault.PROTOCOL_UNSUPPORTED,
        "SignatureVersionNotSupported": Fault.PROTOCOL_UNSUPPORTED,
    },
    vague=frozenset({"AccessDenied", "InvalidArgument"}),
    messages=(
        (re.compile(r"must be addressed using the specified endpoint", re.I), Fault.BUCKET_WRONG_REGION),
        (re.compile(r"forbidden by kms", re.I), Fault.ENCRYPTION_KEY_UNAVAILABLE),
        (re.compile(r"signing region", re.I), Fault.BUCKET_WRONG_REGION),
        (re.compile(r"x-oss-server-side-encryption", re.I), Fault.ENCRYPTION_REQUIRED),
        (re.compile(r"requester", re.I), Fault.REQUESTER_PAYS),
    ),
    # The EC of https://www.alibabacloud.com/help/en/oss/support/error-codes, which has a page for each.
    finer={
        "0002-00000226": Fault.BUCKET_WRONG_REGION,
        "0002-00000228": Fault.BUCKET_WRONG_REGION,
        "0002-00000903": Fault.ACCESS_KEY_DISABLED,
        "0002-00000904": Fault.ACCESS_KEY_DISABLED,
        "0003-00001403": Fault.BUCKET_WRONG_REGION,
        "0005-00000214": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "0005-00000215": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "0005-00000218": Fault.ENCRYPTION_KEY_UNAVAILABLE,
        "0026-00000005": Fault.DELETE_BLOCKED_BY_RETENTION,
        "0026-00000202": Fault.DELETE_BLOCKED_BY_RETENTION,
    },
    absent=re.compile(r"NoSuchKey|NoSuchVersion"),
)


class OssBucket:
    """One bucket, with the keys of one RAM user."""

    found = NOTHING_FOUND

    def __init__(self, bucket: oss2.Bucket, host: str, threads: ThreadPoolExecutor) -> None:
        self.host = host
        self._bucket = bucket
        self._threads = threads

    async def upload(self, key: str, body: bytes) -> Uploaded:
        """One PUT with Content-MD5; the CRC that OSS answers with is compared too."""
        headers = {"Content-MD5": content_md5(body), "Content-Type": CONTENT_TYPE}
        answer = await self._call(partial(self._bucket.put_object, key, body, headers=headers), Step.UPLOAD)
        if not answer.headers.get("ETag"):
            raise Refused(Fault.NOT_A_STORAGE_ENDPOINT, Reply(answer.status))
        return Uploaded(key, answer.headers["ETag"].strip('"'), answer.headers.get("x-oss-version-id"))

    async def delete(self, uploaded: Uploaded) -> None:
        which = {"versionId": uploaded.version} if uploaded.version else None
        await self._call(partial(self._bucket.delete_object, uploaded.key, params=which), Step.DELETE)

    async def _call(self, call: Callable[[], T], step: Step) -> T:
        # The thread works in a copy of this task's context, so that it notes its connection where this task looks.
        context = contextvars.copy_context()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(context.run, call))
        except ServerError as error:
            raise _refused(error, step) from None
        except (OssError, RedirectRefused, AnswerTooLarge, requests.RequestException, OSError) as error:
            raise unanswered(error) from None
        except STUMBLES as error:
            raise stumbled(error) from None


def _refused(error: ServerError, step: Step) -> Refused:
    reply = Reply(
        status=error.status,
        # An element that is there and empty is None.
        code=error.code or "",
        message=error.message or "",
        request_id=error.request_id or "",
        finer=error.ec or "",
    )
    return FAULTS.refused(reply, step)


class OssProvider:
    """Opens buckets. One pool of connections serves all credentials, since oss2 signs each request by its own."""

    def __init__(self, session: requests.Session, settings: Settings) -> None:
        self._endpoint = settings.oss_endpoint
        # The SDK's session is a thin cover, under which ours is put.
        self._session = oss2.Session()
        self._session.session = session
        # One for each verification, and one for the call that it may have given up before.
        self._threads = ThreadPoolExecutor(settings.worker_threads * 2, "oss")
        # A call that nobody waits for any more ends by itself: its connection, its handshake and its answer have each
        # a bound of their own.
        self._timeouts = (CONNECT_SECONDS, max(1.0, settings.verify_seconds / 2))

    def needs_locating(self, spec: Spec, found: Found) -> bool:
        """A bucket's address follows from its region."""
        return False

    def host(self, spec: Spec) -> str:
        parts = urlsplit(self._url(spec))
        by_path = (parts.hostname or "").replace(".", "").isdigit()
        return parts.netloc if by_path else f"{spec.bucket}.{parts.netloc}"

    async def open(self, spec: Spec, found: Found) -> OssBucket:
        assert isinstance(spec, OssSpec)
        key, secret = spec.oss_access_key.get_secret_value(), spec.oss_secret_key.get_secret_value()
        bucket = oss2.Bucket(
            oss2.AuthV4(key, secret),
            self._url(spec),
            spec.oss_bucket_name,
            session=self._session,
            connect_timeout=self._timeouts,
            region=spec.oss_region_id.removeprefix("oss-"),
        )
        return OssBucket(bucket, self.host(spec), self._threads)

    def close(self) -> None:
        """Let go of the threads; what is under way in one ends by its own time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.session.close()

    def _url(self, spec: Spec) -> str:
        assert isinstance(spec, OssSpec)
        # The region was checked to be letters, digits and hyphens, so it cannot change the host.
        return self._endpoint.format(region=spec.oss_region_id)
