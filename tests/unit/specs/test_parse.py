"""A spec is checked once, and every fault names the field that the user wrote."""

import json
from datetime import timedelta
from typing import Any

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
        ({"augmentation": {"crop_scale": [0.5]}}, "augmentation.crop_scale[1]", "required"),
    ],
)
def test_a_fault_is_named_with_its_field(
    change: dict[str, object], field: str, message: str
) -> None:
    faults = faults_of(MINIMAL | change)
    assert message in faults[field]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([[1, 16], [5, 32]], "must begin with epoch 0, not 1"),
        ([[0, 16], [5, 24], [5, 32]], "must ascend: 5 comes after 5"),
        ([[0, 16], [100, 32]], "epoch 100 is not trained: the last one of 100 is 99"),
        ([[0, 32], [5, 16]], "must end with data.image_size (32)"),
    ],
)
def test_sizes_ascend_to_the_one_that_is_measured(sizes: object, message: str) -> None:
    cifar = {"backbone": {"stem": "cifar"}}
    assert message in faults_of(MINIMAL | cifar | {"training": {"sizes": sizes}})["training.sizes"]


def test_sizes_are_those_of_images_that_the_encoder_takes() -> None:
    sizes = {"training": {"sizes": [[0, 16], [5, 32]]}}
    assert "stem cifar" in faults_of(MINIMAL | sizes)["training.sizes"]
    transformer = {"backbone": {"name": "vit_s"}}
    assert "images of one size" in faults_of(MINIMAL | sizes | transformer)["training.sizes"]
    second = {"weights": "separate", "backbone": {"name": "vit_s"}}
    other = {"backbone": {"stem": "cifar"}, "branches": second}
    assert "vit_s takes" in faults_of(MINIMAL | sizes | other)["training.sizes"]
    bounds = faults_of(MINIMAL | {"training": {"sizes": [[-1, 4], [3, 2048], [3]]}})
    assert list(bounds) == [
        "training.sizes[0][0]", "training.sizes[0][1]", "training.sizes[1][1]",
        "training.sizes[2][1]",
    ]  # fmt: skip


SEVERAL = {
    "data": {"source": "image_folder", "path": "photos"},
    "augmentation": {"views": {"global": 2, "local": 6, "local_size": 96}},
}


def test_several_views_are_written_as_they_are_read() -> None:
    spec = parse_spec(MINIMAL | SEVERAL)
    views = spec.model_dump(mode="json")["augmentation"]["views"]
    assert views == {"global": 2, "local": 6, "local_size": 96, "local_scale": None}
    assert parse_spec(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("augmentation", "scale"),
    [
        ({"crop_scale": [0.14, 1.0]}, (0.05, 0.14)),  # SwAV's
        ({"crop_scale": [0.4, 1.0]}, (0.05, 0.4)),  # DINO's
        ({"preset": "vicreg"}, (0.05, 0.14)),
        ({"views": {"local_scale": [0.1, 0.3]}}, (0.1, 0.3)),
    ],
)
def test_local_views_cover_what_global_ones_do_not(
    augmentation: dict[str, object], scale: tuple[float, float]
) -> None:
    spec = parse_spec(MINIMAL | {"augmentation": augmentation})
    assert isinstance(spec, PretrainSpec)
    assert spec.augmentation.scale(0) == spec.augmentation.scale(1) == spec.augmentation.crop_scale
    assert spec.augmentation.scale(2) == spec.augmentation.scale(7) == scale


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"method": {"name": "simclr"}}, "local", "needs method vicreg or vicregl, not simclr"),
        ({"method": {"name": "byol"}}, "local", "needs method vicreg or vicregl, not byol"),
        ({"branches": {"weights": "separate"}}, "local", "weights shared"),
        ({"branches": {"stop_gradient": True}}, "local", "without stop_gradient"),
        ({"branches": {"predictor": {}}}, "local", "without stop_gradient and predictor"),
        ({"data": {"source": "digits"}}, "local_size", "at most 32, as a global view is (data."),
        ({"training": {"sizes": [[0, 64], [5, 224]]}}, "local_size", "at most 64"),
        ({"backbone": {"name": "vit_s"}}, "local_size", "images of one size: here 224"),
        ({"augmentation": {"views": {"local": 1, "local_size": 16}}}, "local_size", "stem cifar"),
        ({"augmentation": {"views": {"local": 17}}}, "local", "less than or equal to 16"),
        ({"augmentation": {"views": {"global": 3}}}, "global", "should be 2"),
        ({"augmentation": {"views": {"globl": 2}}}, "globl", "did you mean 'global'?"),
    ],
)
def test_local_views_that_cannot_be_trained_are_refused(
    change: dict[str, object], field: str, message: str
) -> None:
    faults = faults_of(MINIMAL | SEVERAL | change)
    assert list(faults) == [f"augmentation.views.{field}"]
    assert message in faults[f"augmentation.views.{field}"]


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
        {"model": "models:/name@candidate"},
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


