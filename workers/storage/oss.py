"""Alibaba Cloud OSS with a RAM user's keys, by oss2, which blocks and so works in threads of its own."""

import asyncio
import contextlib
import contextvars
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import oss2
from oss2.exceptions import OssError, ServerError
from oss2.models import PartInfo

from app.domain.faults import Fault
from app.domain.types.base import Spec
from app.domain.types.oss import OssSpec
from app.domain.verification import UNKNOWN_LOCATION, Location, Step
from workers.egress.blocking import blocking_session
from workers.egress.guard import CONNECT_SECONDS, Guard
from workers.storage.port import CONTENT_TYPE, LISTED, Uploaded, UploadGone, content_md5
from workers.storage.refusals import FaultTable, Refused, Reply, is_page, not_a_store, refusals

# A call cannot be stopped once a thread has it, and ends by itself all the same: the look-up by the system's resolver,
# the connection after CONNECT_SECONDS, the answer as a whole after half a verification. That bounds how long a region
# that does not answer can keep others waiting. Whoever waits for a thread does so within the bound of its own
# verification, and leaves the queue when that is over.
THREADS = 64

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

    location = UNKNOWN_LOCATION
    located = False
    parts_expire = False

    def __init__(self, bucket: oss2.Bucket, host: str, threads: ThreadPoolExecutor) -> None:
        self.host = host
        self._bucket = bucket
        self._threads = threads

    async def upload(self, key: str, body: bytes, content_type: str = CONTENT_TYPE) -> Uploaded:
        """One PUT with Content-MD5; the CRC that OSS answers with is compared too."""
        headers = {"Content-MD5": await content_md5(body), "Content-Type": content_type}
        answer = await self._run(Step.UPLOAD, self._bucket.put_object, key, body, headers=headers)
        version = answer.headers.get("x-oss-version-id")
        if answer.status != 200 or not answer.headers.get("ETag"):
            raise not_a_store(Reply(answer.status), version)
        return Uploaded(key, answer.headers["ETag"].strip('"'), version, answer.request_id)

    async def begin(self, key: str, content_type: str, size: int) -> "OssUpload":
        answer = await self._run(
            Step.UPLOAD, self._bucket.init_multipart_upload, key, headers={"Content-Type": content_type}
        )
        if not answer.upload_id:
            raise not_a_store(Reply(answer.status))
        return self.begun(key, answer.upload_id)

    def begun(self, key: str, upload_id: str) -> "OssUpload":
        return OssUpload(self._bucket, self._run, key, upload_id)

    async def unfinished(self, key: str) -> "list[OssUpload]":
        answer = await self._run(Step.UPLOAD, self._bucket.list_multipart_uploads, prefix=key, max_uploads=LISTED)
        return [self.begun(key, each.upload_id) for each in answer.upload_list if each.key == key]

    async def delete(self, uploaded: Uploaded) -> bool:
        which = {"versionId": uploaded.version} if uploaded.version else None
        answer = await self._run(Step.DELETE, self._bucket.delete_object, uploaded.key, params=which)
        # Where versions are suspended, the marker has taken the place of the only one.
        marked: bool = answer.headers.get("x-oss-delete-marker") == "true"
        return marked and str(answer.headers.get("x-oss-version-id")) != "null"

    async def _run(self, step: Step, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        # The thread works in a copy of this task's context, so that it notes its connection where this task looks.
        work = partial(contextvars.copy_context().run, _read, call, *arguments, **options)
        with refusals(step, _answered, OssError):
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        if is_page(answer.headers.get("Content-Type", ""), answer.resp.response.content):
            raise not_a_store(Reply(answer.status))
        return answer


def _read(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `call` returns. Raises ValueError, as of any other answer that cannot be read, where oss2 misses a part of
    one."""
    try:
        return call(*arguments, **options)
    except RuntimeError as error:
        raise ValueError("the answer is not whole") from error


class OssUpload:
    """`run` makes a call of `bucket` in a thread, and tells of refusals, as all others of it."""

    in_turn = False

    def __init__(self, bucket: oss2.Bucket, run: Callable[..., Awaitable[Any]], key: str, upload_id: str) -> None:
        self.id = upload_id
        self._bucket = bucket
        self._run = run
        self._key = key
        self._parts: dict[int, PartInfo] = {}

    async def part(self, number: int, body: bytes, at: int, *, last: bool) -> None:
        """With Content-MD5; the CRC that OSS answers with is compared too."""
        headers = {"Content-MD5": await content_md5(body)}
        answer = await self._call(self._bucket.upload_part, number, body, headers=headers)
        if not answer.etag:
            raise not_a_store(Reply(answer.status))
        self._parts[number] = PartInfo(number, answer.etag, size=len(body), part_crc=answer.crc)

    async def complete(self, md5: bytes) -> Uploaded:
        """The CRC of the whole is compared too."""
        parts = [each for _, each in sorted(self._parts.items())]
        answer = await self._call(self._bucket.complete_multipart_upload, parts)
        if not answer.etag:
            raise not_a_store(Reply(answer.status))
        version = answer.headers.get("x-oss-version-id")
        return Uploaded(self._key, answer.etag.strip('"'), version, answer.request_id)

    async def stored(self, md5: bytes) -> Uploaded | None:
        """Not known: the ETag of an object in parts is made of nothing that is told, and its size may be another's."""
        return None

    async def abort(self) -> None:
        with contextlib.suppress(UploadGone):
            await self._call(self._bucket.abort_multipart_upload)

    async def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return await self._run(Step.UPLOAD, method, self._key, self.id, *arguments, **options)
        except Refused as refused:
            if refused.provider_code == "NoSuchUpload":
                raise UploadGone(refused) from None
            raise


def _answered(error: Exception, step: Step) -> Refused | None:
    if not isinstance(error, ServerError):
        return None
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
    """Opens buckets. One pool of connections serves all credentials, since oss2 signs each request by its own.

    `endpoint` has {region} where the region goes, from which alone a bucket's address follows; `seconds` is how long a
    verification may take.
    """

    def __init__(self, guard: Guard, endpoint: str, seconds: float) -> None:
        self._endpoint = endpoint
        # The SDK's session does nothing but call the one of requests that it holds, in whose place ours is put.
        self._session = oss2.Session()
        self._session.session = blocking_session(guard, THREADS)
        self._threads = ThreadPoolExecutor(THREADS, "oss")
        self._timeouts = (CONNECT_SECONDS, max(1.0, seconds / 2))

    def host(self, spec: Spec) -> str:
        parts = urlsplit(self._url(spec))
        by_path = (parts.hostname or "").replace(".", "").isdigit()
        return parts.netloc if by_path else f"{spec.bucket}.{parts.netloc}"

    async def open(self, spec: Spec, location: Location) -> OssBucket:
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
