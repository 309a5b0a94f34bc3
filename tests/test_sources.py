"""Sources and sinks against real servers: PostgreSQL that crashes in the middle, and S3 behind a bad network."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from support import needs

Start = Callable[..., subprocess.Popen[str]]

PASSWORD = "s3cret-of-ada"
ROWS = 300_000
TABLE = f"""
CREATE TABLE orders (id bigint PRIMARY KEY, name text, price numeric(10, 2), score real, paid boolean,
                     day date, at timestamptz, noted timestamp, tags jsonb, weight double precision, any_size numeric);
INSERT INTO orders SELECT n, CASE WHEN n % 3 = 0 THEN NULL ELSE 'näme, "' || n END, n / 4.0, n / 8.0, n % 2 = 0,
    date '2026-01-01' + (n % 365)::int, timestamptz '2026-01-01 12:00+02' + n * interval '1 second',
    timestamp '2026-01-01 12:00:00.25', jsonb_build_object('n', n), n / 3.0::float8, n / 7.0
    FROM generate_series({ROWS}, 1, -1) n;
"""

# Each asks for a line before it goes on, so that what happens in between happens in the middle.
READ = """
import sys
from pathlib import Path
from bike_demand.pipeline import spool
from bike_demand.pipeline.spool import _parts
from bike_demand.settings import load
_parts.STEP, asked = 100_000, []
def report(told):
    print(told, flush=True)
    if "rows read" in told and not asked:
        asked.append(input())
print(*spool.fetch(sys.argv[1], Path(sys.argv[2]), load(), report))
"""
PUBLISH = """
import json, sys
from pathlib import Path
from bike_demand.pipeline import sinks
from bike_demand.settings import load
from bike_demand.signature import Column, Signature
folder, chunks = Path(sys.argv[2]), []
sinks.kinds()
real = sinks.sql._Load._load
def load_chunk(self, connection, entry):
    real(self, connection, entry)
    chunks.append(entry["path"])
    print("chunk", entry["path"], flush=True)
    if len(chunks) == 2:
        input()