def evaluation(protocol: dict[str, object], workers: int) -> dict[str, object]:
    digits = {"source": "digits"}
    return {
        "kind": "evaluate",
        "encoder": {"job": "a"},
        "protocol": protocol,
        "data": {"train": digits, "test": digits | {"split": "test"}},
        "resources": {"workers": workers, "cpus": 3},
    }


@pytest.mark.parametrize(
    "protocol",
    [
        {"name": "knn"},
        {"name": "linear"},
        {"name": "svm"},
        {"name": "few_shot"},
        {"name": "retrieval"},
        {"name": "features"},
    ],
)
def test_several_workers_compute_the_representations(protocol: dict[str, object]) -> None:
    spec = parse_spec(evaluation(protocol, workers=4))
    assert str(spec.needs()) == "4 × 3 CPUs"
    assert not spec.runs_in_driver(spec.needs().count)


@pytest.mark.parametrize(
    ("protocol", "named"),
    [
        ({"name": "linear", "augment": True}, "linear with augment"),
        ({"name": "finetune"}, "finetune"),
    ],
)
def test_a_protocol_that_trains_a_network_has_one_worker(
    protocol: dict[str, object], named: str
) -> None:
    fault = faults_of(evaluation(protocol, workers=2))["resources.workers"]
    assert fault.startswith(f"protocol {named} trains in one process: use 1; knn, ")
    assert parse_spec(evaluation(protocol, workers=1)).needs().count == 1


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


@pytest.mark.parametrize(
    "address",
    ["name/1", "models:/name", "models:/name@", "models:/@a", "models:/a/1/2", "models:/a@b@"],
)
def test_an_address_of_no_model_is_refused(address: str) -> None:
    spec = evaluation({"name": "knn"}, workers=1) | {"encoder": {"model": address}}
    assert "pattern" in faults_of(spec)["encoder.model"]


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


def elastic(least: int, most: int, batch_size: int = 256) -> dict[str, Any]:
    return MINIMAL | {
        "training": {"batch_size": batch_size},
        "resources": {"workers": {"min": least, "max": most}},
    }


def test_an_elastic_run_has_the_sizes_that_divide_its_batch() -> None:
    spec = parse_spec(elastic(2, 9, batch_size=24))
    assert spec.elastic_sizes == (2, 3, 4, 6, 8)
    assert spec.needs().count == 8  # a quota counts what it may take
    assert parse_spec(MINIMAL).elastic_sizes == ()


def test_where_no_size_divides_the_batch_those_that_would_do_are_named() -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(elastic(5, 7, batch_size=16))
    assert str(refused.value) == (
        "resources.workers: no number from 5 to 7 divides 16 images evenly: 1, 2, 4, 8 would do"
    )


