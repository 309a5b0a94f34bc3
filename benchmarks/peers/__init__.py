"""The servers that are compared: how each is installed, started and asked."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from common import ROOT, TOOLS, free_port

PACKAGE, SLUG = "bike_demand", "bike-demand"
HERE, BENCH = Path(__file__).parent, ROOT / "build/bench"
FOLDER = BENCH / "serving"
PROJECT, MODEL = FOLDER / SLUG, FOLDER / SLUG / "data/example/model.skops"
STORE = PROJECT / "data/serving.db"
CONNECTIONS = 32
PREFIX = f"{PACKAGE.upper()}_"
SERVED = ("uvicorn", "uvloop", "httptools")
OURS, NAIVE = "this project", "FastAPI + scikit-learn as most people write it"

# Two registries: in the second the model is kept as it was trained, because no conversion is that exact.
CONVERTED = {"MODELS__REGISTRY": "data/models"}
ORIGINAL = {"MODELS__REGISTRY": "data/originals", "MODELS__PARITY_TOLERANCE": "1e-15"}

# One request in a hundred is traced, and sent to who takes traces here.
TRACED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"

Rows = list[dict[str, Any]]
Command = list[str | Path]


@dataclass(frozen=True)
class Way:
    """One way to ask: where, how rows become a body, how an answer becomes predictions, and which rows these are."""

    path: str
    body: Callable[[Rows], object]
    read: Callable[[Any], Any]
    rows: str = "columns"  # those of the model, or "native": as this project takes them


@dataclass(frozen=True)
class Load:
    """What is asked of a server for some seconds, with pauses (ms); an optional one is left out if it is refused."""

    name: str
    way: Way
    connections: int = CONNECTIONS
    rows: int = 1
    pause: int = 0
    optional: bool = False


@dataclass(frozen=True)
class Peer:
    """A server.

    Attributes:
        what: its name for people.
        command: what starts it on a port.
        loads: what is asked of it.
        libraries: whose versions are written beside it.
        pins: the file that says them.
        goal: how many times its requests a second this project is to answer.
        environment: beside that of all.
        pinned: whether it has one core, and the load another.
    """

    what: str
    command: Callable[[int], Command]
    loads: tuple[Load, ...]
    libraries: tuple[str, ...] = ()
    pins: Path = PROJECT / "requirements.lock"
    goal: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    pinned: bool = True

    def versions(self) -> str:
        """Return the versions of its libraries."""
        text = self.pins.read_text(encoding="utf-8")
        found = {name: re.search(rf"^{name}==([^\s;]+)", text, re.MULTILINE) for name in self.libraries}
        return ", ".join(f"{name} {match[1]}" for name, match in found.items() if match)


def as_v2(rows: Rows) -> dict[str, Any]:
    """Return rows as tensors, one a column."""
    kinds = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        "inputs": [
            {"name": name, "shape": [len(data), 1], "datatype": kinds[type(data[0])], "data": data}
            for name, data in columns.items()
        ]
    }


def from_v2(answer: Any) -> Any:
    """Return the predictions of a v2 answer."""
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    return outputs.get("prediction") or next(iter(outputs.values()))


def as_split(rows: Rows) -> dict[str, Any]:
    """Return rows as MLflow's table."""
    return {"dataframe_split": {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}}


def from_mlflow(answer: Any) -> Any:
    """Return the predictions of an answer that has a list of them: plain, or one record each."""
    return [one["prediction"] if isinstance(one, dict) else one for one in answer["predictions"]]


ROW = Way("/v1/predict", lambda rows: {"row": rows[0]}, lambda answer: [answer["prediction"]], "native")
TABLE = Way("/v1/predict", lambda rows: {"rows": rows}, from_mlflow, "native")
PLAIN = Way("/predict", lambda rows: rows[0], lambda answer: [answer["prediction"]])
FIXED = Way("/", lambda rows: {"row": rows[0]}, lambda answer: None, "native")
SINGLE = Load("single row", ROW)
MANY = Load("single row, 64 connections", ROW, 64)


def serve(python: Path, *options: str) -> Callable[[int], Command]:
    """Return what starts this project's service."""
    return lambda port: [python, "-m", PACKAGE, "serve", "--port", str(port), *options]


def bare(python: Path) -> Callable[[int], Command]:
    """Return what starts it without log and metrics."""
    return lambda port: [python, HERE / "bare.py", "serve", "--port", str(port)]


def project(settings: Mapping[str, str] = MappingProxyType({}), store: Path = STORE) -> dict[str, str]:
    """Return the environment for this project, with settings by the names that they have there after the prefix."""
    values = {"STORE__URL": f"sqlite:///{store}", **settings}
    return {"PYTHONPATH": str(PROJECT / "src")} | {f"{PREFIX}{name}": value for name, value in values.items()}


def ours(python: Path, collector: int = 0) -> dict[str, Peer]:
    """Return the service, as it comes and otherwise; traces go to a port of this machine."""
    loads = (
        SINGLE,
        Load("one connection", ROW, 1),
        Load("1,000 rows, with pauses", TABLE, 1, 1000, pause=100),
        Load("1,000 rows, without", TABLE, 1, 1000),
        Load("protocol v2", Way(f"/v2/models/{SLUG}/infer", as_v2, from_v2, "native"), optional=True),
        Load("MLflow's protocol", Way("/invocations", as_split, from_mlflow, "native"), optional=True),
    )
    one = serve(python)
    found = {
        "ours": Peer(OURS, one, loads, ("onnxruntime", *SERVED), environment=project()),
        "original": Peer("scikit-learn fallback", one, (MANY,), environment=project(ORIGINAL)),
        "one": Peer("one worker", one, (SINGLE,), environment=project(), pinned=False),
        "two": Peer("two workers", serve(python, "--workers", "2"), (SINGLE,), environment=project(), pinned=False),
    }
    traced = TRACED | {COLLECTOR: f"http://127.0.0.1:{collector}"}
    found["bare"] = Peer("no log, metrics, traces", bare(python), (SINGLE,), environment=project())
    found["traced"] = Peer("log, metrics, traces", one, (SINGLE,), environment=project() | traced)
    return found


