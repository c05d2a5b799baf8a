"""The reference names what there is."""

import re
from pathlib import Path

from pydantic import BaseModel

from vicreg_platform.specs import EvaluateSpec, PretrainSpec, SweepSpec
from vicreg_platform.specs.base import _models

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
    _, pretrain, evaluate, sweep = re.split(r"^## `kind: \w+`$", text, flags=re.MULTILINE)
    pretrain = pretrain.split("### Augmentation presets")[0]
    for section, model in (
        (pretrain, PretrainSpec),
        (evaluate, EvaluateSpec),
        (sweep, SweepSpec),
    ):
        assert set(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)) - {"field"} == fields_of(
            model
        )
