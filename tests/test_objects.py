"""Sources and sinks against S3 behind a bad network."""

import hashlib
import json
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import free_port
from transfers import PUBLISH, READ, Start, ended, publish_folder, until


class Network:
    """A wire to a server that can be cut: in the middle of an answer, and for a while."""

    def __init__(self, port: int) -> None:
        self.server, self.port, self.left = socket.create_server(("127.0.0.1", 0)), port, -1
        self.address, self.down = f"127.0.0.1:{self.server.getsockname()[1]}", threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after: int) -> None:
        """Let so many bytes of answers pass; then cut the wire until `mend`."""
        self.left = after

    def mend(self) -> None:
        """Let everything pass again."""
        self.left = -1
        self.down.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self.server.accept()[0]
                if self.down.is_set():
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.port))
                threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if answer and self.left >= 0:
                    data, self.left = data[: self.left], max(0, self.left - len(data))
                    if not self.left:
                        self.down.set()
                if self.down.is_set():
                    break
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def network(team: Path, tmp_path: Path) -> Iterator[Network]:
    """Return the wire to an S3 server that has an empty bucket."""
    port = free_port()
    with (tmp_path / "moto.log").open("w") as out:
        server = subprocess.Popen(
            [team.parent / "moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                put(f"127.0.0.1:{port}/bucket")
                break
            assert server.poll() is None, (tmp_path / "moto.log").read_text()
            assert time.monotonic() < deadline
        yield Network(port)
    finally:
        server.kill()
        server.wait()


def put(address: str, body: bytes = b"") -> None:
    kind = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read-write"}
    urllib.request.urlopen(urllib.request.Request(f"http://{address}", body, kind, method="PUT"), timeout=60).close()


def listed(start: Start, network: Network) -> dict[str, str]:
    """Return what the bucket has, by key: the content of JSON, the hash of anything else."""
    script = """
import hashlib, json, obstore
from obstore.store import from_url
store, there = from_url("s3://bucket", client_options={"allow_http": True}), {}
for chunk in obstore.list(store):
    for one in chunk:
        got = bytes(obstore.get(store, one["path"]).bytes())
        there[one["path"]] = got.decode() if one["path"].endswith("json") else hashlib.sha256(got).hexdigest()
print(json.dumps(there))
"""
    direct = variables(network) | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{network.port}"}
    there: dict[str, str] = json.loads(ended(start(script, **direct)))
    return there


def variables(network: Network) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://{network.address}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
    }


def test_objects_are_read_exactly_over_a_bad_wire(network: Network, start: Start, tmp_path: Path) -> None:
    content = b"a,b\n" + b"".join(b"%d,%d\n" % (number, number * 7) for number in range(3_000_000))
    direct = f"127.0.0.1:{network.port}/bucket"
    for key, body in {
        "in/big.csv": content,
        "in/late.csv": b"a,b\n1,2\n",
        "in/deep/no.csv": b"x",
        "in/no.txt": b"x",
    }.items():
        put(f"{direct}/{key}", body)
    network.cut(after=20_000_000)
    reading = start(READ, "s3://bucket/in/", tmp_path / "spool", **variables(network))
    until(reading, "is away")
    network.mend()
    paths = [Path(word) for word in ended(reading).splitlines()[-1].split()]
    assert [path.name for path in paths] == ["big.csv", "late.csv"]
    assert paths[0].read_bytes() == content
    assert json.loads((paths[0].parents[1] / "spool.json").read_text())["ignored"] == ["in/no.txt"]


def test_an_object_that_changes_while_the_wire_is_down_is_refused(
    network: Network, start: Start, tmp_path: Path
) -> None:
    direct = f"127.0.0.1:{network.port}/bucket/big.csv"
    put(direct, b"a,b\n" + b"1,2\n" * 5_000_000)
    network.cut(after=5_000_000)
    reading = start(READ, "s3://bucket/big.csv", tmp_path / "spool", **variables(network))
    until(reading, "is away")
    put(direct, b"a,b\n" + b"3,4\n" * 5_000_000)
    network.mend()
    assert "was changed while it was read" in reading.communicate(timeout=120)[0]
    assert not list((tmp_path / "spool").iterdir())


def test_a_run_is_uploaded_whole_over_a_bad_wire(network: Network, start: Start, team: Path, tmp_path: Path) -> None:
    publish_folder(team, tmp_path / "run", "run")
    network.cut(after=700)
    publishing = start(PUBLISH, "s3://bucket/scores", tmp_path / "run", **variables(network))
    until(publishing, "is away")
    assert "scores/latest.json" not in listed(start, network)
    network.mend()
    assert "files uploaded" in ended(publishing)
    there = listed(start, network)
    latest = json.loads(there["scores/latest.json"])
    assert json.loads(there[f"scores/{latest['manifest']}"])["run"] == "run"
    for path in (tmp_path / "run" / "predictions").iterdir():
        assert there[f"scores/run/predictions/{path.name}"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_delta_table_on_s3(network: Network, start: Start, team: Path, tmp_path: Path) -> None:
    script = (
        "import deltalake, polars as pl\n"
        "for n in range(3): deltalake.write_deltalake('s3://bucket/table', pl.DataFrame({'a': [n]}), mode='append')"
    )
    ended(start(script, **variables(network), AWS_ALLOW_HTTP="true", AWS_S3_ALLOW_UNSAFE_RENAME="true"))
    for url, rows in (("delta+s3://bucket/table", 3), ("delta+s3://bucket/table?version=1", 2)):
        reading = start(READ, url, tmp_path / f"spool{rows}", **variables(network))
        path = ended(reading).split()[-1]
        out = ended(start("import sys, polars as pl; print(pl.read_parquet(sys.argv[1]).height)", path))
        assert out.strip() == str(rows)
