"""The dashboard as an operator sees it, in a real Chromium."""

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, Route, expect

from tests.browser.conftest import OPERATOR
from tests.browser.viewing import Viewer
from tests.stack import Api, Deployment

SCHEMES = ("light", "dark")
LOST = "Connection lost, reconnecting…"


@pytest.fixture
def wrong(good: dict[str, Any]) -> dict[str, Any]:
    return {**good, "s3_secret_access_key": "not-the-secret"}


@pytest.fixture
async def operator(viewer: Viewer, hour: None) -> Viewer:
    """An operator who has signed in and sees what happens."""
    await viewer.sign_in()
    await viewer.live()
    await expect(viewer.rows()).not_to_have_count(0)
    return viewer


def tile(page: Page, name: str) -> Locator:
    return page.locator(".tile").filter(has_text=name)


def of_address(page: Page) -> str:
    return page.url.partition("?")[2]


async def test_a_wrong_key_is_refused_and_the_right_one_opens_the_view_that_was_asked_for(
    viewer: Viewer, hour: None, screenshots: Path
) -> None:
    await viewer.sign_in("?state=failed", "wrong")
    await expect(viewer.page.get_by_role("alert")).to_contain_text("This is not the operator's key")
    await expect(viewer.page.get_by_label("Operator’s key")).to_be_focused()
    await viewer.page.screenshot(path=screenshots / "sign-in.png")
    assert [said for said in viewer.complaints if "403 (Forbidden)" not in said] == []
    viewer.complaints.clear()
    await viewer.page.get_by_label("Operator’s key").fill(OPERATOR)
    await viewer.page.keyboard.press("Enter")
    await viewer.live()
    await expect(viewer.page.get_by_label("State")).to_have_value("failed")
    assert of_address(viewer.page) == "state=failed"


async def test_the_hour_is_told_in_figures_and_plots(operator: Viewer, deployment: Deployment) -> None:
    page = operator.page
    told = Api(deployment.url, OPERATOR).call("GET", "/dashboard/overview").json
    whole = told["rates"][0]["whole"]
    assert whole["ended"] >= 1200
    await expect(tile(page, "Jobs a second")).to_contain_text("in the last hour")
    await expect(tile(page, "Success rate")).to_contain_text(f"{100 * whole['succeeded'] / whole['ended']:.1f}%")
    await expect(tile(page, "Latency, p95")).to_contain_text(re.compile(r"\d ms"))
    await expect(tile(page, "Workers")).to_contain_text("0 of 64 places in use")
    for name in ("Jobs a second", "Success rate", "Latency"):
        await expect(page.get_by_role("img", name=name)).to_be_visible()
    types = page.get_by_role("table", name="By type").get_by_role("button")
    assert await types.all_inner_texts() == ["All types", "s3", "s3compatible", "gcs", "azure", "oss"]
    oss = next(rate["whole"] for rate in told["rates"] if rate["type"] == "oss")
    await types.filter(has_text="oss").click()
    await expect(page.get_by_role("img", name=f"{oss['ended']} jobs in the last hour")).to_be_visible()
    await expect(types.filter(has_text="oss")).to_have_attribute("aria-pressed", "true")
    await page.get_by_role("button", name="secret_mismatch", exact=True).click()
    await expect(page.get_by_label("Reason")).to_have_value("secret_mismatch")


async def test_a_job_is_seen_to_fail_as_it_happens_with_its_reason_and_timeline(
    operator: Viewer, customer: Api, wrong: dict[str, Any], screenshots: Path
) -> None:
    page, dialog = operator.page, operator.page.get_by_role("dialog")
    answer = await asyncio.to_thread(customer.create, wrong)
    assert answer.error["code"] == "secret_mismatch"
    report = answer.report
    row = operator.rows(report["job"][:8])
    await expect(row).to_contain_text("Failed")
    await expect(row).to_contain_text("secret_mismatch")
    await expect(row).to_contain_text(report["host"])
    await expect(row).to_contain_text("northwind")
    await expect(page.locator("[aria-live=polite]")).to_contain_text("secret_mismatch at")
    await expect(operator.rows().first).to_contain_text(report["job"][:8])

    await row.get_by_role("button", name=re.compile("open its timeline")).press("Enter")
    await expect(dialog).to_contain_text(report["message"])
    assert of_address(page) == f"job={report['job']}"
    moments = dialog.get_by_label("Timeline").get_by_role("listitem")
    assert [text.split()[0] for text in await moments.all_inner_texts()] == ["Queued", "Running", "Uploading", "Failed"]
    steps = dialog.get_by_role("table", name="Steps of the verification")
    for step in report["steps"]:
        await expect(steps.get_by_role("row").filter(has_text=step["step"]).first).to_contain_text(
            step["outcome"].capitalize()
        )
    await expect(steps).to_contain_text("SignatureDoesNotMatch")
    await expect(dialog).to_contain_text(report["object"])
    await page.screenshot(path=screenshots / "job.png")
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await expect(row.get_by_role("button")).to_be_focused()
    assert of_address(page) == ""


