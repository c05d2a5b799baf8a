"""A sweep's space addresses fields of the base spec, and is typed by them."""

from typing import Any

import pytest

from vicreg_platform.errors import InvalidSpec
from vicreg_platform.specs import Choice, SweepSpec, parse_spec

BASE = {"data": {"source": "digits"}, "training": {"epochs": 4, "batch_size": 64}}


def sweep(**changes: Any) -> SweepSpec:
    request = {
        "kind": "sweep",
        "base": BASE,
        "space": {"optimizer.base_lr": {"loguniform": [0.05, 1.0]}},
    }
    spec = parse_spec(request | changes)
    assert isinstance(spec, SweepSpec)
    return spec


def faults(**changes: Any) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as refused:
        sweep(**changes)
    return {fault.field: fault.message for fault in refused.value.faults}


def test_a_resolved_sweep_is_the_same_sweep() -> None:
    spec = sweep(space={"method.variance": {"choice": [0.0, 25]}})
    assert parse_spec(spec.model_dump(mode="json")) == spec


def test_a_trial_is_measured_in_every_epoch_where_the_objective_needs_it() -> None:
    assert sweep().trial_spec({}).watch.knn_every_epochs == 1
    unset = sweep(base=BASE | {"watch": {"knn_every_epochs": None}})
    assert unset.trial_spec({}).watch.knn_every_epochs == 1
    given = sweep(base=BASE | {"watch": {"knn_every_epochs": 2}})
    assert given.trial_spec({}).watch.knn_every_epochs == 2
    rank = sweep(objective={"metric": "representation/rankme"})
    assert rank.trial_spec({}).watch.knn_every_epochs == 1
    loss = sweep(objective={"metric": "train/loss", "mode": "min"})
    assert loss.trial_spec({}).watch.knn_every_epochs is None


@pytest.mark.parametrize(
    ("path", "distribution", "message"),
    [
        ("optimizer.base_lrr", {"uniform": [0, 1]}, "did you mean 'base_lr'"),
        ("optimiser.base_lr", {"uniform": [0, 1]}, "did you mean 'optimizer'"),
        ("optimizer.base_lr", {"uniform": [-1, 1]}, "does not accept -1.0: .*greater than 0"),
        ("training.batch_size", {"uniform": [32, 64]}, "valid integer"),
        ("training.batch_size", {"quniform": [30, 60, 7.5]}, "valid integer"),
        ("training.precision", {"choice": ["fp32", "fp17"]}, "does not accept 'fp17'"),
        ("expander.layers", {"choice": [[64], []]}, r"does not accept \[\]"),
        ("name", {"choice": ["a", "b"]}, "only fields that affect the training"),
        ("method.variance", {"grid": [1, 2]}, "use choice"),
        ("resources.workers", {"choice": ["2", 4]}, "must be whole numbers"),
    ],
)
def test_a_space_that_the_base_does_not_take_is_refused(
    path: str, distribution: dict[str, Any], message: str
) -> None:
    import re

    (field, text), *others = faults(space={path: distribution}).items()
    assert field == f"space.{path}"
    assert re.search(message, text)
    assert others == []


@pytest.mark.parametrize(
    "distribution",
    [
        {"uniform": [1, 1]},
        {"loguniform": [0, 1]},
        {"quniform": [1, 2, 5]},
        {"quniform": [1, 2, 0]},
        {"randint": [3, 3]},
    ],
)
def test_a_range_without_values_is_refused(distribution: dict[str, Any]) -> None:
    (name,) = distribution
    assert list(faults(space={"method.variance": distribution})) == [
        f"space.method.variance.{name}"
    ]


def test_values_that_do_not_fit_together_are_no_fault_of_a_field() -> None:
    # 31 images do not divide evenly among 2 workers; 32 do.
    sweep(
        base=BASE | {"resources": {"workers": 2}},
        space={"training.batch_size": {"randint": [31, 65]}},
    )


def test_the_base_is_checked_and_its_faults_are_named_in_it() -> None:
    assert "base.training.epochs" in faults(base=BASE | {"training": {"epochs": "many"}})
    assert "base.kind" in faults(base={"kind": "evaluate"})
    assert "must be a mapping" in faults(base=3)["base"]


@pytest.mark.parametrize(
    ("metric", "often"), [("knn/top1", "never"), ("representation/rankme", "too rarely")]
)
def test_an_objective_that_is_hardly_measured_is_refused(metric: str, often: str) -> None:
    found = faults(
        base=BASE | {"watch": {"knn_every_epochs": 0}}, objective={"metric": metric, "mode": "max"}
    )
    assert f"{metric} is {often} measured" in found["objective.metric"]