def others(python: Path, bundle: Path, size: int) -> dict[str, Peer]:
    """Return the servers beside which the service is measured; they get the model's columns.

    Args:
        python: of the environment of the project.
        bundle: the folder of its champion.
        size: bytes of an answer of the service.
    """
    model, sklearn, mlflow, v2 = {"MODEL": str(MODEL)}, "scikit-learn", _tool("mlflow"), "/v2/models/rentals/infer"
    pandas = Way(v2, lambda rows: as_v2(rows) | {"parameters": {"content_type": "pd"}}, from_v2)
    invocations = Way("/invocations", as_split, from_mlflow)
    batched = Way("/predict", lambda rows: {"rows": rows}, lambda answer: answer)
    bento: Command = [_tool("bentoml"), "serve", "bento:Rentals", "--working-dir", HERE, "--host", "127.0.0.1"]
    mlflow_serve: Command = [mlflow, "models", "serve", "--env-manager", "local", "--model-uri", FOLDER / "mlflow"]
    return {
        "mlflow": Peer(
            "MLflow, scikit-learn flavour",
            lambda port: [*mlflow_serve, "--host", "127.0.0.1", "--port", str(port)],
            (Load("single row", invocations),),
            ("mlflow", sklearn, "uvicorn"),
            HERE / "mlflow.txt",
            100,
            {"PATH": f"{mlflow.parent}{os.pathsep}{os.environ['PATH']}"},
        ),
        "mlserver": Peer(
            "MLServer, scikit-learn runtime, no second process",
            mlserver,
            (Load("single row", pandas),),
            ("mlserver", sklearn, "uvicorn", "uvloop"),
            HERE / "mlserver.txt",
        ),
        "fastapi-sklearn": Peer(
            NAIVE,
            uvicorn(_tool("fastapi-sklearn", "python"), "fastapi_sklearn"),
            (Load("single row", PLAIN), Load("single row, 64 connections", PLAIN, 64)),
            ("fastapi", sklearn, *SERVED),
            HERE / "fastapi-sklearn.txt",
            50,
            model,
        ),
        "bentoml": Peer(
            "BentoML, adaptive batching",
            lambda port: [*bento, "--port", str(port)],
            (Load("single row", batched),),
            ("bentoml", sklearn, "uvicorn"),
            HERE / "bentoml.txt",
            20,
            model,
        ),
        "fastapi-onnx": Peer(
            "FastAPI + onnxruntime + pydantic",
            uvicorn(_tool("fastapi-onnx", "python"), "fastapi_onnx"),
            (Load("single row", PLAIN),),
            ("fastapi", "onnxruntime", *SERVED),
            HERE / "fastapi-onnx.txt",
            2,
            {"MODEL": str(bundle)},
        ),
        "static": Peer(
            "a fixed answer of the same size by the same server",
            uvicorn(python, "static", "--lifespan", "off", "--no-server-header"),
            (Load("single row", FIXED),),
            SERVED,
            goal=0.45,
            environment={"BODY": '"' + "x" * (size - 2) + '"'},
        ),
    }


def _tool(peer: str, name: str = "") -> Path:
    return BENCH / peer / "bin" / (name or peer)


def uvicorn(python: Path, module: str, *options: str) -> Callable[[int], Command]:
    """Return what starts one of the applications here, without a line of log for each request."""
    command: Command = [python, "-m", "uvicorn", f"{module}:app", "--app-dir", HERE, *options]
    return lambda port: [*command, "--no-access-log", "--log-level", "warning", "--port", str(port)]


def mlserver(port: int) -> Command:
    """Return what starts MLServer; in one process, because it has one core."""
    settings: dict[str, object] = {"HOST": "127.0.0.1", "HTTP_PORT": port, "DEBUG": "false", "PARALLEL_WORKERS": 0}
    settings |= {"GRPC_PORT": free_port(), "METRICS_PORT": free_port(), "MODEL_NAME": "rentals"}
    settings |= {"MODEL_URI": FOLDER / "model.joblib", "MODEL_IMPLEMENTATION": "mlserver_sklearn.SKLearnModel"}
    return ["env", *(f"MLSERVER_{name}={value}" for name, value in settings.items()), _tool("mlserver"), "start", HERE]


def install(name: str) -> str:
    """Make the environment of a peer as its file of pins says; return why that is impossible, or nothing."""
    pins, folder = HERE / f"{name}.txt", BENCH / name
    done = folder / pins.name
    if not pins.exists() or (done.exists() and done.read_bytes() == pins.read_bytes()):
        return ""
    print(f"Installing {name} into {folder.relative_to(ROOT)}", flush=True)
    commands: Sequence[Command] = (
        [TOOLS / "uv", "venv", "--quiet", "--clear", "--python", sys.executable, folder],
        [TOOLS / "uv", "pip", "sync", "--quiet", "--compile-bytecode", "--python", folder / "bin/python", pins],
    )
    for command in commands:
        tried = subprocess.run(command, capture_output=True, text=True)
        if tried.returncode:
            return tried.stderr.strip().replace("\n", " ")[:300]
    shutil.copy(pins, done)
    return ""
