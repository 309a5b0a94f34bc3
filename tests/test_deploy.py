"""What a project writes for those who run it is understood by the programs that read it."""

import shutil
import subprocess

from support import needs


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
