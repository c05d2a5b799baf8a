// ASHA's rungs: how many trials reached each, and how many were stopped there.
import type { Trial } from "../api/client";

/** `best`: of the latest objectives of those that reached it. */
export type Rung = { epoch: number; reached: number; stopped: number; best: number | null };

/**
 * The rungs of a sweep.
 *
 * Rungs are at `grace_epochs * reduction_factor ** k` epochs, as the sweep's driver has them.
 */
export function rungs(trials: Trial[], grace: number, factor: number, mode: string): Rung[] {
  const last = Math.max(0, ...trials.map((trial) => trial.epochs));
  const found: Rung[] = [];
  for (let epoch = grace; epoch <= last && factor > 1; epoch *= factor) {
    const here = trials.filter((trial) => trial.epoch >= epoch);
    const next = epoch * factor;
    const values = here.map((trial) => trial.objective).filter((value) => value != null);
    found.push({
      epoch,
      reached: here.length,
      stopped: here.filter((trial) => trial.stopped_early && trial.epoch < next).length,
      best:
        values.length === 0
          ? null
          : values.reduce((a, b) => (mode === "max" ? Math.max(a, b) : Math.min(a, b))),
    });
  }
  return found;
}
