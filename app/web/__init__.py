"""The HTTP front end; the only aiohttp.web."""
