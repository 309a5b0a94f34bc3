"""Sources and sinks against PostgreSQL, which crashes in the middle."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import free_port, needs
from transfers import NOTES, PUBLISH, READ, RUN, Start, ended, go_on, publish_folder, until

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

    def ask(self, question: str, database: str = "postgres") -> str:
        """Return what psql prints."""
        url = self.url.removesuffix("postgres") + database
        command = [str(self.programs / "psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", url, "-c", question]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        with (self.folder.parent / f"{self.folder.name}.out").open("a") as out:  # a pipe would stay open in the server
            subprocess.run(command, cwd=self.folder, stdout=out, stderr=out, check=True, **self.own)


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


ENVIRONMENT = {"PGPASSWORD": PASSWORD, "BIKE_DEMAND_PIPELINE__LOG_ROWS": "false"}
LOGGED = """
SELECT status, rows_published = (SELECT count(*) FROM predictions), rows_in = rows_published + rows_quarantined
FROM runs
"""
AWAY = r"error: postgresql://\S+ was away for 1 s \(.*\): bring it back, then `pipeline resume`"
CALL = "import sys; from bike_demand.commands import main; main()"


def written(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def champion(start: Start, tmp_path: Path) -> Path:
    """Make the example's model the champion; return a table of rows to score, a few of them bad."""
    rows = tmp_path / "rows.csv"
    for words in (
        "example train --rows 2000",
        "model import data/example/model.skops --sample data/example/sample.csv --target rentals",
        f"example rows --rows 400000 --bad 0.01 --output {rows}",
    ):
        ended(start(CALL, *words.split()))
    version = next((tmp_path / "project/data/models/versions").glob("[!.]*")).name
    ended(start(CALL, "model", "promote", version))
    return rows


@pytest.mark.slow
def test_a_run_whose_source_goes_away_ends_with_the_same_bytes(
    cluster: Cluster, start: Start, champion: Path, tmp_path: Path
) -> None:
    names = champion.open().readline().strip().split(",")
    cluster.ask("DROP TABLE IF EXISTS trips")
    cluster.ask(f"CREATE TABLE trips ({', '.join(f'{name} text' for name in names)}, id serial PRIMARY KEY)")
    cluster.ask(f"\\copy trips ({', '.join(names)}) FROM '{champion}' CSV HEADER")
    url = cluster.url.replace(f":{PASSWORD}@", "@") + "?table=trips"
    ended(start(CALL, "pipeline", "run", "--input", url, "--output", tmp_path / "whole", **ENVIRONMENT))
    wanted = written(tmp_path / "whole")
    assert sum("quarantine" in name for name in wanted) > 1

    # It comes back while the run waits.
    waiting = start(RUN, "read", "pipeline", "run", "--input", url, "--output", tmp_path / "waits", **ENVIRONMENT)
    until(waiting, "in the middle")
    cluster.crash()
    go_on(waiting)
    until(waiting, "is away")
    cluster.start()
    ended(waiting)
    assert written(tmp_path / "waits") == wanted

    # It is away for longer than the run waits.
    short, folder = ENVIRONMENT | {"BIKE_DEMAND_PIPELINE__PATIENCE_SECONDS": "1"}, tmp_path / "stops"
    stopped = start(RUN, "read", "pipeline", "run", "--input", url, "--output", folder, **short)
    until(stopped, "in the middle")
    cluster.crash()
    go_on(stopped)
    out = stopped.communicate(timeout=120)[0]
    assert stopped.returncode == 1
    assert re.fullmatch(AWAY, out.splitlines()[-1])
    assert "Traceback" not in out
    assert not [path for path in folder.iterdir() if not path.name.startswith(".")]
    cluster.start()
    ended(start(CALL, "pipeline", "resume", "--output", folder, **ENVIRONMENT))
    assert written(folder) == wanted


@pytest.mark.slow
def test_a_run_whose_log_goes_away_publishes_and_is_logged_once(
    cluster: Cluster, start: Start, champion: Path, tmp_path: Path
) -> None:
    cluster.ask("CREATE DATABASE log")
    url = cluster.url.removesuffix("/postgres").replace("postgresql", "postgresql+psycopg") + "/log"
    log = {"BIKE_DEMAND_STORE__URL": url}
    given = ("--input", champion.with_name("few.csv"), "--output", tmp_path / "out")
    with champion.open() as rows:
        given[1].write_text("".join(line for line, _ in zip(rows, range(5001), strict=False)))
    run = start(RUN, "score", "pipeline", "run", *given, **log)
    until(run, "in the middle")
    cluster.crash()
    go_on(run)
    out = run.communicate(timeout=120)[0]
    assert run.returncode == 1
    assert out.splitlines()[-1].startswith("error: the store postgresql+psycopg://")
    assert PASSWORD not in out
    assert "Traceback" not in out
    cluster.start()
    out = ended(start(CALL, "pipeline", "resume", "--output", tmp_path / "out", **log))
    assert "5,000 rows in" in out
    assert cluster.ask(LOGGED, "log") == "succeeded|t|t"


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
