"""What a project writes for those who run it is understood by the programs that read it."""

import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from support import CHOICES, needs

TARGETS = CHOICES["deployment_target"]


def run(project, python, *arguments, **variables):
    """Run a module of the shared environment inside a project."""
    environment = os.environ | {"PYTHONPATH": str(project / "src")} | variables
    return subprocess.run([python, *arguments], cwd=project, env=environment, capture_output=True, text=True)


def deployed(project):
    """Return the files of a project that say how it is run."""
    return [
        project / "Dockerfile",
        *(path for folder in ("deploy", "docs") for path in (project / folder).rglob("*") if path.is_file()),
    ]


def test_systemd_understands_the_units(default_project, tmp_path):
    needs("systemd-analyze")
    program = "/srv/bike-demand/.venv/bin/bike-demand"
    for path in (default_project / "deploy/systemd").glob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert "{{" not in text
        # systemd looks whether the program is there, and here it is not
        (tmp_path / path.name).write_text(text.replace(program, str(shutil.which("true"))), encoding="utf-8")
    units = sorted(tmp_path.glob("bike-demand-batch.*"))
    assert [unit.suffix for unit in units] == [".service", ".timer"]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ExecStart={program} pipeline run --new-only" in (
        default_project / "deploy/systemd/bike-demand-batch.service"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("target", TARGETS)
def test_variables_are_settings(render, environment, target):
    project = render({"deployment_target": target})
    ask = "from bike_demand.settings import Settings; print(Settings(root='.').model_dump_json())"
    settings = json.loads(run(project, environment, "-c", ask).stdout)
    named = set()
    for path in deployed(project):
        named |= set(re.findall(r"BIKE_DEMAND_([A-Z]+)__([A-Z_]+)", path.read_text(encoding="utf-8")))
    assert {("STORE", "URL"), ("SERVING", "HOST")} <= named
    for section, name in named:
        assert name.lower() in settings[section.lower()], f"{section}__{name} is no setting"


@pytest.mark.parametrize(("target", "mode"), [*zip(TARGETS, CHOICES["prediction_mode"], strict=True)])
def test_the_keys_that_it_tells_to_make_open_the_service(render, environment, target, mode, tmp_path):
    """What the image starts is refused before these commands, and not after them."""
    project = render({"deployment_target": target, "prediction_mode": mode})
    store = {"BIKE_DEMAND_STORE__URL": f"sqlite:///{tmp_path}/store.db"}
    told = re.findall(r"key create [^>\n`]*", (project / f"deploy/{target}/README.md").read_text(encoding="utf-8"))
    assert told
    image = dict(re.findall(r"(BIKE_DEMAND_SERVING__\w+)=(\S+)", (project / "Dockerfile").read_text(encoding="utf-8")))
    check = "from bike_demand.settings import load; from bike_demand.serving.security import check_exposure as c"
    check += "; settings = load(); c(settings, settings.serving.host)"
    refused = run(project, environment, "-c", check, **store, **image)
    assert "does not listen on 0.0.0.0 without keys" in refused.stderr
    for command in told:
        made = run(project, environment, "-m", "bike_demand", *shlex.split(command), **store)
        assert (made.returncode, made.stdout.count("\n")) == (0, 1), made.stderr
        assert ("predict" in command) <= (mode != "batch")
    opened = run(project, environment, "-c", check, **store, **image)
    assert opened.returncode == 0, opened.stderr


@pytest.mark.parametrize("mode", CHOICES["prediction_mode"])
def test_compose_has_the_secrets_that_its_services_use(render, mode):
    folder = render({"prediction_mode": mode}) / "deploy/docker-compose"
    compose = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    readme = (folder / "README.md").read_text(encoding="utf-8")
    used = {name for service in compose["services"].values() for name in service.get("secrets", ())}
    assert used == compose["secrets"].keys()
    for secret in compose["secrets"].values():
        assert f"> {secret['file'].removeprefix('./')}" in readme
    prometheus = yaml.safe_load(compose["configs"]["prometheus"]["content"])
    (job,) = prometheus["scrape_configs"]
    assert job["authorization"]["credentials_file"].removeprefix("/run/secrets/") in used
    override = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)[0])
    assert override["services"].keys() <= compose["services"].keys()
    assert set(override["services"]["api"]["secrets"]) == override["secrets"].keys()


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_kubernetes_builds_every_overlay(render, overlay):
    needs("kubectl")
    folder = render({"deployment_target": "kubernetes"}) / "deploy/kubernetes/overlays" / overlay
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    parts = {(part["kind"], part["metadata"]["name"]): part for part in yaml.safe_load_all(built.stdout)}
    pod = parts["Deployment", "bike-demand"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "bike-demand"}}]
    assert pod["terminationGracePeriodSeconds"] > 30


class Ready(BaseHTTPRequestHandler):
    """Answers as the service does when it is ready."""

    def do_GET(self):
        """Answer."""
        self.send_response(200 if self.path == "/health/ready" else 404)
        self.end_headers()

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.mark.parametrize("tls", [False, True])
def test_the_image_knows_when_the_service_is_ready(default_project, tmp_path, tls):
    needs("openssl", "python")
    (check,) = re.findall(r"^    CMD (python .*)$", (default_project / "Dockerfile").read_text(), re.MULTILINE)
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        variables = {"BIKE_DEMAND_SERVING__TLS_CERTIFICATE": str(tmp_path / "cert.pem")} if tls else {}
        if tls:
            make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=api.example.com -keyout key.pem -out cert.pem"
            subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = check.replace("8000", str(server.server_port))
        for command, wanted in ((asked, 0), (asked.replace("/ready", "/else"), 1)):
            done = subprocess.run(["sh", "-c", command], env=os.environ | variables, capture_output=True, text=True)
            assert done.returncode == wanted, done.stderr
        server.shutdown()