async def test_what_waits_is_counted_and_followed_until_it_is_done(
    operator: Viewer, customer: Api, deployment: Deployment, good: dict[str, Any]
) -> None:
    deployment.worker.signal(signal.SIGSTOP)
    try:
        held = [asyncio.create_task(asyncio.to_thread(customer.verify, good)) for _ in range(3)]
        await expect(tile(operator.page, "Waiting in the queue")).to_contain_text("oldest for", timeout=10_000)
        await expect(tile(operator.page, "Held requests")).to_contain_text("3", timeout=10_000)
        await expect(operator.rows("Queued")).to_have_count(3)
    finally:
        deployment.worker.signal(signal.SIGCONT)
    jobs = [answer.report["job"] for answer in await asyncio.gather(*held)]
    for job in jobs:
        await expect(operator.rows(job[:8])).to_contain_text("Succeeded")
    await expect(tile(operator.page, "Waiting in the queue")).to_contain_text("nothing waits", timeout=10_000)


async def test_jobs_are_found_and_the_view_can_be_handed_on(
    operator: Viewer, customer: Api, good: dict[str, Any]
) -> None:
    created = await asyncio.to_thread(customer.create, good)
    destination, job = created.json["destination"]["id"], created.report["job"]
    page, search = operator.page, operator.page.get_by_label("Search")
    for text in (job, job[:13], destination, destination.lower()):
        await search.fill(text)
        await expect(operator.rows()).to_have_count(1)
        await expect(operator.rows()).to_contain_text(job[:8])
    await search.fill("NORTHWIND.example")
    await page.get_by_label("State").select_option("failed")
    await expect(operator.rows("Succeeded")).to_have_count(0)
    found = await operator.rows("minio.northwind.example").count()
    await expect(operator.rows()).to_have_count(found)
    assert found > 1
    assert set(of_address(page).split("&")) == {"search=NORTHWIND.example", "state=failed"}
    await page.reload()
    await operator.live()
    await expect(search).to_have_value("NORTHWIND.example")
    await expect(operator.rows()).to_have_count(found)
    await search.fill("nothing has this")
    await expect(page.get_by_text("No job matches")).to_be_visible()
    await page.get_by_role("button", name="Clear").click()
    await expect(operator.rows()).not_to_have_count(0)
    assert of_address(page) == ""


async def test_a_filter_holds_for_what_happens_later(
    operator: Viewer, customer: Api, good: dict[str, Any], wrong: dict[str, Any]
) -> None:
    await operator.page.get_by_label("State").select_option("failed")
    await expect(operator.rows("Succeeded")).to_have_count(0)
    right = await asyncio.to_thread(customer.verify, good)
    failed = await asyncio.to_thread(customer.verify, wrong)
    await expect(operator.rows().first).to_contain_text(failed.report["job"][:8])
    await expect(operator.rows(right.report["job"][:8])).to_have_count(0)