def test_a_grid_search_takes_grids() -> None:
    refused = faults(search={"algorithm": "grid"})
    assert "needs grid or choice" in refused["space.optimizer.base_lr"]
    space = {"method.variance": {"grid": [1, 5]}, "optimizer.base_lr": {"choice": [0.1, 0.2, 0.3]}}
    spec = sweep(space=space, search={"algorithm": "grid"})
    assert list(spec.configurations())[:4] == [(1, 0.1), (1, 0.2), (1, 0.3), (5, 0.1)]


def test_the_resources_of_a_trial_may_come_from_the_space_alone() -> None:
    base = BASE | {"resources": {"workers": 0}}
    spec = sweep(base=base, space={"resources.workers": {"choice": [1, 2]}}, concurrency=3)
    assert (spec.needs().count, spec.needs().groups) == (2, 3)


@pytest.mark.parametrize("value", ["x", [[1]], -5, None])
def test_what_the_space_sets_is_not_kept_of_the_base(value: object) -> None:
    base = BASE | {"resources": {"workers": value, "cpus_per_worker": 2}}
    spec = parse_spec(
        {"kind": "sweep", "base": base, "space": {"resources.workers": {"choice": [1, 2]}}}
    )
    assert isinstance(spec, SweepSpec)
    assert spec.base["resources"] == {"cpus_per_worker": 2}
    assert spec.datasets().keys() == {"base.data"}
    assert spec.trial_resources().workers == 2


@pytest.mark.parametrize(
    "quniform", [[0, 1e308, 1e-308], [0, 1, 1e-12], [-1e300, 1e300, 1], [0, 1e18, 1]]
)
def test_steps_that_nobody_can_count_are_refused(quniform: list[float]) -> None:
    request = {
        "kind": "sweep",
        "base": BASE,
        "space": {"optimizer.base_lr": {"quniform": quniform}},
    }
    with pytest.raises(InvalidSpec, match="more than 1e\\+09 multiples"):
        parse_spec(request)


def test_values_that_no_tag_holds_are_refused() -> None:
    paths = [f"{'z' * 1000}{number}" for number in range(2)]
    space = {f"data.{name}": {"choice": paths} for name in ("path", "labels", "names")}
    base = BASE | {"data": {"source": "image_folder", "path": "a"}}
    spec = parse_spec({"kind": "sweep", "base": base, "space": space})
    assert isinstance(spec, SweepSpec)
    longer = spec.space | {"training.seed": Choice(choice=("w" * 4000,))}
    ((fields, text),) = spec.model_copy(update={"space": longer})._size_faults()
    assert fields == ("space.training.seed",)
    assert "exceed 6000 characters" in text


def test_the_trainings_of_a_trial_differ_in_their_seed_alone() -> None:
    spec = sweep(base=BASE | {"training": {"epochs": 4, "seed": 7}}, search={"seeds": 3})
    trained = [spec.trial_spec({"optimizer.base_lr": 0.1}, seed) for seed in range(3)]
    assert [each.training.seed for each in trained] == [7, 8, 9]
    dumps = [each.model_dump(exclude={"training": {"seed"}}) for each in trained]
    assert dumps[0] == dumps[1] == dumps[2]


def test_a_sweep_runs_as_many_trainings_at_once_as_its_trials_have_seeds() -> None:
    assert sweep(search={"trials": 2, "seeds": 3}, concurrency=8).needs().groups == 6
    assert sweep(search={"trials": 2, "seeds": 3}, concurrency=4).needs().groups == 4


def test_a_sweep_of_several_seeds_does_not_search_the_seed() -> None:
    space = {"training.seed": {"randint": [0, 9]}}
    assert sweep(space=space).search.seeds == 1
    found = faults(space=space, search={"seeds": 2})
    assert "with the same seeds" in found["space.training.seed"]
    assert "search.seeds" in faults(search={"seeds": 11})


def test_a_sweep_that_extends_another_tries_more() -> None:
    extends = {"job": "before", "trials": 16}
    refused = faults(extends=extends)
    assert "more than the 16 that are tried already" in refused["search.trials"]
    more = sweep(extends=extends, search={"trials": 18, "seeds": 2}, concurrency=8)
    assert more.needs().groups == 4
    assert more.extended_job == "before"


def test_a_grid_has_no_more_trials_than_combinations() -> None:
    space = {
        "optimizer.base_lr": {"grid": [0.1, 0.2, 0.3]},
        "expander.layers": {"choice": [[8], [16]]},
    }
    whole = sweep(space=space, search={"algorithm": "grid"}, concurrency=8)
    assert (whole.combinations, whole.trials, whole.needs().groups) == (6, 6, 6)
    part = sweep(space=space, search={"algorithm": "grid", "trials": 4}, concurrency=8)
    assert (part.combinations, part.trials, part.needs().groups) == (6, 4, 4)
    drawn = sweep(search={"trials": 4})
    assert (drawn.combinations, drawn.trials) == (None, 4)
