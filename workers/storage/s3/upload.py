"""An object in parts in the S3 dialect."""

import base64
import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from app.domain.verification import Step
from workers.storage.port import Uploaded, UploadGone, damaged, digest, file_like
from workers.storage.refusals import Refused, Reply, not_a_store

_MD5 = re.compile("[0-9a-f]{32}")
# By these the store encrypts, and an ETag is no MD5 of what was sent.
_PLAIN = (None, "AES256")
_GONE = "NoSuchUpload"


def version_of(answer: Any) -> str | None:
    """The version that a success names; "null" is that of a bucket which keeps none."""
    return answer.get("VersionId") if answer.get("VersionId") != "null" else None


def receipt(key: str, answer: Any) -> Uploaded:
    """The object that a success describes by its ETag."""
    request_id = answer["ResponseMetadata"].get("RequestId")
    return Uploaded(key, answer["ETag"].strip('"'), version_of(answer), request_id)


class S3Upload:
    """`client` and `calling` are those of the bucket: calls are made, and refusals told, as all others of it; `place`
    is what each call says of the object."""

    in_turn = False

    def __init__(
        self,
        client: Any,
        calling: Callable[[Step], AbstractContextManager[None]],
        place: dict[str, str],
        upload_id: str,
    ) -> None:
        self.id = upload_id
        self._client = client
        self._calling = calling
        self._object = place
        self._etags: dict[int, str] = {}
        self._md5s: dict[int, bytes] = {}

    async def part(self, number: int, body: bytes, at: int, *, last: bool) -> None:
        """With Content-MD5; and the ETag is compared too, where it is an MD5: there are stores that check no header."""
        md5 = await digest("md5", body)
        declared = base64.b64encode(md5).decode()
        answer = await self._call(
            self._client.upload_part, PartNumber=number, Body=file_like(body), ContentMD5=declared
        )
        etag = (answer.get("ETag") or "").strip('"')
        if not etag:
            raise not_a_store(Reply(answer["ResponseMetadata"]["HTTPStatusCode"]))
        plain = answer.get("ServerSideEncryption") in _PLAIN
        if plain and _MD5.fullmatch(etag.lower()) and etag.lower() != md5.hex():
            raise damaged()
        self._etags[number], self._md5s[number] = answer["ETag"], md5

    async def complete(self, md5: bytes) -> Uploaded:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())]
        answer = await self._call(self._client.complete_multipart_upload, MultipartUpload={"Parts": parts})
        if not answer.get("ETag"):
            raise not_a_store(Reply(answer["ResponseMetadata"]["HTTPStatusCode"]))
        return receipt(self._object["Key"], answer)

    async def stored(self, md5: bytes) -> Uploaded | None:
        """By its ETag alone, which is made of those of the parts: a size may be that of another file."""
        with self._calling(Step.UPLOAD):
            answer = await self._client.head_object(**self._object)
        whole = hashlib.md5(b"".join(each for _, each in sorted(self._md5s.items())), usedforsecurity=False)
        found = (answer.get("ETag") or "").strip('"').lower()
        ours = found in (f"{whole.hexdigest()}-{len(self._md5s)}", md5.hex())
        return receipt(self._object["Key"], answer) if ours else None

    async def abort(self) -> None:
        try:
            await self._call(self._client.abort_multipart_upload)
        except UploadGone:
            return
        except Refused as refused:
            if not refused.absent:
                raise

    async def _call(self, method: Any, **more: Any) -> Any:
        try:
            with self._calling(Step.UPLOAD):
                return await method(**self._object, UploadId=self.id, **more)
        except Refused as refused:
            if refused.provider_code == _GONE:
                raise UploadGone(refused) from None
            raise
