"""A spec is checked once, and every fault names the field that the user wrote."""

import json
from datetime import timedelta

import pytest
import yaml

from vicreg_platform.errors import InvalidSpec
from vicreg_platform.recipes import recipe_names, recipe_text
from vicreg_platform.specs import EvaluateSpec, PretrainSpec, VICReg, parse_spec, spec_schema
from vicreg_platform.specs.overrides import overridden

MINIMAL = {"kind": "pretrain", "data": {"source": "digits"}}


def faults_of(request: object) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as refusal:
        parse_spec(request)
    return {fault.field: fault.message for fault in refusal.value.faults}


def test_kind_and_data_are_enough() -> None:
    spec = parse_spec(MINIMAL)
    assert isinstance(spec, PretrainSpec)
    assert spec.method == VICReg(invariance=25, variance=25, covariance=1)
    assert spec.training.warmup_epochs == 10
    assert spec.name == "vicreg-resnet18"


def test_a_resolved_spec_resolves_to_itself() -> None:
    spec = parse_spec(MINIMAL)
    stored = json.loads(spec.model_dump_json())
    assert parse_spec(stored) == spec


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name: str) -> None:
    specs = [parse_spec(content) for content in yaml.safe_load_all(recipe_text(name))]
    assert len({spec.name for spec in specs}) == len(specs) > 0


def test_precision_follows_the_hardware() -> None:
    on_gpu = parse_spec(MINIMAL | {"resources": {"gpus_per_worker": 1}})
    assert isinstance(on_gpu, PretrainSpec)
    assert on_gpu.training.precision == "bf16"
    assert parse_spec(MINIMAL).training.precision == "fp32"  # type: ignore[union-attr]


def test_warm_up_fits_into_a_short_run() -> None:
    spec = parse_spec(MINIMAL | {"training": {"epochs": 5}})
    assert spec.training.warmup_epochs == 2  # type: ignore[union-attr]


def test_a_preset_fills_what_is_not_given() -> None:
    spec = parse_spec(MINIMAL | {"augmentation": {"preset": "cifar", "horizontal_flip": 0.0}})
    assert spec.augmentation.crop_scale == (0.2, 1.0)  # type: ignore[union-attr]
    assert spec.augmentation.horizontal_flip == 0.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"methd": {}}, "methd", "did you mean 'method'?"),
        ({"training": {"epocs": 3}}, "training.epocs", "did you mean 'epochs'?"),
        ({"data": {"source": "digits", "size": 3}}, "data.size", "did you mean 'image_size'?"),
        ({"data": {"source": "digit"}}, "data.source", "'digit' is not one of"),
        ({"data": {}}, "data.source", "required"),
        ({"training": {"epochs": 0}}, "training.epochs", "greater than or equal to 1"),
        ({"training": {"batch_size": "many"}}, "training.batch_size", "valid integer"),
        ({"method": {"variance": -1}}, "method.variance", "greater than or equal to 0"),
        ({"method": {"variance": float("nan")}}, "method.variance", "finite"),
        ({"expander": {"layers": []}}, "expander.layers", "at least 1"),
        ({"name": "a\nb"}, "name", "pattern"),
        ({"training": []}, "training", "mapping"),
        (
            {"training": {"batch_size": 5}, "resources": {"workers": 2}},
            "training.batch_size",
            "do not divide evenly among 2 workers",
        ),
        (
            {"training": {"batch_size": 4}, "resources": {"workers": 4}},
            "training.batch_size",
            "BatchNorm needs 2",
        ),
        (
            {"training": {"epochs": 3, "warmup_epochs": 4}},
            "training.warmup_epochs",
            "more than training.epochs",
        ),
        ({"training": {"precision": "fp16"}}, "training.precision", "needs GPUs"),
        ({"data": {"source": "digits", "image_size": 16}}, "data.image_size", "stem cifar"),
        ({"evaluations": [{"protocol": {"name": "nn"}}]}, "evaluations[0].protocol.name", "knn"),
        ({"augmentation": {"crop_scale": [1.0, 0.5]}}, "augmentation", "smallest, largest"),
    ],
)
def test_a_fault_is_named_with_its_field(
    change: dict[str, object], field: str, message: str
) -> None:
    faults = faults_of(MINIMAL | change)
    assert message in faults[field]


@pytest.mark.parametrize("path", ["/etc", "../elsewhere", "a/../../b", ""])
def test_a_path_stays_under_the_data_root(path: str) -> None:
    assert "data.path" in faults_of(
        {"kind": "pretrain", "data": {"source": "image_folder", "path": path}}
    )


def test_every_fault_comes_in_one_answer() -> None:
    faults = faults_of(
        {
            "kind": "pretrain",
            "data": {"source": "image_folder", "path": "../up"},
            "training": {"batch_size": 5, "epocs": 1},
            "resources": {"workers": 2},
        }
    )
    assert set(faults) == {"data.path", "training.epocs", "training.batch_size"}


@pytest.mark.parametrize("request_", [None, 3, "text", [], {}, {"kind": "sweeep"}])
def test_what_is_no_spec_is_refused(request_: object) -> None:
    assert faults_of(request_)


