"""Opens buckets of the three types that speak the S3 dialect.

A client is made once for each endpoint and shared by everybody's credentials: it signs each request with those
of the task that makes it, and with nothing else.
"""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import aioboto3
import aiohttp

from app.domain.faults import Fault
from app.domain.types.base import S3Access, Spec
from app.domain.types.s3compatible import REGION
from app.domain.verification import UNKNOWN_LOCATION, Location, Step
from workers.egress.guard import RedirectRefused
from workers.storage.refusals import Refused, Reply, refusals
from workers.storage.s3.bucket import Endpoint, S3Bucket
from workers.storage.s3.faults import FAULTS, answered
from workers.storage.s3.session import ClosedSession, client_config

CLIENTS_KEPT = 64
REGIONS_KEPT = 10_000
_AWS_LOCATOR = "https://s3.us-east-1.amazonaws.com"


class S3Provider:
    """Opens buckets. `endpoints` has the endpoint of each type whose customers name none; Amazon's own is used where it
    has none for `s3`."""

    def __init__(self, session: aiohttp.ClientSession, endpoints: Mapping[str, str]) -> None:
        self._session = session
        self._endpoints = endpoints
        self._clients: OrderedDict[Endpoint, Any] = OrderedDict()
        self._regions: OrderedDict[str, str] = OrderedDict()
        self._aioboto3 = aioboto3.Session(botocore_session=ClosedSession())

    def host(self, spec: Spec) -> str:
        """The host that locates an Amazon bucket, or else the bucket's own."""
        access: S3Access = spec.s3_access()  # type: ignore[attr-defined]
        url = access.endpoint or self._endpoints.get(spec.type) or _AWS_LOCATOR
        return Endpoint(url, "", access.addressing if access.endpoint else "path").host(spec.bucket)

    async def open(self, spec: Spec, location: Location) -> S3Bucket:
        """Amazon S3 is not told the region: it is asked once for each bucket, and again where that proves wrong."""
        access: S3Access = spec.s3_access()  # type: ignore[attr-defined]
        known = access.region or location.region or spec.bucket in self._regions
        relocate = partial(self._relocate, spec) if known else None
        bucket = S3Bucket(access, spec.bucket, self._client, relocate, location.addressing is not None)
        await bucket.use(await self._endpoint(spec, location))
        return bucket

    async def _endpoint(self, spec: Spec, location: Location) -> Endpoint:
        """Where to call first: what the parameters say, else `location`, else a guess or what S3 says."""
        access: S3Access = spec.s3_access()  # type: ignore[attr-defined]
        own = self._endpoints.get(spec.type) or None
        region = access.region
        if region is None:
            region = self._regions.get(spec.bucket) or location.region or await self._locate(spec.bucket)
        elif "region" in access.assumed:
            region = location.region or region
        addressing: str = "path" if own else access.addressing
        if "addressing" in access.assumed:
            addressing = location.addressing or addressing
        return Endpoint(access.endpoint or own, region, addressing)

    async def _relocate(self, spec: Spec) -> Endpoint:
        """As if nothing were known: a bucket that was deleted may have been made again in another region."""
        self._regions.pop(spec.bucket, None)
        return await self._endpoint(spec, UNKNOWN_LOCATION)

    async def warm_up(self) -> None:
        """Load the service model, which blocks for a tenth of a second, before the first job needs it."""
        await self._client(Endpoint(None, "us-east-1", "auto"))

    async def _locate(self, bucket: str) -> str:
        """The bucket's region, from one unsigned HEAD: S3 names it in a header whatever the status is.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html
        """
        url = f"{self._endpoints.get('s3') or _AWS_LOCATOR}/{bucket}"
        headers: Mapping[str, str]
        with refusals(Step.LOCATE, partial(answered, False)):
            try:
                async with self._session.head(url) as answer:
                    status, headers = answer.status, answer.headers
            except RedirectRefused as redirect:
                status, headers = redirect.status, redirect.headers
        region = headers.get("x-amz-bucket-region", "")
        if status == 404:
            # An answer to HEAD has no document that would tell S3's from a proxy's.
            if "x-amz-request-id" not in headers:
                raise FAULTS.refused(Reply(status), Step.LOCATE)
            reply = Reply(404, "NoSuchBucket", request_id=headers["x-amz-request-id"])
            raise Refused(Fault.BUCKET_NOT_FOUND, reply)
        if status >= 500:
            raise FAULTS.refused(Reply(status), Step.LOCATE)
        if not REGION.fullmatch(region):
            region = "us-east-1"
        self._regions[bucket] = region
        if len(self._regions) > REGIONS_KEPT:
            self._regions.popitem(last=False)
        return region

    async def _client(self, endpoint: Endpoint) -> Any:
        """The client for `endpoint`, the least recently used one making room: it holds no connection of its own."""
        if endpoint in self._clients:
            self._clients.move_to_end(endpoint)
            return self._clients[endpoint]
        config = client_config(self._session, endpoint.addressing)
        options: dict[str, Any] = {"region_name": endpoint.region, "endpoint_url": endpoint.url, "config": config}
        client = await self._aioboto3.client("s3", **options).__aenter__()
        client.meta.events.register("before-sign.s3", _without_expect)
        client.meta.events.register("before-call.s3", _without_redirects)
        # Nothing is repeated: what judges whether to, by a dozen rules, need not be asked.
        client.meta.events.unregister("needs-retry.s3", unique_id="retry-config-s3")
        _resolve_once(client)
        self._clients[endpoint] = client
        if len(self._clients) > CLIENTS_KEPT:
            self._clients.popitem(last=False)
        return client


def _resolve_once(client: Any) -> None:
    """Have what is the same for each request made once: the endpoint of a bucket, and the user agent.

    No rule of S3's endpoints looks at the name of the file; but as a part of what they are asked for it is never the
    same twice, and all of them would be gone through for each request.
    """
    client._ruleset_resolver._param_definitions.pop("Key", None)
    creator = client._user_agent_creator
    client.meta.events.unregister("request-created.s3", creator.rebuild_and_replace_user_agent_handler)
    agent = creator.to_string()
    creator.to_string = lambda: agent


def _without_expect(request: Any, **_: object) -> None:
    """aiohttp waits for the interim answer without any bound, and a small body has no use for one."""
    if "Expect" in request.headers:
        del request.headers["Expect"]


def _without_redirects(context: dict[str, Any], **_: object) -> None:
    """botocore asks HEAD again and again of a host that redirects without naming a region; one call is one request."""
    context.setdefault("s3_redirect", {})["redirected"] = True
