"""A key before a page: who has none gets nothing, who has one gets everything."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from epvf.errors import UserError
from epvf.view.gate import COOKIE, Gate


class Inner(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"inside {self.path}".encode() * 20_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def inner():
    server = HTTPServer(("127.0.0.1", 0), Inner)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def gate(inner):
    made = Gate("127.0.0.1", 0, inner)
    yield made
    made.close()


def _get(gate, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=5)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize("cookie", ["", "x", f"{COOKIE}=", f"{COOKIE}=wrong", "a=\xe9; b"])
@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=wrong", "/index.html"])
def test_without_the_key_nobody_is_let_through(gate, path, cookie):
    answer, body = _get(gate, path, Cookie=cookie)
    assert answer.status == 403 and b"inside" not in body


def test_the_key_is_exchanged_for_a_cookie_that_opens(gate):
    answer, body = _get(gate, f"/?token={gate.token}")
    assert answer.status == 303 and answer.getheader("Location") == "/" and body == b""
    cookie = answer.getheader("Set-Cookie")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    answer, body = _get(gate, "/page", Cookie=f"other=1; {cookie.split(';')[0]}")
    assert answer.status == 200 and body == b"inside /page" * 20_000


def test_keys_differ_and_a_port_that_is_taken_is_refused(gate, inner):
    other = Gate("127.0.0.1", 0, inner)
    assert other.token != gate.token and len(gate.token) >= 24
    assert _get(other, Cookie=f"{COOKIE}={gate.token}")[0].status == 403
    other.close()
    with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{gate.port}"):
        Gate("127.0.0.1", gate.port, inner)
