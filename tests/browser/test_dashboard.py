"""The dashboard as an operator sees it, in a real Chromium."""

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, Route, expect

from app.domain.leftover import LeftoverState
from app.domain.types import TYPES
from app.store.engine import open_engine
from app.store.leftovers import Leftovers
from tests.browser.conftest import OPERATOR, READER
from tests.browser.shipments import Shipments
from tests.browser.viewing import Viewer
from tests.stack import Api, Deployment
from tests.unit.test_leftovers import leftover

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


def filters(page: Page) -> Locator:
    """Those of the list of jobs."""
    return page.locator("#filters")


async def look_again(page: Page) -> None:
    """Have the page ask for its figures now, as when somebody comes back to it."""
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def accounts_of(page: Page) -> Locator:
    """Whose the jobs in the list are, one by one."""
    return page.locator("#rows .of-account")


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
    await expect(filters(viewer.page).get_by_label("State")).to_have_value("failed")
    assert of_address(viewer.page) == "state=failed"


async def test_the_hour_is_told_in_figures_and_plots(operator: Viewer, deployment: Deployment) -> None:
    page = operator.page
    told = Api(deployment.url, OPERATOR).call("GET", "/dashboard/overview").json
    whole = told["rates"][0]["whole"]
    assert whole["ended"] >= 1200
    await expect(tile(page, "Jobs a second")).to_contain_text("in the last hour")
    await expect(tile(page, "Success rate")).to_contain_text(f"{100 * whole['succeeded'] / whole['ended']:.1f}%")
    await expect(tile(page, "Latency, p95")).to_contain_text(re.compile(r"\d ms"))
    await expect(tile(page, "Workers")).to_contain_text("0 of at most 512 jobs")
    for name in ("Jobs a second", "Success rate", "Latency"):
        await expect(page.get_by_role("img", name=name)).to_be_visible()
    types = page.get_by_role("table", name="By type").get_by_role("button")
    assert await types.all_inner_texts() == ["All types", *TYPES]
    oss = next(rate["whole"] for rate in told["rates"] if rate["type"] == "oss")
    await types.filter(has_text="oss").click()
    await expect(page.get_by_role("img", name=f"{oss['ended']} jobs in the last hour")).to_be_visible()
    await expect(types.filter(has_text="oss")).to_have_attribute("aria-pressed", "true")
    await page.get_by_role("button", name="secret_mismatch", exact=True).click()
    await expect(filters(page).get_by_label("Reason")).to_have_value("secret_mismatch")


