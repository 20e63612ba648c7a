"""A bare aiohttp handler, to compare with: a GET answers the bytes of a file from memory, a POST is held for ever.

python -m bench.handler PORT FILE
"""

import asyncio
import sys
from pathlib import Path

from aiohttp import web


def serve(port: int, content: bytes) -> None:
    """Serve on loopback until the process is ended."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type="application/json")

    async def hold(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(3600)
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", answer), web.post("/", hold)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, shutdown_timeout=0, backlog=4096)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes())
