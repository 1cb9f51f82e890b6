"""Starts Debian's Firefox for Playwright, and relays WebDriver BiDi between the two: ``firefox_relay.py ARGUMENT…``.

Playwright drives a stock Firefox by BiDi, but sends one command that Firefox does not have yet (emulated colour schemes).
The relay answers that command itself; the tests set colour schemes by Firefox's preferences instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

FIREFOX: Final = shutil.which("firefox-esr") or shutil.which("firefox")
UNKNOWN_TO_FIREFOX: Final = "emulation.setMediaFeaturesOverride"
_ENDPOINT: Final = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")


async def relay() -> int:
    """Run Firefox with this program's arguments; return its exit code."""
    assert FIREFOX is not None
    firefox = await asyncio.create_subprocess_exec(FIREFOX, *sys.argv[1:], stderr=asyncio.subprocess.PIPE)
    assert firefox.stderr is not None
    async for line in firefox.stderr:
        if found := _ENDPOINT.search(line):
            break
    else:
        return await firefox.wait()

    async def handle(client: ServerConnection) -> None:
        async with connect(f"{found[1].decode()}/session", max_size=None, compression=None) as server:
            await asyncio.gather(_commands(client, server), _events(server, client))

    async with serve(handle, "127.0.0.1", 0, max_size=None, compression=None) as proxy:
        port = next(iter(proxy.sockets)).getsockname()[1]
        print(f"WebDriver BiDi listening on ws://127.0.0.1:{port}", file=sys.stderr, flush=True)
        async for line in firefox.stderr:
            os.write(2, line)
        return await firefox.wait()


async def _commands(client: ServerConnection, server: ClientConnection) -> None:
    async for message in client:
        command = json.loads(message)
        if command.get("method") == UNKNOWN_TO_FIREFOX:
            await client.send(json.dumps({"type": "success", "id": command["id"], "result": {}}))
        else:
            await server.send(message)
    await server.close()


async def _events(server: ClientConnection, client: ServerConnection) -> None:
    async for message in server:
        await client.send(message)
    await client.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(relay()))
