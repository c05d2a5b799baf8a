"""What the command line prints."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from vicreg_platform.cli import commands
from vicreg_platform.cli.faults import print_faults
from vicreg_platform.client import ApiError

SPEC = """\
kind: pretrain
data:
  source: digits
training: {epochs: 3,
  epocs: 4}
evaluations:
  - protocol:
      name: knn
      k: 0
"""


def test_a_fault_is_printed_with_the_line_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    faults = [
        {"field": "training.epocs", "message": "unknown field"},
        {"field": "evaluations[0].protocol.k", "message": "too small"},
        {"field": "training.warmup_epochs", "message": "more than epochs"},
        {"field": "nowhere", "message": "missing"},
    ]
    output = io.StringIO()
    print_faults(
        Console(file=output, width=200), file, 0, ApiError({"errors": faults, "detail": ""})
    )
    lines = [int(line.split(".yaml:")[1].split(":")[0]) for line in output.getvalue().splitlines()]
    assert lines == [5, 9, 4, 1]


def test_the_schema_is_json() -> None:
    printed = CliRunner().invoke(commands.app, ["schema"]).stdout
    assert json.loads(printed)["title"] == "VICReg platform job spec"


def test_recipes_are_listed_and_printed() -> None:
    assert "digits" in CliRunner().invoke(commands.app, ["recipe"]).stdout.split()
    assert "kind: pretrain" in CliRunner().invoke(commands.app, ["recipe", "digits"]).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jobs", "--api", "http://127.0.0.1:9"], "is `vicreg up` running?"),
        (["submit", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
        (["recipe", "nothing"], "there is no recipe 'nothing'"),
    ],
)
def test_a_known_failure_is_one_message_and_no_traceback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["vicreg", *arguments])
    monkeypatch.setattr(commands, "errors", Console(stderr=True, width=300))
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