@pytest.mark.parametrize(
    ("workers", "fields"),
    [
        ({"min": 4, "max": 2}, ["resources.workers.min"]),
        ({"min": 0, "max": 2}, ["resources.workers.min"]),
        ({"min": 1}, ["resources.workers.max"]),
        ({"min": 1, "max": 2, "step": 1}, ["resources.workers.step"]),
        ("many", ["resources.workers"]),
        (0, ["resources.workers"]),
    ],
)
def test_a_number_of_workers_that_is_none_is_refused(workers: object, fields: list[str]) -> None:
    assert list(faults_of(MINIMAL | {"resources": {"workers": workers}})) == fields


def test_a_backbone_is_one_of_the_platforms_or_of_a_library() -> None:
    for name in ("timm/convnext_tiny", "torchvision/regnet_y_400mf", "resnet50"):
        assert parse_spec(MINIMAL | {"backbone": {"name": name}}).backbone.name == name  # type: ignore[union-attr]
    faults = faults_of(MINIMAL | {"backbone": {"name": "resnet5"}})
    assert "did you mean 'resnet50'" in faults["backbone.name"]
    assert "timm/convnext_tiny" in faults["backbone.name"]
    assert (
        "stochastic depth"
        in faults_of(MINIMAL | {"backbone": {"drop_path": 0.1}})["backbone.drop_path"]
    )
    stem = {"name": "timm/resnet18", "stem": "cifar"}
    assert "backbone.stem" in faults_of(MINIMAL | {"backbone": stem})


@pytest.mark.parametrize(
    "init",
    [
        {"job": "a" * 20},
        {"run": "0" * 32},
        {"model": "models:/vicreg/1"},
        {"path": "weights/resnet50.pth", "strict": False},
        {"torchvision": "ResNet50_Weights.IMAGENET1K_V2"},
        {"timm": "resnet50.a1_in1k"},
        {"huggingface": "timm/resnet50.a1_in1k"},
    ],
)
def test_a_training_starts_from_weights_of_one_place(init: dict[str, object]) -> None:
    spec = parse_spec(MINIMAL | {"init": init, "training": {"freeze_epochs": 10}})
    assert isinstance(spec, PretrainSpec)
    assert spec.init is not None
    assert spec.init.model_dump() == {"strict": True} | init
    assert spec.encoder_job == init.get("job")
    assert spec.encoder_path == init.get("path")


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"init": {}}, "init", "must name the init by one of: job, run, model"),
        ({"init": {"path": "../weights.pth"}}, "init.path", "cannot leave it"),
        ({"init": {"torchvision": "resnet50"}}, "init.torchvision", "pattern"),
        ({"training": {"freeze_epochs": 5}}, "training.freeze_epochs", "weights are random"),
        (
            {"init": {"run": "0"}, "training": {"epochs": 5, "freeze_epochs": 5}},
            "training.freeze_epochs",
            "less than 5",
        ),
        ({"optimizer": {"layer_decay": 0}}, "optimizer.layer_decay", "greater than 0"),
    ],
)
def test_a_start_that_cannot_be_is_refused(
    changes: dict[str, object], field: str, message: str
) -> None:
    assert message in faults_of(MINIMAL | changes)[field]


def test_an_extension_is_longer_than_what_it_extends() -> None:
    extends = {"job": "before", "epochs": 100, "schedule": "anneal"}
    assert list(faults_of(MINIMAL | {"extends": extends})) == ["training.epochs"]
    rewarm = {
        "extends": extends | {"schedule": "rewarm"},
        "training": {"epochs": 105, "warmup_epochs": 10},
    }
    assert list(faults_of(MINIMAL | rewarm)) == ["training.warmup_epochs"]


def test_only_evaluations_are_not_preemptible_by_default() -> None:
    assert parse_spec(MINIMAL).preemptible
    evaluation = {
        "kind": "evaluate",
        "encoder": {"job": "a"},
        "protocol": {"name": "knn"},
        "data": {"train": {"source": "digits"}, "test": {"source": "digits", "split": "test"}},
    }
    assert not parse_spec(evaluation).preemptible