async def test_older_jobs_are_shown_on_demand(operator: Viewer) -> None:
    before = await operator.rows().count()
    await operator.page.get_by_role("button", name="Older jobs").click()
    await expect(operator.rows()).to_have_count(before + 50)
    ages = await operator.page.locator("#rows time").evaluate_all("times => times.map(time => time.dateTime)")
    assert ages == sorted(ages, reverse=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_connection_is_said_and_what_was_missed_is_shown_when_it_is_back(
    operator: Viewer, deployment: Deployment, customer: Api, wrong: dict[str, Any], how: signal.Signals
) -> None:
    deployment.api.signal(how)
    try:
        await expect(operator.page.get_by_text(LOST)).to_be_visible(timeout=15_000)
        missed = await asyncio.to_thread(customer.create, wrong)
        await expect(operator.rows(missed.report["job"][:8])).to_have_count(0)
    finally:
        deployment.api.signal(signal.SIGCONT)
        if how is signal.SIGKILL:
            deployment.api.stop()
            await asyncio.to_thread(deployment.start_api)
    await expect(operator.page.get_by_text("Live", exact=True)).to_be_visible(timeout=15_000)
    await expect(operator.rows(missed.report["job"][:8])).to_contain_text("secret_mismatch")
    seen = await asyncio.to_thread(customer.create, wrong)
    await expect(operator.rows(seen.report["job"][:8])).to_have_count(1)
    assert [said for said in operator.complaints if "net::ERR_" not in said] == []
    operator.complaints.clear()


async def test_without_redis_the_page_says_so_and_goes_on_when_it_is_back(
    operator: Viewer, deployment: Deployment
) -> None:
    deployment.redis.signal(signal.SIGSTOP)
    try:
        await expect(operator.page.get_by_role("alert")).to_contain_text("cannot be read", timeout=20_000)
    finally:
        deployment.redis.signal(signal.SIGCONT)
    await expect(operator.page.get_by_role("alert")).to_be_hidden(timeout=20_000)
    await operator.live()
    assert [said for said in operator.complaints if not re.search(r"503 \(|net::ERR_", said)] == []
    operator.complaints.clear()


async def test_signing_out_leads_to_the_page_that_asks_for_the_key(operator: Viewer) -> None:
    await operator.page.get_by_role("button", name="Sign out").click()
    await expect(operator.page.get_by_label("Operator’s key")).to_be_visible()
    assert await operator.page.context.cookies() == []
    await operator.page.goto(f"{operator.url}/dashboard?state=failed")
    await expect(operator.page.get_by_label("Operator’s key")).to_be_visible()


async def test_a_session_that_is_over_leads_there_too(operator: Viewer) -> None:
    await operator.page.context.clear_cookies()
    await expect(operator.page.get_by_label("Operator’s key")).to_be_visible(timeout=10_000)
    assert [said for said in operator.complaints if "401 (Unauthorized)" not in said] == []
    operator.complaints.clear()


async def test_a_link_on_another_site_opens_the_dashboard(operator: Viewer) -> None:
    async def elsewhere(route: Route) -> None:
        link = f'<link rel="icon" href="data:,"><a href="{operator.url}/dashboard?state=failed">the failed jobs</a>'
        await route.fulfill(content_type="text/html", body=link)

    await operator.page.route("http://elsewhere.example/", elsewhere)
    await operator.page.goto("http://elsewhere.example/")
    assert operator.complaints == ["asked for http://elsewhere.example/"]
    operator.complaints.clear()
    await operator.page.get_by_role("link", name="the failed jobs").click()
    await operator.live()
    await expect(operator.page.get_by_label("State")).to_have_value("failed")


async def test_all_of_it_can_be_reached_by_the_keyboard(operator: Viewer) -> None:
    page = operator.page
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the jobs")).to_be_focused()
    await page.keyboard.press("Enter")
    for name in ("Search", "State", "Type", "Reason"):
        await page.keyboard.press("Tab")
        await expect(page.get_by_label(name, exact=True)).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(operator.rows().first.get_by_role("button")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await expect(page.get_by_role("button", name="Close")).to_be_focused()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("device", "width", "height"), [("desktop", 1280, 1240), ("phone", 390, 844)])
async def test_it_can_be_read_by_everybody_and_anywhere(
    chromium: Browser, deployment: Deployment, hour: None, screenshots: Path,
    device: str, width: int, height: int, scheme: Any,
) -> None:  # fmt: skip
    async with await chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    ) as context:
        viewer = Viewer(await context.new_page(), deployment.url, OPERATOR)
        page = viewer.page
        await page.goto(f"{viewer.url}/dashboard")
        await _accessible(page)
        await viewer.sign_in()
        await viewer.live()
        await expect(page.get_by_role("img", name="Latency")).to_be_visible()
        await expect(viewer.rows()).not_to_have_count(0)
        await _accessible(page)
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        await page.screenshot(path=screenshots / f"overview-{device}-{scheme}.png")
        if device == "phone":
            await page.locator("#jobs").evaluate("section => section.scrollIntoView()")
            await page.screenshot(path=screenshots / f"jobs-{device}-{scheme}.png")
        await page.get_by_label("State").select_option("failed")
        await expect(viewer.rows("Succeeded")).to_have_count(0)
        await viewer.rows("write_denied").first.get_by_role("button").click()
        await expect(page.get_by_role("dialog")).to_contain_text("The key may not write to")
        await _accessible(page)
        assert await page.get_by_role("dialog").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        await page.screenshot(path=screenshots / f"job-{device}-{scheme}.png")
        assert viewer.complaints == []


async def _accessible(page: Page) -> None:
    results = await Axe().run(page)
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in results.response["violations"]] == []
