"""A deployment that has had a busy hour, and a real Chromium that looks at it."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright, expect
from pydantic import SecretStr

from app.settings import Settings
from tests.browser.hour import Hour
from tests.browser.shipments import Shipments
from tests.browser.viewing import Viewer
from tests.servers.azure import NODE
from tests.stack import Api, Deployment

OPERATOR = "the-key-of-the-operator"
READER = "the-key-that-only-reads"
# What is to be seen is waited for on a machine however slow.
expect.set_options(timeout=60_000)
UNPACKED = Path(__file__).with_name("node_modules") / ".chromium"
OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="package")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two front ends and a worker; the dashboard is looked at on the first one."""
    with Deployment(
        tmp_path_factory.mktemp("dashboard"), apis=2, verify_seconds="30", hold_seconds="60", allow_http="1",
        egress_allow="127.0.0.0/8", operator_key=OPERATOR,
        operator_read_key=READER,
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="package")
def customer(deployment: Deployment) -> Api:
    """A customer who calls the second front end."""
    return Api(deployment.urls[1], deployment.client("northwind").key)


@pytest.fixture(scope="package")
async def hour(deployment: Deployment, customer: Api) -> None:
    names = ["northwind", "contoso", "fabrikam"]
    for name in names[1:]:
        deployment.client(name)
    settings = Settings(redis_url=SecretStr(deployment.redis_url))
    await Hour(dict(enumerate(names, 1))).write(settings)


@pytest.fixture(scope="package")
async def shipments(deployment: Deployment, hour: None) -> Shipments:
    """Deliveries of the first customer's."""
    written = Shipments(deployment)
    await written.write()
    return written


@pytest.fixture(scope="package")
async def chromium() -> AsyncIterator[Browser]:
    """The machine's, or the one that `make test` has unpacked, with the libraries and fonts that it brings."""
    path, environment = shutil.which("chromium"), dict(os.environ)
    if not path:
        path = str(UNPACKED / "chromium")
        environment |= {"LD_LIBRARY_PATH": str(UNPACKED / "lib"), "FONTCONFIG_PATH": str(UNPACKED)}
    # The one that Playwright brings needs a library that a bare Debian has not.
    os.environ["PLAYWRIGHT_NODEJS_PATH"] = str(NODE)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=OPTIONS, env=environment)
        yield browser
        await browser.close()


@pytest.fixture(scope="package")
def screenshots() -> Path:
    """Where a picture of each view is kept."""
    folder = Path(__file__).parents[2] / "build/screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
async def viewer(chromium: Browser, deployment: Deployment) -> AsyncIterator[Viewer]:
    """Somebody with a new browser profile, who sees nothing go wrong that the test does not expect."""
    async with await chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        looking = Viewer(await context.new_page(), deployment.url, OPERATOR)
        yield looking
        assert looking.complaints == []