@pytest.mark.parametrize(
    ("base", "field"),
    [
        ({"resources": {"workers": {"min": 1, "max": 2}}}, "base.resources.workers"),
        ({"extends": {"job": "a", "epochs": 1, "schedule": "anneal"}}, "base.extends"),
        ({"preemptible": False}, "base.preemptible"),
    ],
)
def test_a_trial_is_neither_elastic_nor_an_extension(base: dict[str, object], field: str) -> None:
    sweep = {
        "kind": "sweep",
        "base": {"data": {"source": "digits"}} | base,
        "space": {"optimizer.base_lr": {"uniform": [0.1, 1.0]}},
    }
    assert list(faults_of(sweep)) == [field]


def test_a_suite_is_the_papers_evaluations() -> None:
    spec = parse_spec(MINIMAL | {"name": "run", "evaluations": [{"suite": "paper", "seeds": 2}]})
    assert isinstance(spec, PretrainSpec)
    made = {each.curve: each for each in spec.follow_ups("a" * 20)}
    assert list(made) == ["linear", "finetune-1", "finetune-10", "knn-20", "knn-200"]
    assert next(each.name for each in made.values()) == "run-linear"
    linear = made["linear"]
    assert (linear.data.interpolation, linear.data.train.share, linear.seeds) == ("bilinear", 1, 2)
    assert linear.protocol.model_dump()["learning_rates"] == (0.02,)
    # README of facebookresearch/vicreg: 1 % and 10 % of the labels.
    for name, share, rates in (("1", 0.01, (0.03, 0.08)), ("10", 0.1, (0.01, 0.1))):
        part = made[f"finetune-{name}"]
        fields = part.protocol.model_dump()
        assert (fields["backbone_lr"], fields["head_lr"]) == rates
        assert (part.data.train.share, part.data.test.share) == (share, 1)
    # Nearest neighbours draw nothing.
    assert (made["knn-20"].seeds, made["knn-20"].data.interpolation) == (1, "bicubic")


def test_an_encoder_is_evaluated_at_epochs_and_at_the_end() -> None:
    knn = {"protocol": {"name": "knn"}, "at_epochs": [20, 10, 100]}
    linear = {"protocol": {"name": "linear"}}
    spec = parse_spec(MINIMAL | {"name": "run", "evaluations": [knn, linear, linear]})
    assert isinstance(spec, PretrainSpec)
    assert spec.kept_epochs == (10, 20)  # the last one is published anyway
    made = [(each.name, each.encoder_epoch, each.curve) for each in spec.follow_ups("a" * 20)]
    assert made == [
        ("run-knn-epoch-10", 10, "knn"),
        ("run-knn-epoch-20", 20, "knn"),
        ("run-knn", None, "knn"),
        ("run-linear", None, "linear"),
        ("run-linear-2", None, "linear-2"),
    ]


@pytest.mark.parametrize(
    ("evaluation", "field", "message"),
    [
        ({}, "protocol", "give one of the two"),
        ({"suite": "paper", "protocol": {"name": "knn"}}, "protocol", "give one of the two"),
        ({"suite": "papers"}, "suite", "'paper'"),
        ({"protocol": {"name": "knn"}, "at_epochs": [101]}, "at_epochs", "101 is not trained"),
        ({"protocol": {"name": "knn"}, "seeds": 3}, "seeds", "draws nothing at random"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(
    evaluation: dict[str, object], field: str, message: str
) -> None:
    faults = faults_of(MINIMAL | {"evaluations": [evaluation]})
    assert list(faults) == [f"evaluations[0].{field}"]
    assert message in faults[f"evaluations[0].{field}"]


def test_what_does_not_fit_inside_a_field_is_located_beside_other_faults() -> None:
    request = MINIMAL | {"backbone": {"name": "vit_s", "stem": "cifar"}, "training": {"epochs": 0}}
    assert set(faults_of(request)) == {"backbone.stem", "training.epochs"}