def test_an_evaluation_takes_the_test_split_beside_the_training_images() -> None:
    spec = parse_spec(
        {
            "kind": "pretrain",
            "data": {"source": "image_folder", "path": "cifar/train", "image_size": 32},
            "evaluations": [{"protocol": {"name": "knn"}}],
        }
    )
    assert isinstance(spec, PretrainSpec)
    (evaluation,) = spec.follow_ups("abc")
    assert evaluation.data.test.path == "cifar/test"  # type: ignore[union-attr]
    assert evaluation.encoder.job == "abc"  # type: ignore[union-attr]


def test_test_images_that_cannot_be_guessed_are_asked_for() -> None:
    faults = faults_of(
        {
            "kind": "pretrain",
            "data": {"source": "image_folder", "path": "photos"},
            "evaluations": [{"protocol": {"name": "knn"}}],
        }
    )
    assert "required" in faults["evaluations[0].data"]


@pytest.mark.parametrize(
    "encoder",
    [
        {"job": "a1"},
        {"run": "a1"},
        {"model": "models:/name/1"},
        {"path": "weights.pth", "backbone": {"name": "resnet50"}},
        {"untrained": {"name": "resnet18"}},
    ],
)
def test_an_encoder_comes_from_one_place(encoder: dict[str, object]) -> None:
    digits = {"source": "digits"}
    spec = parse_spec(
        {
            "kind": "evaluate",
            "encoder": encoder,
            "protocol": {"name": "knn"},
            "data": {"train": digits, "test": digits | {"split": "test"}},
        }
    )
    assert isinstance(spec, EvaluateSpec)
    assert spec.name == "knn"


@pytest.mark.parametrize("encoder", [{"jb": 1}, {}, "01a209db7de515276b09", 3, None, []])
def test_an_encoder_from_nowhere_is_refused(encoder: object) -> None:
    faults = faults_of(
        {
            "kind": "evaluate",
            "encoder": encoder,
            "protocol": {"name": "knn"},
            "data": {"train": {"source": "digits"}, "test": {"source": "digits"}},
        }
    )
    assert "job, run, model, path, untrained" in faults["encoder"]


def test_the_schema_names_both_kinds() -> None:
    text = json.dumps(spec_schema())
    assert "PretrainSpec" in text
    assert "EvaluateSpec" in text


def test_overrides_go_by_nested_and_by_dotted_names() -> None:
    spec = {"training": {"epochs": 1, "seed": 2}, "labels": {"a": "b"}}
    changed = overridden(
        spec, {"training.epochs": 5, "training": {"seed": 3}, "method.variance": 1}
    )
    assert changed == {
        "training": {"epochs": 5, "seed": 3},
        "labels": {"a": "b"},
        "method": {"variance": 1},
    }
    assert spec["training"] == {"epochs": 1, "seed": 2}


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_a_moment_that_is_none_in_utc_is_refused(moment: str) -> None:
    with pytest.raises(InvalidSpec, match="out of range"):
        parse_spec({"kind": "pretrain", "data": {"source": "digits"}, "start_after": moment})


def test_a_deadline_is_later_than_the_start() -> None:
    times = {"start_after": "2027-01-01T00:00:00Z", "deadline": "2027-01-01T00:00:00+01:00"}
    with pytest.raises(InvalidSpec, match="later than start_after") as refusal:
        parse_spec({"kind": "pretrain", "data": {"source": "digits"}} | times)
    assert [fault.field for fault in refusal.value.faults] == ["deadline"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"start_after": 20301224}, "start_after"),
        ({"start_after": "20301224"}, "start_after"),
        ({"deadline": 1.9e9}, "deadline"),
        ({"max_runtime": "12:00"}, "max_runtime"),
        ({"max_runtime": "1 day"}, "max_runtime"),
        ({"max_runtime": "90"}, "max_runtime"),
        ({"labels": {"a//b": "x"}}, "labels.a//b"),
        ({"labels": {"a/..": "x"}}, "labels.a/.."),
        ({"labels": {"a/./b": "x"}}, "labels.a/./b"),
        ({"labels": {"a/": "x"}}, "labels.a/"),
    ],
)
def test_a_value_that_two_would_read_differently_is_refused(
    change: dict[str, object], field: str
) -> None:
    assert [name.partition(".[key]")[0] for name in faults_of(MINIMAL | change)] == [field]


@pytest.mark.parametrize(
    ("written", "seconds"), [(90, 90), ("PT1M30S", 90), (1.5, 1.5), ("P1D", 86400)]
)
def test_a_duration_is_seconds_or_iso_8601(written: object, seconds: float) -> None:
    spec = parse_spec(MINIMAL | {"max_runtime": written})
    assert spec.max_runtime == timedelta(seconds=seconds)


@pytest.mark.parametrize("epochs", [5, 5.0, "5"])
def test_a_default_follows_a_number_however_it_is_written(epochs: object) -> None:
    spec = parse_spec(MINIMAL | {"training": {"epochs": epochs}})
    assert isinstance(spec, PretrainSpec)
    assert (spec.training.epochs, spec.training.warmup_epochs) == (5, 2)


@pytest.mark.parametrize("gpus", [0, 0.0])
def test_the_precision_without_gpus_is_fp32_however_it_is_written(gpus: object) -> None:
    spec = parse_spec(MINIMAL | {"resources": {"gpus_per_worker": gpus}})
    assert isinstance(spec, PretrainSpec)
    assert spec.training.precision == "fp32"


def test_a_dotted_name_of_thousands_of_parts_names_no_field() -> None:
    changed = overridden(MINIMAL, {".".join("a" * 2000): 1})
    (field,) = faults_of(changed)
    assert field == "a"
