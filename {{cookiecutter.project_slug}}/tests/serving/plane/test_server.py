from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from project.serving import plane, server
from project.serving.plane.predictor import Predictor
from project.settings import Settings

PATH = "/v1/predict"


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as connection:
        yield connection


def request(body: bytes, *lines: str, method: str = "POST", path: str = PATH, version: str = "1.1") -> bytes:
    head = [f"{method} {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def answers(connection: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Read some answers, however they are cut into pieces."""
    file, found = connection.makefile("rb"), []
    for _ in range(count):
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        if "content-length" in headers:
            body = file.read(int(headers["content-length"]))
        else:
            body = b""
            while size := int(file.readline(), 16):
                body += file.read(size)
                file.readline()
            file.readline()
        found.append((status, headers, body))
    return found


def shape(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, Any, Any]:
    """What two answers to the same request have in common."""
    status, headers, body = answer
    kept = {name: value for name, value in headers.items() if name not in ("date", "content-length")}
    value = json.loads(body)
    return status, kept, sorted(value) if status == 200 else value


def test_the_short_and_the_general_way_give_the_same_answers(client: httpx.Client, row: dict[str, Any]) -> None:
    bodies = [json.dumps(value).encode() for value in ({"row": row}, {"rows": [row, row]}, {"row": {}}, {}, [])]
    bodies += [b"", b"{", b'{"row": NaN}', b"\xff"]
    for body in bodies:
        for line in ("X-A: b", "Content-Type: text/plain", "X-Request-ID: mine"):
            with connected(client) as connection:
                connection.sendall(request(body, line))
                connection.sendall(request(body, line, "Expect: 100-continue"))
                short, general = answers(connection, 1)[0], None
            with connected(client) as connection:
                head = (
                    f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{line}\r\n\r\n".encode()
                )
                chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
                connection.sendall(head + chunk + b"0\r\n\r\n")
                general = answers(connection, 1)[0]
            assert shape(short) == shape(general), (body, line)


def test_many_requests_in_one_piece_are_answered_in_order(client: httpx.Client, row: dict[str, Any]) -> None:
    body = json.dumps({"row": row}).encode()
    kinds = [request(body), request(b"", method="GET", path="/metrics"), request(b"{}"), request(body)]
    with connected(client) as connection:
        connection.sendall(b"".join(kinds) * 5)
        assert [answer[0] for answer in answers(connection, 20)] == [200, 200, 422, 200] * 5


def test_requests_of_the_same_moment_each_get_their_own_answer(client: httpx.Client, row: dict[str, Any]) -> None:
    """The same bits as alone, whatever the neighbours are; and somebody leaves without waiting."""
    bodies = [json.dumps({"row": row | {"staff": place % 6}}).encode() for place in range(40)]
    alone = [client.post(PATH, content=body).json()["prediction"] for body in bodies[:6]]
    bodies[7], bodies[20] = b'{"row": {}}', b"{"
    with ExitStack() as stack:
        callers = [stack.enter_context(connected(client)) for _ in bodies]
        for caller, body in zip(callers, bodies, strict=True):
            caller.sendall(request(body))
        callers[3].close()
        found = [answers(caller, 1)[0] for caller in callers[:3] + callers[4:]]
    statuses = [status for status, _, _ in found]
    assert (statuses[6], statuses[19], set(statuses[:6] + statuses[7:19] + statuses[20:])) == (422, 400, {200})
    told = [json.loads(body).get("prediction") for _, _, body in found]
    told.insert(3, alone[3])
    expected = [None if place in (7, 20) else alone[place % 6] for place in range(40)]
    assert told == expected


def test_a_request_in_pieces(client: httpx.Client, row: dict[str, Any]) -> None:
    whole = request(json.dumps({"row": row}).encode())
    with connected(client) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(0, len(whole), 7):
            connection.sendall(whole[place : place + 7])
        assert answers(connection, 1)[0][0] == 200


@pytest.mark.parametrize(("version", "line"), [("1.0", "X-A: b"), ("1.1", "Connection: close")])
def test_a_connection_ends_when_the_caller_wants_that(
    client: httpx.Client, row: dict[str, Any], version: str, line: str
) -> None:
    with connected(client) as connection:
        connection.sendall(request(json.dumps({"row": row}).encode(), line, version=version))
        status, headers, _ = answers(connection, 1)[0]
        assert (status, headers["connection"]) == (200, "close")
        assert connection.recv(1) == b""


def test_what_is_no_http_is_refused(client: httpx.Client) -> None:
    for nonsense in (b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with connected(client) as connection:
            connection.sendall(nonsense)
            status, headers, body = answers(connection, 1)[0]
            assert (status, json.loads(body)["code"], headers["connection"]) == (400, "malformed", "close")
            assert connection.recv(1) == b""
    assert client.get("/health/live").status_code == 200


def test_a_body_that_is_cut_into_pieces_wrongly_is_refused(client: httpx.Client, row: dict[str, Any]) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for first in (b"", request(json.dumps({"row": row}).encode())):
        with connected(client) as connection:
            connection.sendall(first + head + b"what\r\n")
            found = answers(connection, 2 if first else 1)
            assert [status for status, _, _ in found] == ([200, 400] if first else [400])
            assert json.loads(found[-1][2])["code"] == "malformed"
            assert connection.recv(1) == b""
    assert client.post(PATH, json={"row": row}).status_code == 200


@pytest.mark.parametrize("head", [b"GET /health/live?%s", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-A: %s"])
def test_headers_that_are_too_long_are_refused(client: httpx.Client, head: bytes) -> None:
    with connected(client) as connection:
        connection.sendall(head % (b"a" * 70_000))
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"a")
        status, headers, body = answers(connection, 1)[0]
        assert (status, json.loads(body)["code"], headers["connection"]) == (431, "headers", "close")
    last = b"\r\n\r\n" if b"X-A" in head else b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for size, status in ((60_000, 200), (70_000, 431), (200_000, 431)):
        with connected(client) as connection:
            connection.sendall(head % (b"a" * size) + last)
            assert answers(connection, 1)[0][0] == status


def test_a_request_that_stalls_is_ended(
    champion: Settings, serving: Any, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK", 0.05)
    hasty = champion.serving.model_copy(update={"body_seconds": 0.2, "idle_seconds": 60})
    body = json.dumps({"row": row}).encode()
    chunked = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[".encode()
    with serving(champion.model_copy(update={"serving": hasty})) as client:
        for started in (b"POST /v1/pre", request(body)[:-5], chunked):
            with connected(client) as connection:
                connection.sendall(started)
                assert answers(connection, 1)[0][0] == 408
                assert connection.recv(1) == b""  # it is answered once
        assert client.post(PATH, json={"row": row}).status_code == 200


def test_a_request_that_stalls_is_ended_soon(champion: Settings, serving: Any) -> None:
    hasty = champion.serving.model_copy(update={"body_seconds": 0.2})
    with serving(champion.model_copy(update={"serving": hasty})) as client, connected(client) as connection:
        connection.settimeout(4)  # far more than the second in which it is noticed
        connection.sendall(b"POST /v1/pre")
        assert answers(connection, 1)[0][0] == 408


def test_a_silent_connection_is_closed(champion: Settings, serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOOK", 0.05)
    hasty = champion.serving.model_copy(update={"idle_seconds": 0.2})
    with serving(champion.model_copy(update={"serving": hasty})) as client:
        with connected(client) as connection:
            assert connection.recv(1) == b""
        with connected(client) as connection:
            connection.sendall(request(b"", method="GET", path="/health/live"))
            assert answers(connection, 1)[0][0] == 200
            assert connection.recv(1) == b""


def test_only_the_setting_ends_a_silent_connection(champion: Settings) -> None:
    """The server's own limit of five seconds would come first after answers that go the general way."""
    assert server.configuration(None).timeout_keep_alive > champion.serving.idle_seconds


@pytest.mark.parametrize("late", [True, False])
def test_those_who_wait_are_taken_in_together_if_the_loop_is_late(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, until: Any, late: bool
) -> None:
    """Else they are left to other workers, by the loop: uvloop takes in one a turn."""
    if not late:
        pytest.importorskip("uvloop")
    begun, go, turns, made = threading.Event(), threading.Event(), [0], server.Protocol.connection_made
    taken = list[int]()

    def counted(self: server.Protocol, transport: Any) -> None:
        begun.set()
        go.wait(30)
        if taken[-1:] != turns:  # the first of its turn
            self.loop.call_soon(lambda: turns.append(turns.pop() + 1))
        taken.extend(turns)
        made(self, transport)

    monkeypatch.setattr(server.Protocol, "connection_made", counted)
    monkeypatch.setattr(server, "LATE", -1.0 if late else 1e9)
    with ExitStack() as stack:
        stack.enter_context(connected(client))
        assert begun.wait(30)
        for _ in range(60):
            stack.enter_context(connected(client))
        go.set()
        until(lambda: len(taken) == 61)
    assert (len(set(taken)) < 10) is late


def test_those_taken_in_together_are_answered_over_tls(
    champion: Settings, serving: Any, pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, made = threading.Event(), threading.Event(), server.Protocol.connection_made

    def held(self: server.Protocol, transport: Any) -> None:
        begun.set()
        go.wait(30)
        made(self, transport)

    monkeypatch.setattr(server.Protocol, "connection_made", held)
    monkeypatch.setattr(server, "LATE", -1.0)
    files = {"tls_certificate": str(pem / "certificate.pem"), "tls_key": str(pem / "key.pem")}
    trusting = ssl.create_default_context(cafile=str(pem / "certificate.pem"))
    secure = champion.model_copy(update={"serving": champion.serving.model_copy(update=files)})
    with serving(secure) as client, ExitStack() as stack:
        safe = [trusting.wrap_socket(stack.enter_context(connected(client)), server_hostname="127.0.0.1")]
        assert begun.wait(30)
        others = [stack.enter_context(connected(client)) for _ in range(20)]
        go.set()
        safe += [trusting.wrap_socket(one, server_hostname="127.0.0.1") for one in others]
        for one in safe:
            one.sendall(request(b"", method="GET", path="/health/live"))
            assert answers(one, 1)[0][0] == 200
            one.close()


def test_more_connections_than_it_holds_are_told_to_come_again(champion: Settings, serving: Any, until: Any) -> None:
    few = champion.serving.model_copy(update={"max_connections": 3})
    with serving(champion.model_copy(update={"serving": few})) as client:
        address = (client.base_url.host, client.base_url.port)
        held = [socket.create_connection(address, timeout=30) for _ in range(3)]
        for one in held:
            one.sendall(request(b"", method="GET", path="/health/live"))
            assert answers(one, 1)[0][0] == 200
        held.append(socket.create_connection(address, timeout=30))  # one more, which asks for nothing
        for method, path in (("GET", "/health/live"), ("GET", "/status"), ("POST", PATH)):
            with socket.create_connection(address, timeout=30) as late:
                late.sendall(request(b"", method=method, path=path))
                status, headers, body = answers(late, 1)[0]
                assert (status, headers["retry-after"], json.loads(body)["code"]) == (503, "1", "busy")
                held[0].sendall(request(b"", method="GET", path="/health/live"))
                assert answers(held[0], 1)[0][0] == 200
        with socket.create_connection(address, timeout=30) as late:  # it is told even if it goes on to send
            late.sendall(request(b"0" * 2_000_000)[:200_000])
            until(lambda: select.select([late], [], [], 0)[0])
            late.sendall(b"0" * 1_000_000)
            late.sendall(b"0" * 1_000_000)
            assert answers(late, 1)[0][0] == 503
        for one in held:
            one.close()
        until(lambda: httpx.get(f"{client.base_url}/health/live", trust_env=False).status_code == 200)


def test_more_work_than_it_holds_is_refused_and_it_recovers(
    champion: Settings, serving: Any, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def slow(*_: object, **__: object) -> Any:
        begun.release()
        go.wait(30)
        raise ProjectErrorForTest

    class ProjectErrorForTest(Exception):
        pass

    few = champion.serving.model_copy(update={"queue": 2})
    large = json.dumps({"rows": [row] * 400}).encode()
    with serving(champion.model_copy(update={"serving": few})) as client:
        monkeypatch.setattr("project.serving.plane._predict", slow)
        with connected(client) as first, connected(client) as second, connected(client) as third:
            for one in (first, second):
                one.sendall(request(large))
            assert begun.acquire(timeout=30)
            status = 0
            while status != 503:  # the second may not have been read yet
                third.sendall(request(large))
                status, headers, _ = answers(third, 1)[0]
            assert headers["retry-after"]
            go.set()
            for one in (first, second):
                assert answers(one, 1)[0][0] == 500
        monkeypatch.undo()
        assert client.post(PATH, content=large).status_code == 200


def test_requests_that_waited_too_long_are_refused(
    champion: Settings, serving: Any, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    """Whether they wait for a thread, or for the loop, which one of them holds up."""
    hasty = champion.serving.model_copy(update={"wait_seconds": 0.5})
    go, begun, queued = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
    predict, clock, passed = Predictor.predict, time.perf_counter, [0.0]

    class Pool(ThreadPoolExecutor):
        def submit(self, *work: Any) -> Any:
            queued.release()
            return super().submit(*work)

    def slow(*arguments: Any) -> Any:
        begun.release()
        go.wait(30)
        return predict(*arguments)

    monkeypatch.setattr(plane, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + passed[0])
    many, one = (json.dumps(body).encode() for body in ({"rows": [row] * 400}, {"row": row}))
    with serving(champion.model_copy(update={"serving": hasty})) as client:
        for in_a_thread in (True, False):
            go.clear()
            with monkeypatch.context() as patch, connected(client) as first, connected(client) as second:
                patch.setattr(Predictor, "predict", slow)
                first.sendall(request(many) if in_a_thread else request(one) * 2)
                assert begun.acquire(timeout=30)
                if in_a_thread:
                    second.sendall(request(many))
                    assert all(queued.acquire(timeout=30) for _ in (first, second))
                passed[0] += 0.6
                go.set()
                found = [*answers(first, 1), *answers(second, 1)] if in_a_thread else answers(first, 2)
            assert [status for status, _, _ in found] == [200, 503]
            assert found[1][1]["retry-after"] == "1"
            until(lambda: client.post(PATH, json={"row": row}).status_code == 200)


@pytest.mark.parametrize(("path", "form"), [("/v2/models/bikes/infer", "error"), ("/invocations", "message")])
def test_what_a_connection_refuses_has_the_form_of_its_protocol(
    champion: Settings, serving: Any, monkeypatch: pytest.MonkeyPatch, path: str, form: str
) -> None:
    monkeypatch.setattr(server, "LOOK", 0.05)
    few = champion.serving.model_copy(update={"body_seconds": 1.0, "max_connections": 1})
    with serving(champion.model_copy(update={"serving": few})) as client:
        refused = [
            (request(b"{}", "Host: localhost", path=path), 400),
            (request(b"{}", f"X-A: {'a' * 70_000}", path=path), 431),
            (request(b"{}", path=path)[:-1], 408),
            (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nwhat\r\n".encode(), 400),
        ]
        for sent, status in refused:
            with connected(client) as connection:
                connection.sendall(sent)
                found, _, body = answers(connection, 1)[0]
                assert (found, form in json.loads(body)) == (status, True)
                with suppress(ConnectionResetError):  # more was sent than was read
                    assert connection.recv(1) == b""
        with connected(client) as held, connected(client) as late:
            held.sendall(request(b"", method="GET", path="/health/live"))
            assert answers(held, 1)[0][0] == 200
            late.sendall(request(b"{}", path=path))
            status, headers, body = answers(late, 1)[0]
            assert (status, headers["retry-after"], form in json.loads(body)) == (503, "1", True)


def test_two_hosts_are_refused(client: httpx.Client) -> None:
    for path in ("/v1/model", "/nothing"):
        with connected(client) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n".encode())
            ((status, _, content),) = answers(connection, 1)
        assert status == 400
        assert json.loads(content)["code"] == "host"