sinks.sql._Load._load = load_chunk
signature = Signature("Hires", "regression", "hires", (Column("staff", "integer"),), (Column("prediction", "number"),))
manifest = json.loads((folder / "manifest.json").read_text())
sinks.publish(load(), folder, manifest, signature, sys.argv[1], lambda told: print(told, flush=True))
"""


class Cluster:
    """A PostgreSQL of our own on loopback; a crash is the end of all its processes at once."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.port = programs, folder, free_port()
        self.url = f"postgresql://ada:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        secret = folder / "password"
        secret.write_text(PASSWORD)
        self.own: dict[str, object] = {}
        if os.geteuid() == 0:  # it refuses to be root
            self.own = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            for path in (folder, secret):
                shutil.chown(path, "nobody", "nogroup")
        self._run("initdb", "-U", "ada", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -F"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def crash(self) -> None:
        """End it without a word to anybody."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def ask(self, question: str) -> str:
        """Return what psql prints."""
        command = [str(self.programs / "psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", self.url, "-c", question]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        with (self.folder.parent / f"{self.folder.name}.out").open("a") as out:  # a pipe would stay open in the server
            subprocess.run(command, cwd=self.folder, stdout=out, stderr=out, check=True, **self.own)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Return a running PostgreSQL with the table `orders`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        needs("pg_ctl")
    programs = found[-1].parent if found else Path(str(shutil.which("pg_ctl"))).parent
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    made = Cluster(programs, folder)
    try:
        made.start()
        made.ask(TABLE + "CREATE SEQUENCE numbers")
        yield made
    finally:
        with suppress(subprocess.CalledProcessError):
            made.crash()
        shutil.rmtree(folder)
        folder.with_name(f"{folder.name}.out").unlink()


@pytest.fixture
def start(team: Path, default_project: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a script in the team's environment, in a copy of the project."""
    folder, begun = tmp_path / "project", list[subprocess.Popen[str]]()
    shutil.copytree(default_project, folder)

    def once(script: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(folder / "src"), **variables}
        begun.append(
            subprocess.Popen(
                [team, "-c", script, *map(str, arguments)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return begun[-1]

    yield once
    for one in begun:
        if one.poll() is None:
            one.kill()
        one.communicate()


def until(process: subprocess.Popen[str], word: str) -> str:
    """Read what a process prints up to a line with this word; return that line."""
    seen = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if word in line:
            return line
    raise AssertionError(f"never said {word!r}: {''.join(seen)}")


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> str:
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0, out
    return out


def rows_of(team: Path, path: Path) -> list[str]:
    """Return the columns of a spooled table that PostgreSQL can be asked for in the same words."""
    script = (
        "import polars as pl, sys; t = pl.read_parquet(sys.argv[1]); print({n: str(d) for n, d in t.schema.items()});"
        "print('\\n'.join(f'{r[0]}|{r[1] or chr(45)}|{r[2]}|{r[3]}' for r in"
        " t.select('id', 'name', 'price', pl.col('at').dt.epoch('s')).rows()))"
    )
    out = subprocess.run([team, "-c", script, path], capture_output=True, text=True, check=True).stdout
    return out.splitlines()


ASKED = "SELECT id || '|' || coalesce(name, '-') || '|' || price || '|' || extract(epoch FROM at)::bigint"
ASKED += " FROM orders ORDER BY id"


def test_a_table_is_read_in_one_snapshot_with_its_types(
    cluster: Cluster, start: Start, team: Path, tmp_path: Path
) -> None:
    wanted = cluster.ask(ASKED).splitlines()
    reading = start(READ, f"{cluster.url}?table=public.orders", tmp_path / "spool")
    until(reading, "rows read")
    cluster.ask("UPDATE orders SET price = -1 WHERE id % 2 = 0; DELETE FROM orders WHERE id > 200000")
    go_on(reading)
    path = Path(ended(reading).split()[-1])
    types, *rows = rows_of(team, path)
    assert len(rows) == ROWS
    assert rows == wanted
    assert eval(types) == {
        "id": "Int64",
        "name": "String",
        "price": "Decimal(precision=10, scale=2)",
        "score": "Float32",
        "paid": "Boolean",
        "day": "Date",
        "at": "Datetime(time_unit='us', time_zone='UTC')",
        "noted": "Datetime(time_unit='us', time_zone=None)",
        "tags": "String",
        "weight": "Float64",
        "any_size": "String",
    }
    assert PASSWORD not in (path.parents[1] / "spool.json").read_text()
    cluster.ask("DROP TABLE orders; " + TABLE)


def test_a_crash_in_the_middle_of_a_read_is_waited_out(
    cluster: Cluster, start: Start, team: Path, tmp_path: Path
) -> None:
    wanted = cluster.ask(ASKED).splitlines()
    query = "SELECT * FROM orders WHERE name LIKE 'n%25' OR name IS NULL ORDER BY id"
    reading = start(READ, f"{cluster.url}?query={query}", tmp_path / "spool")
    until(reading, "rows read")
    cluster.crash()
    go_on(reading)
    line = until(reading, "is away")
    assert PASSWORD not in line
    cluster.start()
    rows = rows_of(team, Path(ended(reading).split()[-1]))[1:]
    assert len(rows) == ROWS
    assert rows == wanted


def test_what_waiting_cannot_mend_is_said_at_once(cluster: Cluster, start: Start, tmp_path: Path) -> None:
    cases = (
        (cluster.url.replace(PASSWORD, "wrong") + "?table=orders", "password authentication failed"),
        (cluster.url.replace("/postgres?", "/nothing?") + "?table=nothing", "has no table nothing"),
        (cluster.url + "?query=SELECT nothing", 'column "nothing" does not exist'),
        (cluster.url + "?query=DELETE FROM orders RETURNING id", "refused the work"),
        (cluster.url + "?query=SELECT nextval('numbers')", "read-only transaction"),
    )
    patient = {"BIKE_DEMAND_PIPELINE__PATIENCE_SECONDS": "600"}
    begun = [start(READ, url, tmp_path / f"spool-{place}", **patient) for place, (url, _) in enumerate(cases)]
    for place, (reading, (_, said)) in enumerate(zip(begun, cases, strict=True)):
        out = reading.communicate(timeout=120)[0]
        assert reading.returncode
        assert said in out
        assert "is away" not in out
        assert PASSWORD not in out.splitlines()[-1]
        assert not list((tmp_path / f"spool-{place}").iterdir())
    gone = cluster.url.replace(str(cluster.port), str(free_port()))
    reading = start(READ, f"{gone}?table=a", tmp_path / "spool", BIKE_DEMAND_PIPELINE__PATIENCE_SECONDS="1")
    assert "was away for 1 s" in reading.communicate(timeout=60)[0]


NOTES = [None, "", 'q"uo,te', "new\nline", "\\N", "\\.", "é", "NULL", "x", " "]


def publish_folder(team: Path, folder: Path, run: str) -> None:
    """Write a published run of five chunks."""
    script = """
import json, sys, polars as pl
from pathlib import Path
folder, run, files = Path(sys.argv[1]), sys.argv[2], []
(folder / "predictions").mkdir(parents=True)
for chunk in range(5):
    number = pl.int_range(chunk * 1000, chunk * 1000 + 1000, eager=True)
    text = pl.Series(json.loads(sys.argv[3]) * 100)
    table = pl.DataFrame({"prediction_id": run + "-" + number.cast(pl.String), "model_version": "v1",
        "source_file": "a", "source_row": number, "note": text, "open": number % 2 == 0,
        "at": pl.Series([1_700_000_000_000_000] * 1000).cast(pl.Datetime("us", "UTC")),
        "Staff %": number, "prediction": number / 3})
    name = f"predictions/predictions-{chunk:05d}.parquet"
    table.write_parquet(folder / name)
    files.append({"path": name, "rows": table.height, "sha256": ""})
(folder / "manifest.json").write_text(json.dumps({"run": run, "model_version": "v1", "files": files}))
"""
    subprocess.run([team, "-c", script, folder, run, json.dumps(NOTES)], check=True)


SCORES = "SELECT count(*), count(DISTINCT prediction_id), sum(prediction)::numeric(20, 3), count(note) FROM scores"


@pytest.mark.parametrize("what", ["crash", "kill"])
def test_a_sink_that_is_cut_off_shows_nothing_and_ends_exactly(
    cluster: Cluster, start: Start, team: Path, tmp_path: Path, what: str
) -> None:
    run = hashlib.sha256(what.encode()).hexdigest()[:16]
    publish_folder(team, tmp_path / run, run)
    cluster.ask("DROP TABLE IF EXISTS scores, scores_runs")
    publishing = start(PUBLISH, f"{cluster.url}?table=scores", tmp_path / run)
    until(publishing, "00001.parquet")
    assert cluster.ask(SCORES).startswith("0|0")
    assert cluster.ask("SELECT file FROM scores_runs") == "predictions/predictions-00000.parquet"
    if what == "crash":
        cluster.crash()
        go_on(publishing)
        assert PASSWORD not in until(publishing, "is away")
        cluster.start()
    else:
        publishing.kill()
        publishing.wait()
        publishing = start(PUBLISH, f"{cluster.url}?table=scores", tmp_path / run)
        until(publishing, "00002.parquet")
        assert cluster.ask(SCORES).startswith("0|0")
        go_on(publishing)
    out = ended(publishing)
    assert "00000.parquet" not in out
    assert cluster.ask(SCORES) == f"5000|5000|{sum(range(5000)) / 3:.3f}|4500"
    notes = "SELECT json_agg(note ORDER BY source_row) FROM scores WHERE source_row < 10"
    assert json.loads(cluster.ask(notes)) == NOTES
    kinds = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) FROM information_schema"
    assert cluster.ask(f"{kinds}.columns WHERE table_name = 'scores'") == (
        "prediction_id text, model_version text, source_file text, source_row bigint, note text, open boolean, "
        "at timestamp with time zone, Staff % bigint, prediction double precision"
    )
    assert cluster.ask("SELECT run, file, rows FROM scores_runs") == f"{run}||5000"
    assert cluster.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE 'scores%'") == "2"
    assert ended(start(PUBLISH, f"{cluster.url}?table=scores", tmp_path / run)) == ""


# S3


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
