"""One customer's bucket in the S3 dialect: where it is called, and what a refusal tells about that."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from app.domain.endpoint import IPV4
from app.domain.faults import Fault
from app.domain.types.base import S3Access
from app.domain.verification import Location, Step
from workers.egress.wire import current, restart
from workers.storage.port import CONTENT_TYPE, LISTED, Uploaded, content_md5, file_like
from workers.storage.refusals import Refused, Reply, not_a_store, refusals
from workers.storage.s3.faults import MISPLACED, NOBODY_THERE, RegionNamed, VirtualDemanded, answered
from workers.storage.s3.upload import S3Upload, receipt, version_of

T = TypeVar("T")

credentials: ContextVar[ReadOnlyCredentials] = ContextVar("s3_credentials")
"""What the requests of this task are signed with."""

PROOF_SECONDS = 2.0
"""How long a service is waited for to say which bucket it has looked in, or what keeps a file."""

_Answered = Callable[[Exception, Step], Refused | None]
_IN_A_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Endpoint:
    """Where a bucket is called and how requests are signed there: None as `url` means AWS's own for the region."""

    url: str | None
    region: str
    addressing: str

    def host(self, bucket: str) -> str:
        """The host that requests for `bucket` go to."""
        host = urlsplit(self.url).netloc if self.url else f"s3.{self.region}.amazonaws.com"
        virtual = self.addressing == "virtual" or (self.addressing == "auto" and "." not in bucket)
        return f"{bucket}.{host}" if virtual else host

    @property
    def numeric(self) -> bool:
        """Whether the host is an address, which has no part that is a bucket."""
        host = urlsplit(self.url or "").hostname or ""
        return ":" in host or bool(IPV4.fullmatch(host))

    def takes(self, bucket: str) -> bool:
        """Whether `bucket` can be a part of the host's name; over TLS, one part only."""
        labels = bucket.split(".")
        secure = not (self.url or "").startswith("http://")
        return all(_IN_A_HOST.fullmatch(label) for label in labels) and not (secure and len(labels) > 1)


