"""How much each parameter of a sweep matters for its objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vicreg_platform.contract.importance import Importance
from vicreg_platform.contract.trial import Trial, TrialState
from vicreg_platform.specs import Choice, Distribution, Grid, LogUniform, SweepSpec

FEWEST = 8
"""Fewer trials say nothing: the forest would explain noise."""


def importance(spec: SweepSpec, trials: Sequence[Trial]) -> Importance:
    """The importance of each parameter by functional ANOVA (Hutter et al. 2014), as Optuna has it.

    Only trials that were trained to their last epoch count: the objective of one that was stopped
    is that of a shorter training, and says as much of the epochs as of the parameters.
    """
    import optuna

    whole = [
        trial
        for trial in trials
        if trial.state is TrialState.SUCCEEDED
        and trial.objective is not None
        and math.isfinite(trial.objective)
    ]
    if len(whole) < FEWEST:
        return Importance(
            trials=len(whole),
            reason=f"{len(whole)} trials were trained to their last epoch; it takes {FEWEST}",
        )
    if len({trial.objective for trial in whole}) == 1:
        return Importance(trials=len(whole), reason="all trials have the same objective")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
    space = {path: _distribution(each) for path, each in spec.space.items()}
    for trial in whole:
        coded = {path: _coded(spec.space[path], trial.parameters[path]) for path in space}
        study.add_trial(
            optuna.trial.create_trial(params=coded, distributions=space, value=trial.objective)
        )
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    return Importance(
        trials=len(whole), items={path: float(share) for path, share in found.items()}
    )


def _distribution(distribution: Distribution) -> Any:
    import optuna

    if isinstance(distribution, Choice | Grid):
        # Optuna does not accept lists as the values of a choice: an index stands for each.
        return optuna.distributions.CategoricalDistribution(range(len(distribution.values())))
    probes = [float(probe) for probe in distribution.probes()]
    return optuna.distributions.FloatDistribution(
        min(probes), max(probes), log=isinstance(distribution, LogUniform)
    )


def _coded(distribution: Distribution, value: Any) -> Any:
    if isinstance(distribution, Choice | Grid):
        return distribution.values().index(value)
    return float(value)
