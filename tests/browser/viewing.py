"""Somebody who looks at the dashboard in a browser, and notices whatever goes wrong there."""

from playwright.async_api import Locator, Page, expect


class Viewer:
    """`complaints` has each error of the page's, each refusal by its policy, and each request to another place."""

    def __init__(self, page: Page, url: str, key: str) -> None:
        self.page = page
        self.url = url
        self._key = key
        self.complaints: list[str] = []
        page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._check(request.url))

    def _check(self, url: str) -> None:
        if not url.startswith((f"{self.url}/", "data:")):
            self.complaints.append(f"asked for {url}")

    async def sign_in(self, view: str = "", key: str | None = None) -> None:
        """Go to `view` and give the key that is asked for."""
        await self.page.goto(f"{self.url}/dashboard{view}")
        await self.page.get_by_label("Operator’s key").fill(self._key if key is None else key)
        await self.page.get_by_role("button", name="Sign in").click()

    async def live(self) -> None:
        """Return when the page follows what happens."""
        await expect(self.page.get_by_text("Live", exact=True)).to_be_visible()

    def rows(self, text: str | None = None) -> Locator:
        """The rows of the table of jobs, or those that have `text`."""
        rows = self.page.locator("#rows").get_by_role("row")
        return rows.filter(has_text=text) if text else rows
