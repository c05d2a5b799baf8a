// A sweep's trial in words.
import type { Trial } from "../api/client";
import { plural } from "./format";

/** Why a trial has ended before its last epoch; empty if it has not. */
export function whyEnded(trial: Pick<Trial, "reason" | "stopped_early" | "epoch">, scheduler: string): string {
  if (trial.reason != null) return trial.reason;
  if (trial.stopped_early) return `${scheduler} stopped it after ${plural(trial.epoch, "epoch")}: others were better there`;
  return "";
}