async def test_a_job_is_seen_to_fail_as_it_happens_with_its_reason_and_timeline(
    operator: Viewer, deployment: Deployment, customer: Api, wrong: dict[str, Any], screenshots: Path
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
    await _tells_whose_it_is(deployment, report["job"])


async def _tells_whose_it_is(deployment: Deployment, job: str) -> None:
    """Each line about it, of both processes, has the account's name."""
    lines = [json.loads(line) for line in deployment.logs().splitlines() if f'"job": "{job}"' in line]
    assert {line["process"] for line in lines} >= {"api", "worker"}
    assert [line for line in lines if line.get("account") != "northwind"] == []


async def test_what_waits_is_counted_and_followed_until_it_is_done(
    operator: Viewer, customer: Api, deployment: Deployment, good: dict[str, Any]
) -> None:
    deployment.worker.signal(signal.SIGSTOP)
    try:
        held = [asyncio.create_task(asyncio.to_thread(customer.verify, good)) for _ in range(3)]
        await expect(tile(operator.page, "Waiting in the queue")).to_contain_text("oldest for")
        await expect(tile(operator.page, "Held requests")).to_contain_text("3")
        await expect(operator.rows("Queued")).to_have_count(3)
    finally:
        deployment.worker.signal(signal.SIGCONT)
    jobs = [answer.report["job"] for answer in await asyncio.gather(*held)]
    for job in jobs:
        await expect(operator.rows(job[:8])).to_contain_text("Succeeded")
    await expect(tile(operator.page, "Waiting in the queue")).to_contain_text("nothing waits")


async def test_jobs_are_found_and_the_view_can_be_handed_on(
    operator: Viewer, customer: Api, good: dict[str, Any]
) -> None:
    created = await asyncio.to_thread(customer.create, good)
    destination, job = created.json["destination"]["id"], created.report["job"]
    page, search = operator.page, filters(operator.page).get_by_label("Search")
    for text in (job, job[:13], destination, destination.lower()):
        await search.fill(text)
        await expect(operator.rows()).to_have_count(1)
        await expect(operator.rows()).to_contain_text(job[:8])
    await search.fill("NORTHWIND.example")
    await filters(page).get_by_label("State").select_option("failed")
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
    await filters(page).get_by_role("button", name="Clear").click()
    await expect(operator.rows()).not_to_have_count(0)
    assert of_address(page) == ""


async def test_which_customers_fail_and_why_is_one_look_and_one_click(operator: Viewer) -> None:
    page, accounts = operator.page, operator.page.locator("#accounts")
    told = Api(operator.url, OPERATOR).call("GET", "/dashboard/overview").json["failing"]
    worst = told["accounts"][0]
    assert worst["account"] == "fabrikam"
    row = accounts.get_by_role("listitem").first
    await expect(row).to_contain_text(f"{sum(worst['failed'].values())} failed")
    await expect(row).to_contain_text(re.compile(r"wrong secret \d+, no such bucket \d+"))
    await row.get_by_role("button", name="fabrikam").click()
    await expect(filters(page).get_by_label("Account")).to_have_value("fabrikam")
    await expect(operator.rows("Succeeded")).to_have_count(0)
    await expect(accounts_of(page).filter(has_not_text="fabrikam")).to_have_count(0)
    assert set(of_address(page).split("&")) == {"account=fabrikam", "state=failed"}


async def test_whose_deliveries_fail_is_told_beside_verifications(operator: Viewer, shipments: Shipments) -> None:
    page = operator.page
    await expect(tile(page, "Success rate")).to_contain_text("of verifications, last hour:")
    row = page.locator("#accounts").get_by_role("listitem").filter(has_text="northwind")
    await expect(row).to_contain_text("2 deliveries failed: may not write 1, not at the source 1")
    await row.get_by_role("button", name="2 deliveries failed").click()
    await expect(page.locator("#delivery-filters").get_by_label("Account")).to_have_value("northwind")
    await expect(page.locator("#found").get_by_role("listitem")).to_have_count(2)


@pytest.mark.parametrize("key", [OPERATOR, READER])
async def test_which_destinations_fail_now_and_why_is_one_look_and_one_click(
    viewer: Viewer, shipments: Shipments, key: str
) -> None:
    await viewer.sign_in(key=key)
    page, dialog = viewer.page, viewer.page.get_by_role("dialog")
    row = page.locator("#destinations-list").get_by_role("listitem").filter(has_text=shipments.destination)
    await expect(row).to_contain_text("may not write write_denied")
    await expect(row).to_contain_text("The key may not write to results/")
    await expect(row).to_contain_text(f"northwind · s3 · {shipments.destination}")
    await expect(row.get_by_text(re.compile("began .* ago"))).to_be_visible()
    await row.get_by_role("button", name="Northwind").click()
    await expect(dialog).to_contain_text("The key may not write to results/")
    facts = {
        "Account": "northwind", "s3_bucket_name": "customer-results",
        "Host, as last verified": "s3.eu-west-1.amazonaws.com",
        "Last passed a verification": "never",
    }  # fmt: skip
    for name, value in facts.items():
        told = dialog.get_by_text(name, exact=True).locator("xpath=..").get_by_role("definition")
        await expect(told).to_have_text(value)
    assert of_address(page) == f"destination={shipments.destination}"
    for name in ("Verify again", "Redeliver all that failed there"):
        await expect(dialog.get_by_role("button", name=name)).to_have_count(int(key == OPERATOR))
    await dialog.get_by_role("button", name="Show its deliveries").click()
    await expect(page.locator("#found").get_by_role("listitem")).to_have_count(6)
    await page.locator("#found").get_by_role("button", name="Page_4.json").click()
    await dialog.get_by_role("button", name=shipments.destination).click()
    await expect(dialog.get_by_role("heading")).to_have_text("Destination")
    await expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    await page.reload()
    await expect(dialog.get_by_role("heading")).to_have_text("Destination")


async def test_jobs_are_filtered_and_searched_by_account(operator: Viewer, customer: Api, good: dict[str, Any]) -> None:
    page, account = operator.page, filters(operator.page).get_by_label("Account")
    await filters(page).get_by_label("Search").fill("NorthW")
    await expect(operator.rows().filter(has_not_text="northwind")).to_have_count(0)
    await expect(accounts_of(page).filter(has_text="northwind").first).to_be_visible()
    await filters(page).get_by_role("button", name="Clear").click()
    await account.fill("conto")
    await account.press("Enter")
    await expect(page.locator("#empty")).to_contain_text("account must be the name of an account")
    assert [said for said in operator.complaints if "400 (Bad Request)" not in said] == []
    operator.complaints.clear()
    await account.fill("contoso")
    await account.press("Enter")
    await expect(accounts_of(page).first).to_have_text("contoso")
    others = await asyncio.to_thread(customer.verify, good)
    await expect(accounts_of(page).filter(has_not_text="contoso")).to_have_count(0)
    await account.fill("")
    await expect(operator.rows(others.report["job"][:8])).to_contain_text("northwind")


async def test_what_was_refused_before_the_queue_is_told_with_its_word(
    operator: Viewer, customer: Api, good: dict[str, Any]
) -> None:
    await asyncio.to_thread(customer.create, {**good, "s3_bucket_name": "No Bucket"})
    refused = operator.page.locator("#refused").get_by_role("listitem").filter(has_text="invalid_parameter")
    await expect(refused).to_contain_text("a parameter is wrong")
    await expect(operator.page.locator("#accounts")).to_contain_text(re.compile("[0-9] refused"))


async def test_a_destination_is_verified_again_in_the_panel(
    operator: Viewer, customer: Api, good: dict[str, Any]
) -> None:
    created = await asyncio.to_thread(customer.create, good)
    dialog = operator.page.get_by_role("dialog")
    await operator.rows(created.report["job"][:8]).get_by_role("button").click()
    await expect(dialog.get_by_text("Bucket", exact=True).locator("xpath=..")).to_contain_text(good["s3_bucket_name"])
    await dialog.get_by_role("button", name="Verify again").click()
    await expect(dialog.locator(".outcome")).to_contain_text("uploaded and deleted")
    await expect(dialog).not_to_contain_text(created.report["job"])
    assert of_address(operator.page) != f"job={created.report['job']}"
    path = f"/destinations/{created.json['destination']['id']}"

    async def deleted_before(route: Route) -> None:
        # The panel may be shown anew at any moment, and then without the button.
        await asyncio.to_thread(customer.call, "DELETE", path)
        await route.continue_()

    await operator.page.route(f"**{path}/verify?*", deleted_before)
    await dialog.get_by_role("button", name="Verify again").click()
    await expect(dialog.locator(".outcome")).to_contain_text("The destination was deleted")
    assert [said for said in operator.complaints if "404 (Not Found)" not in said] == []
    operator.complaints.clear()


async def test_only_a_destination_that_there_is_can_be_verified_again(
    operator: Viewer, customer: Api, good: dict[str, Any], wrong: dict[str, Any]
) -> None:
    refused = (await asyncio.to_thread(customer.create, wrong)).report
    created = await asyncio.to_thread(customer.create, good)
    path = f"/destinations/{created.json['destination']['id']}"
    body = json.dumps({"s3_secret_access_key": "not-the-secret"}).encode()
    kept = (await asyncio.to_thread(customer.call, "PUT", path, body, {"Content-Type": "application/json"})).report
    dialog = operator.page.get_by_role("dialog")
    for report, buttons in ((kept, 1), (refused, 0)):
        row = operator.rows(report["job"][:8])
        await expect(row).to_contain_text("secret_mismatch")
        await row.get_by_role("button").click()
        await expect(dialog).to_contain_text(report["job"])
        await expect(dialog).to_contain_text(report["message"])
        await expect(dialog.get_by_role("button", name="Verify again")).to_have_count(buttons)
        await operator.page.keyboard.press("Escape")


async def test_deliveries_are_seen_to_move_and_what_failed_is_delivered_again(
    operator: Viewer, shipments: Shipments
) -> None:
    page, dialog = operator.page, operator.page.get_by_role("dialog")
    await expect(page.locator("#deliveries-count")).to_contain_text("2 under way, 1 wait, 2 failed")
    bar = page.get_by_role("progressbar", name="Page_1.json")
    await expect(bar).to_have_attribute("aria-valuenow", "25")
    began = await bar.locator("i").evaluate("bar => bar.getBoundingClientRect().width")
    await shipments.send(0, 384_000_000)
    await look_again(page)
    await expect(bar).to_have_attribute("aria-valuenow", "75")
    moved = await bar.evaluate_handle("bar => bar")
    await expect(page.locator("#underway")).to_contain_text("384 MB of 512 MB")
    await expect(page.locator("#underway")).to_contain_text(re.compile(r"[\d.]+ MB/s"))
    await page.wait_for_function(
        "([bar, began]) => bar.firstElementChild.getBoundingClientRect().width > 2 * began", arg=[moved, began]
    )
    await expect(page.get_by_role("img", name="Bytes a second")).to_be_visible()
    failed = page.locator("#found").get_by_role("listitem")
    await expect(failed).to_have_count(2)
    await expect(failed.filter(has_text="Page_4.json")).to_contain_text("The key may not write to results/")
    await page.locator("#delivery-filters").get_by_label("Reason").select_option("write_denied")
    await expect(failed).to_have_count(1)
    await failed.get_by_role("button", name="Page_4.json").click()
    facts = {
        "Sent": "16 MB of 48 MB", "Destination": "Northwind 4F2A6C19D0E7", "Type": "s3", "Bucket": "customer-results",
        "Host, as last verified": "s3.eu-west-1.amazonaws.com", "Code": "write_denied", "Attempts": "1",
        "Step that failed": "upload", "Provider’s code": "AccessDenied", "HTTP status": "403",
        "Provider’s request id": "4442587FB7D0A2F9",
        "Key": "results/Collection_Results_9E867FAA_4_Page_4.json",
    }  # fmt: skip
    for name, value in facts.items():
        await expect(dialog.get_by_text(name, exact=True).locator("xpath=..").get_by_role("definition")).to_have_text(
            value
        )
    await expect(dialog).to_contain_text("The destination fails since")
    await dialog.get_by_role("button", name="Redeliver all that failed there").click()
    await expect(dialog.locator(".outcome")).to_contain_text("2 files are delivered again.")
    await expect(dialog).to_contain_text("It waits for its turn")
    await page.keyboard.press("Escape")
    await expect(page.locator("#found")).to_contain_text("No delivery matches")
    await shipments.settle(3)
    await page.locator("#delivery-filters").get_by_role("button", name="Clear").click()
    await failed.filter(has_text="Page_4.json").get_by_role("button", name="Redeliver").click()
    await expect(page.locator("#announcement")).to_contain_text("1 file is delivered again.")
    await expect(failed).to_contain_text("Nothing has failed.")
    await shipments.reset()


async def test_what_waits_is_found_by_its_count_and_by_its_reason(operator: Viewer, shipments: Shipments) -> None:
    page, found = operator.page, operator.page.locator("#found").get_by_role("listitem")
    state = page.locator("#delivery-filters").get_by_label("State")
    await expect(state).to_have_value("failed")
    assert await state.locator("option").all_inner_texts() == [
        "Any", "waiting (pending)", "uploading", "failed", "delivered (ok)", "skipped",
    ]  # fmt: skip
    await page.locator("#deliveries-count").get_by_role("button", name="1 wait").click()
    await expect(state).to_have_value("pending")
    await expect(found).to_have_count(1)
    await expect(found).to_contain_text("Page_3.json")
    await shipments.fail_for_now(2)
    await page.locator("#delivery-faults").get_by_role("button", name="source_not_found").click()
    await expect(state).to_have_value("")
    await expect(found).to_have_count(2)
    await expect(found.filter(has_text="Page_5.json")).to_contain_text("Failed")
    waiting = found.filter(has_text="Page_3.json")
    await expect(waiting).to_contain_text(re.compile(r"Pending.*attempt 1 failed, the next one is at \d\d:\d\d"))
    await expect(waiting.get_by_role("button", name="Redeliver")).to_have_count(0)
    await page.locator("#delivery-filters").get_by_role("button", name="Clear").click()
    await expect(state).to_have_value("failed")
    await shipments.reset()


async def test_a_test_file_that_nobody_removes_any_more_is_tried_again_with_a_button(
    operator: Viewer, deployment: Deployment, screenshots: Path
) -> None:
    page, files = operator.page, operator.page.locator("#leftovers")
    await expect(files).to_be_hidden()
    async with open_engine(deployment.database_url) as engine:
        left = leftover(1, 1, state=LeftoverState.KEPT, reason="delete_denied", object="results/dropoff-verify-1.txt")
        await Leftovers(engine).add(left, "sealed by nobody")
        try:
            await page.reload()
            await expect(files).to_contain_text("delete_denied, an operator is needed")
            await page.set_viewport_size({"width": 360, "height": 780})
            await _accessible(page, "#leftovers")
            assert [await page.evaluate(each) for each in (_CUT_OFF, _OVERFLOWING)] == [[], []]
            await files.screenshot(path=screenshots / "leftovers-phone.png")
            await files.get_by_role("button", name="Try again").click()
            await expect(page.locator("#announcement")).to_contain_text("tried again within seconds")
            (again,) = (await Leftovers(engine).page(None, 1)).leftovers
            assert again.created_at > left.created_at, "the 24 hours begin anew"
        finally:
            await Leftovers(engine).forget(left.id)


async def test_a_filter_holds_for_what_happens_later(
    operator: Viewer, customer: Api, good: dict[str, Any], wrong: dict[str, Any]
) -> None:
    await filters(operator.page).get_by_label("State").select_option("failed")
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
        await expect(operator.page.get_by_role("alert")).to_contain_text("cannot be read")
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
    await expect(filters(operator.page).get_by_label("State")).to_have_value("failed")


async def test_all_of_it_can_be_reached_by_the_keyboard(operator: Viewer) -> None:
    page = operator.page
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the jobs")).to_be_focused()
    await page.keyboard.press("Enter")
    for name in ("Search", "Account", "State", "Type", "Reason"):
        await page.keyboard.press("Tab")
        await expect(filters(page).get_by_label(name, exact=True)).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(operator.rows().first.get_by_role("button")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await expect(page.get_by_role("button", name="Close")).to_be_focused()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("device", "width", "height"), [("desktop", 1280, 1240), ("phone", 360, 780)])
async def test_it_can_be_read_by_everybody_and_anywhere(
    chromium: Browser, deployment: Deployment, shipments: Shipments, screenshots: Path,
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
        await expect(page.locator("#found")).to_contain_text("not at the source")
        assert [await page.evaluate(each) for each in (_CUT_OFF, _OVERFLOWING)] == [[], []]
        await page.screenshot(path=screenshots / f"overview-{device}-{scheme}.png")
        await page.locator("#destinations").screenshot(path=screenshots / f"destinations-{device}-{scheme}.png")
        await page.locator("#deliveries").screenshot(path=screenshots / f"deliveries-{device}-{scheme}.png")
        if device == "phone":
            await page.locator("#jobs").evaluate("section => section.scrollIntoView()")
            await page.screenshot(path=screenshots / f"jobs-{device}-{scheme}.png")
        await filters(page).get_by_label("State").select_option("failed")
        await expect(viewer.rows("Succeeded")).to_have_count(0)
        await viewer.rows("write_denied").first.get_by_role("button").click()
        await expect(page.get_by_role("dialog")).to_contain_text("The key may not write to")
        await _accessible(page, "dialog")
        assert await page.get_by_role("dialog").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        await page.screenshot(path=screenshots / f"job-{device}-{scheme}.png")
        await page.get_by_role("button", name="Close").click()
        await page.get_by_role("button", name="Page_4.json").click()
        await expect(page.get_by_role("dialog")).to_contain_text("The key may not write to")
        await _accessible(page, "dialog")
        assert await page.get_by_role("dialog").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        await page.screenshot(path=screenshots / f"delivery-{device}-{scheme}.png")
        await page.get_by_role("dialog").get_by_role("button", name=shipments.destination).click()
        await expect(page.get_by_role("dialog").get_by_role("heading")).to_have_text("Destination")
        await _accessible(page, "dialog")
        assert await page.get_by_role("dialog").evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        await page.screenshot(path=screenshots / f"destination-{device}-{scheme}.png")
        assert viewer.complaints == []


_CUT_OFF = """() => {
  const shown = [...document.querySelectorAll("main *")].filter((each) => !each.closest(".unseen, thead, svg"));
  const edges = shown.map((each) => [each.getBoundingClientRect(), each.outerHTML]);
  return edges.filter(([box]) => box.width && box.right > innerWidth + 0.5).map(([, html]) => html);
}"""


_OVERFLOWING = """() => [...document.querySelectorAll("main li > *, main td, figcaption")]
  .filter((each) => each.offsetParent && !each.querySelector("svg") && each.scrollWidth > each.clientWidth + 1)
  .map((each) => each.outerHTML)"""


async def _accessible(page: Page, part: str = "html") -> None:
    results = await Axe().run(page, part)
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in results.response["violations"]] == []