class S3Bucket:
    """One customer's bucket, with that customer's credentials. `client_for` has the client for an endpoint; `relocate`
    looks for the bucket as if nothing were known of it; it is None where that has just been done. `proven` says that an
    earlier upload came to the bucket there."""

    host: str
    location: Location
    parts_expire = False

    def __init__(
        self,
        access: S3Access,
        bucket: str,
        client_for: Callable[[Endpoint], Awaitable[Any]],
        relocate: Callable[[], Awaitable[Endpoint]] | None,
        proven: bool,
    ) -> None:
        self.located = relocate is None
        self._proven = proven or "host" not in access.assumed
        self._access = access
        self._bucket = bucket
        self._client_for = client_for
        self._relocate = relocate
        self._corrected: frozenset[str] = frozenset()
        # A host of the customer's choice could have anything repeated to whoever reads the report.
        self._answered = partial(answered, access.endpoint is not None)
        self._credentials = ReadOnlyCredentials(
            access.access_key.get_secret_value(), access.secret_key.get_secret_value(), None, None
        )
        # botocore would look for others in the environment if these were empty.
        assert self._credentials.access_key and self._credentials.secret_key

    async def use(self, endpoint: Endpoint) -> None:
        """Call the bucket at `endpoint` from now on."""
        if endpoint.addressing == "virtual" and not endpoint.takes(self._bucket):
            raise Refused(Fault.BUCKET_NAME_NOT_A_HOST)
        self._client = await self._client_for(endpoint)
        self._endpoint, self.host = endpoint, endpoint.host(self._bucket)
        assumed = self._access.assumed
        self.location = Location(
            region=endpoint.region if self._access.region is None or "region" in assumed else None,
            addressing=endpoint.addressing if "addressing" in assumed else None,
        )

    async def upload(self, key: str, body: bytes, content_type: str = CONTENT_TYPE) -> Uploaded:
        """One PUT; and one more, there, for each thing that a refusal tells about where to call."""
        while True:
            try:
                uploaded = await self._put(key, body, content_type)
                if not self._proven and self._endpoint.addressing == "path":
                    await self._require_own(uploaded)
                return uploaded
            except Refused as refused:
                endpoint, host = await self._redirected_to(refused), self.host
                if not endpoint:
                    if self._access.guessed and not self._corrected:
                        region = self._endpoint.region
                        refused.detail = f" (or the region is another than {region}, which was assumed: give s3_region)"
                    raise
                if isinstance(refused, VirtualDemanded) and not refused.certain:
                    return await self._upload_by_host(endpoint, refused, key, body, content_type)
            await self.use(endpoint)
            if self.host != host:
                restart()

    async def _upload_by_host(
        self, endpoint: Endpoint, refused: Refused, key: str, body: bytes, content_type: str
    ) -> Uploaded:
        """As `upload`, with the bucket in the host; where no store is there, the path's own refusal stands."""
        if not endpoint.takes(self._bucket):
            raise refused
        before, wire = self._endpoint, dict(vars(current()))
        await self.use(endpoint)
        restart()
        try:
            uploaded = await self.upload(key, body, content_type)
        except Refused as again:
            nobody = again.fault in NOBODY_THERE and not current().connected
            no_store = again.fault is Fault.NOT_A_STORAGE_ENDPOINT and not again.unknown_outcome
            if not (nobody or no_store):
                raise
        else:
            if await self._is_by_path(uploaded):
                refused.unknown_outcome, refused.version = True, uploaded.version
                raise refused
            return uploaded
        await self.use(before)
        vars(current()).update(wire)
        raise refused

    async def _redirected_to(self, refused: Refused) -> Endpoint | None:
        """Where to call instead, if `refused` tells. Each thing is believed once, so that no service can keep us
        calling."""
        endpoint, assumed = self._endpoint, self._access.assumed - self._corrected
        if "addressing" in assumed and isinstance(refused, VirtualDemanded) and not endpoint.numeric:
            self._corrected |= {"addressing"}
            endpoint = replace(endpoint, addressing="virtual")
        elif "region" in assumed and isinstance(refused, RegionNamed):
            self._corrected |= {"region"}
            endpoint = replace(endpoint, region=refused.region)
        elif self._relocate and not self._corrected and refused.fault in MISPLACED and not refused.unknown_outcome:
            self._corrected |= {"all"}
            endpoint = await self._relocate()
        return endpoint if endpoint != self._endpoint else None

    async def _put(self, key: str, body: bytes, content_type: str) -> Uploaded:
        """With Content-MD5, which buckets with object lock demand."""
        md5 = await content_md5(body)
        with self._calling(Step.UPLOAD):
            answer = await self._client.put_object(
                Bucket=self._bucket, Key=key, Body=file_like(body), ContentMD5=md5, ContentType=content_type
            )
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        if status != 200 or not answer.get("ETag"):
            raise not_a_store(Reply(status), version_of(answer))
        return receipt(key, answer)

    async def begin(self, key: str, content_type: str, size: int) -> S3Upload:
        """One request; and one more, there, for each thing that a refusal tells about where to call."""
        answer = await self._redirected(partial(self._create, key, content_type))
        if not answer.get("UploadId"):
            raise not_a_store(Reply(answer["ResponseMetadata"]["HTTPStatusCode"]))
        return self.begun(key, answer["UploadId"])

    async def _create(self, key: str, content_type: str) -> Any:
        with self._calling(Step.UPLOAD):
            return await self._client.create_multipart_upload(Bucket=self._bucket, Key=key, ContentType=content_type)

    async def _redirected(self, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` returns; made again, there, for each thing that a refusal tells about where to call."""
        while True:
            try:
                return await call()
            except Refused as refused:
                endpoint = await self._redirected_to(refused)
                if not endpoint:
                    raise
            await self.use(endpoint)

    def begun(self, key: str, upload_id: str) -> S3Upload:
        return S3Upload(self._client, self._calling, {"Bucket": self._bucket, "Key": key}, upload_id)

    async def unfinished(self, key: str) -> list[S3Upload]:
        answer = await self._redirected(partial(self._list_uploads, key))
        found = [each.get("UploadId") for each in answer.get("Uploads", ()) if each.get("Key") == key]
        return [self.begun(key, upload_id) for upload_id in found if upload_id]

    async def _list_uploads(self, key: str) -> Any:
        with self._calling(Step.UPLOAD):
            return await self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key, MaxUploads=LISTED)

    async def _require_own(self, uploaded: Uploaded) -> None:
        """Raises Refused if the service takes the host for another bucket's, and the whole path for a file's name."""
        nobodys = f"{uploaded.key}.none"
        said = await self._told_of(nobodys)
        bucket = said.get("BucketName") or self._bucket
        elsewhere = bucket != self._bucket and self.host.startswith(f"{bucket}.")
        if elsewhere or said.get("Key") == f"{self._bucket}/{nobodys}":
            raise Refused(Fault.ENDPOINT_NAMES_A_BUCKET, unknown_outcome=True, version=uploaded.version)

    async def _is_by_path(self, uploaded: Uploaded) -> bool:
        """Whether the service has no buckets in hosts, and has taken the first folder of the key for the bucket."""
        nobodys = f"{uploaded.key}.none"
        folder, _, rest = nobodys.partition("/")
        said = await self._told_of(nobodys)
        return bool(rest) and (said.get("BucketName") == folder != self._bucket or said.get("Key") == rest)

    async def _told_of(self, nobodys: str) -> Mapping[str, str]:
        """What the service says to who asks for the file `nobodys`, which there is not: whatever the key may do, the
        refusal of most says which bucket, or which file, was looked for. One that says neither proves nothing."""
        said: dict[str, str] = {}

        def note(error: Exception, _: Step) -> None:
            if isinstance(error, ClientError):
                said.update(error.response.get("Error", {}))

        with contextlib.suppress(Refused, TimeoutError):
            async with asyncio.timeout(PROOF_SECONDS):
                with self._calling(Step.UPLOAD, note):
                    answer = await self._client.get_object(Bucket=self._bucket, Key=nobodys)
                    answer["Body"].close()
        return said

    async def delete(self, uploaded: Uploaded) -> bool:
        """One DELETE; where the upload is not known to have worked there, what a refusal tells about where to call is
        believed as an upload's."""
        remove = partial(self._remove, uploaded)
        return await remove() if uploaded.etag else await self._redirected(remove)

    async def _remove(self, uploaded: Uploaded) -> bool:
        which = {"VersionId": uploaded.version} if uploaded.version else {}
        try:
            with self._calling(Step.DELETE):
                answer = await self._client.delete_object(Bucket=self._bucket, Key=uploaded.key, **which)
        except Refused as refused:
            if which and refused.fault is Fault.DELETE_DENIED and await self._is_retained(uploaded):
                refused.fault = Fault.DELETE_BLOCKED_BY_RETENTION
            raise
        # Where versions are suspended, the marker has taken the place of the only one.
        return bool(answer.get("DeleteMarker")) and answer.get("VersionId") != "null"

    async def _is_retained(self, uploaded: Uploaded) -> bool:
        """Whether object lock keeps the version, which some do not say when they refuse to delete it (SeaweedFS); not
        known, and so False, to a key that may not read."""
        said: Mapping[str, Any] = {}
        with contextlib.suppress(Refused, TimeoutError):
            async with asyncio.timeout(PROOF_SECONDS):
                with self._calling(Step.DELETE):
                    said = await self._client.head_object(
                        Bucket=self._bucket, Key=uploaded.key, VersionId=uploaded.version
                    )
        return bool(said.get("ObjectLockMode")) or said.get("ObjectLockLegalHoldStatus") == "ON"

    @contextlib.contextmanager
    def _calling(self, step: Step, answered: _Answered | None = None) -> Iterator[None]:
        token = credentials.set(self._credentials)
        try:
            with refusals(step, answered or self._answered, ClientError, BotoCoreError, ResponseParserError):
                yield
        finally:
            credentials.reset(token)
