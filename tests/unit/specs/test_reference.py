"""The reference names what there is."""

import re
from pathlib import Path

from pydantic import BaseModel

from vicreg_platform.schedules.spec import ScheduleSpec
from vicreg_platform.specs import EvaluateSpec, PretrainSpec, SweepSpec
from vicreg_platform.specs.base import _models
from vicreg_platform.specs.job import JobSpec

ROOT = Path(__file__).parents[3]
ELSEWHERE = ("evaluations[].protocol.", "evaluations[].data.", "data.train.", "data.test.",
             "encoder.backbone.", "encoder.untrained.", "branches.backbone.")  # fmt: skip


def fields_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    names = set()
    for name, field in model.model_fields.items():
        names.add(f"{prefix}{name}")
        inner = _models(field.annotation)
        separator = "[]." if name == "evaluations" else "."
        for each in inner:
            names |= fields_of(each, f"{prefix}{name}{separator}")
    return {name for name in names if not name.startswith(ELSEWHERE)}


def test_the_reference_lists_every_field_and_no_other() -> None:
    text = (ROOT / "docs" / "spec.md").read_text()
    sections = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    told = {
        heading: set(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)) - {"field"}
        for heading, section in zip(
            sections[::2], (each.split("\n### ")[0] for each in sections[1::2]), strict=True
        )
    }
    shared = fields_of(JobSpec)
    own = shared - {"kind", "name"}
    assert told == {
        "Every kind of job": shared,
        "`kind: pretrain`": fields_of(PretrainSpec) - own,
        "`kind: evaluate`": fields_of(EvaluateSpec) - own,
        "`kind: sweep`": fields_of(SweepSpec) - own,
        "Schedules": fields_of(ScheduleSpec),
    }
