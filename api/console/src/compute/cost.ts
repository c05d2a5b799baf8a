// What a pretraining would take, in words.
import type { DryRun } from "../api/client";
import { bytes, duration, number, plural } from "./format";

/** Time and memory as measured in an earlier run, and what they leave out; else that none is known. */
export function costText({ cost }: Pick<DryRun, "cost">): string {
  if (cost == null) {
    return "Time and memory are unknown: no run is known with the same network, images, views, batch, precision and workers.";
  }
  const without = cost.basis === "rate" ? "the wait in the queue, the start, measurements and checkpoints" : "the wait in the queue and the start";
  const memory =
    cost.peak_memory == null
      ? "That run does not say how much memory it took."
      : `Each takes up to ${bytes(cost.peak_memory)} of ${cost.device === "CPU" ? "memory" : "GPU memory"}.`;
  return `Training would take ${duration(cost.seconds)} with ${plural(cost.workers, "worker")}, at ${number(cost.images_per_second)} images/s, without ${without}. ${memory}`;
}
