"""A door with a key before a page that is served on the loopback interface.

Whoever comes with `?token=...` gets a cookie, and with the cookie is let through, page and
websocket alike; everybody else gets a 403. Bytes are passed on as they are.
"""

import asyncio
import hmac
import secrets
import threading
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from epvf.errors import UserError
from epvf.files import one_line

COOKIE = "epvf-token"
MOST_HEAD = 16_384
HEAD_SECONDS = 10.0
_CHUNK = 65_536
_REFUSED = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError)


class Gate:
    """Listens at `host:port` and passes on to a port of the loopback interface. Close it.

    Attributes:
        token: the key.
        port: that it listens at.
    """

    def __init__(self, host: str, port: int, inner: int) -> None:
        self.token = secrets.token_urlsafe(18)
        self._inner = inner
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        opening = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, host, port, limit=MOST_HEAD), self._loop
        )
        try:
            self._server = opening.result()
        except OSError as error:
            self._end()
            raise UserError(f"cannot listen at {host}:{port}: {one_line(error)}") from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stops listening."""
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(5.0)
        self._end()

    async def _hang_up(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.05)  # a connection that is closed says so to the loop later

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(*_REFUSED):
                await self._answer(reader, writer)
        finally:  # also where the gate is closed meanwhile
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
        if self._has_cookie(head):
            await self._pass_on(head, reader, writer)
        elif self._has_token(head):
            cookie = f"Set-Cookie: {COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/\r\n"
            writer.write(_answer("303 See Other", "", f"Location: /\r\n{cookie}"))
        else:
            writer.write(_answer("403 Forbidden", "the address needs its ?token=...\n", ""))
        with suppress(OSError):
            await writer.drain()

    def _has_token(self, head: bytes) -> bool:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        given = parse_qs(urlsplit(words[1]).query).get("token", [""]) if len(words) == 3 else [""]
        return self._fits(given[0])

    def _has_cookie(self, head: bytes) -> bool:
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            if name.strip().lower() == "cookie":
                with suppress(CookieError):
                    morsel = SimpleCookie(value.strip()).get(COOKIE)
                    if morsel is not None and self._fits(morsel.value):
                        return True
        return False

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    async def _pass_on(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner)
        inner_writer.write(head)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                writer.write(chunk)
                await writer.drain()
    finally:
        writer.close()


def _answer(status: str, text: str, more: str) -> bytes:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\n{more}Content-Type: text/plain; charset=utf-8\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
