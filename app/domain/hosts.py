"""The hosts of services that speak the S3 dialect: what each tells of its region, and of a bucket before it."""

import re
from dataclasses import dataclass
from functools import lru_cache

HOSTS_KEPT = 1000
"""How many hosts it is remembered of what service they are."""
_LABEL = r"[a-z0-9-]+"


@dataclass(frozen=True)
class Host:
    """A service's host: without the `bucket` that stood before it, if one did. `region` is None where the name does not
    tell it; `virtual` says that the service takes a bucket nowhere else but before it."""

    name: str
    bucket: str | None = None
    region: str | None = None
    virtual: bool = False


class _Service:
    """A service by the names of its hosts, in which {region} stands for the region and {any} for any other word."""

    def __init__(self, *names: str, region: str | None = None, virtual: bool = False) -> None:
        self._region = region
        self._virtual = virtual
        self._patterns = [re.compile(rf"(?:(?P<bucket>.+?)\.)??(?P<name>{_pattern(name)})") for name in names]

    def find(self, host: str) -> list[Host]:
        found = [match for pattern in self._patterns if (match := pattern.fullmatch(host))]
        return [
            Host(match["name"], match["bucket"], match.groupdict().get("region", self._region), self._virtual)
            for match in found
        ]


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\{region\}", f"(?P<region>{_LABEL})").replace(r"\{any\}", _LABEL)


# With the document where one was looked up. The others are the services' names as they are commonly given: one that is
# wrong or missing costs one more request, since the region and the style are also taken from what the service says.
_SERVICES = (
    # https://docs.aws.amazon.com/general/latest/gr/s3.html
    _Service("s3.{region}.amazonaws.com", "s3.dualstack.{region}.amazonaws.com", "s3-fips.{region}.amazonaws.com"),
    _Service("s3-fips.dualstack.{region}.amazonaws.com", "s3.amazonaws.com", "s3-{any}.amazonaws.com"),
    _Service("s3.{region}.amazonaws.com.cn", "s3.dualstack.{region}.amazonaws.com.cn", "s3.{region}.amazonaws.eu"),
    # https://docs.digitalocean.com/reference/api/spaces
    _Service("{region}.digitaloceanspaces.com"),
    # https://developers.cloudflare.com/r2/api/s3/api and /r2/reference/data-location
    _Service("{any}.r2.cloudflarestorage.com", region="auto"),
    _Service("{any}.eu.r2.cloudflarestorage.com", "{any}.fedramp.r2.cloudflarestorage.com", region="auto"),
    # https://www.backblaze.com/apidocs/introduction-to-the-s3-compatible-api
    _Service("s3.{region}.backblazeb2.com"),
    # https://docs.wasabi.com/docs/service-urls-for-wasabis-storage-regions
    _Service("s3.{region}.wasabisys.com", "s3.wasabisys.com"),
    # https://cloud.google.com/storage/docs/request-endpoints
    _Service("storage.googleapis.com", "commondatastorage.googleapis.com", region="auto"),
    # https://www.alibabacloud.com/help/en/oss/developer-reference/use-amazon-s3-sdks-to-access-oss
    _Service("s3.oss-{region}.aliyuncs.com", "oss-{region}.aliyuncs.com", virtual=True),
    # https://cloud.tencent.com/document/product/436/6224
    _Service("cos.{region}.myqcloud.com", "cos.{region}.tencentcos.cn", virtual=True),
    _Service("{region}.your-objectstorage.com"),  # Hetzner
    _Service("s3.{region}.io.cloud.ovh.net", "s3.{region}.perf.cloud.ovh.net", "s3.{region}.cloud.ovh.net"),
    _Service("s3.{region}.io.cloud.ovh.us", "s3.{region}.perf.cloud.ovh.us"),
    _Service("s3.{region}.scw.cloud"),  # Scaleway
    # The one region that is not called as its host is.
    _Service("s3.eu-central-1.ionoscloud.com", "s3-eu-central-1.ionoscloud.com", region="de"),
    _Service("s3.{region}.ionoscloud.com", "s3-{region}.ionoscloud.com"),
    # https://docs.oracle.com/iaas/Content/Object/Tasks/s3compatibleapi.htm
    # https://docs.oracle.com/iaas/releasenotes/objectstorage/S3-virtual-hosted.htm
    _Service("{any}.compat.objectstorage.{region}.oraclecloud.com"),
    _Service("{any}.compat.objectstorage.{region}.oci.customer-oci.com"),
    _Service("vhcompat.objectstorage.{region}.oci.customer-oci.com", virtual=True),
    # huaweicloud: a path is answered with NoSuchKey (Tencent/WeKnora#3269).
    _Service("obs.{region}.myhuaweicloud.com", "obs.{region}.myhuaweicloud.eu", virtual=True),
    _Service("storage.yandexcloud.net", "s3.yandexcloud.net", region="ru-central1"),
    # IBM: a region, a city, or several together, whose cities come before them.
    _Service("s3.{region}.cloud-object-storage.appdomain.cloud"),
    _Service("s3.private.{region}.cloud-object-storage.appdomain.cloud"),
    _Service("s3.direct.{region}.cloud-object-storage.appdomain.cloud"),
    _Service("s3.{any}.{region}.cloud-object-storage.appdomain.cloud"),
    _Service("s3.{any}.{any}.{region}.cloud-object-storage.appdomain.cloud"),
    _Service("{region}.linodeobjects.com"),
    _Service("{region}.vultrobjects.com"),
    # Volcengine: a path is answered with InvalidPathAccess (apache/opendal#6549).
    _Service("tos-s3-{region}.volces.com", virtual=True),
    _Service("sos-{any}.exo.io"),
    _Service("gateway.storjshare.io", "gateway.{any}.storjshare.io"),
    _Service("objects-{any}.dream.io", "s3.{any}.dream.io"),
    _Service("s3.{any}.storage.selcloud.ru"),
    _Service("oos.{any}.outscale.com"),
    _Service("s3-{any}.qiniucs.com", "s3.{any}.qiniucs.com"),
    _Service("s3.{any}.megas4.com"),
    _Service("{any}.magaluobjects.com"),
    _Service("{any}.storage.impossibleapi.net"),
    _Service("{any}.s3.synologyc2.net"),
    _Service("{any}.object.fastlystorage.app"),
    _Service("s3.{any}.arvanstorage.ir"),
    _Service("s3.{any}.{any}.lyve.seagate.com"),
    _Service("eos-{any}.cmecloud.cn"),
    _Service("s3-{any}.ufileos.com"),
    _Service("s3.leviia.com"),
    _Service("s3.filebase.com"),
)


@lru_cache(HOSTS_KEPT)
def find(host: str) -> Host | None:
    """The service's host that `host` is, or has a bucket before; None where no service is known by it."""
    found = [each for service in _SERVICES for each in service.find(host)]
    # Of two readings, the one that takes less for a bucket: an account's name may look like one.
    return min(found, key=lambda each: len(each.bucket or ""), default=None)
