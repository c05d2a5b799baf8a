// The queue in words: when a job starts, what that rests on, and who holds what.
import type { DryRun, Holder, QueueEntry, QueuePlace } from "../api/client";
import { duration, plural } from "./format";

/** When a job that waits is expected to start: `in 12 min`, `at the latest in 2 h`. */
export function expected({ start, basis }: QueuePlace, now: number): string {
  if (start === null) return "unknown";
  const minutes = Math.ceil((Date.parse(start) - now) / 60_000);
  if (minutes <= 0) return "any moment";
  if (minutes === 1) return "within a minute";
  const soon = `in ${duration(60 * minutes)}`;
  return basis === "limit" ? `at the latest ${soon}` : soon;
}

/** What an expectation rests on, or why there is none. */
export function grounds({ position, start, basis }: QueuePlace): string {
  if (position === null) {
    return "The dispatcher has not placed it: it has only just come, too many wait before it, or the dispatcher does not answer.";
  }
  if (start === null) {
    return "Nobody can know: what it waits for does not say when it ends, as a job with a max_runtime does; or too many wait before it.";
  }
  return basis === "limit"
    ? "An estimate by the max_runtime of jobs before it: it may be sooner."
    : "An estimate by how fast running jobs are: it may be sooner or later.";
}

/** Where a job stands, and when it starts: `Number 3 in the queue, expected to start in 12 min.` */
export function standing(place: QueuePlace, now: number): string {
  const number = place.position === null ? "Its place in the queue is unknown" : `Number ${place.position} in the queue`;
  return place.start === null
    ? `${number}; when it starts is unknown.`
    : `${number}, expected to start ${expected(place, now)}.`;
}

/** What a dry run says of the start. */
export function foreseen({ reason, queue }: DryRun, now: number): string {
  if (queue == null) {
    return reason == null
      ? "When it would start is unknown: the dispatcher has not said what the cluster has."
      : `It ${reason}.`;
  }
  if (reason == null) return "It would start at once.";
  const start = queue.start === null ? "nobody can know when it would start" : `would start ${expected(queue, now)}`;
  return `It would be number ${queue.position} in the queue, and ${start} (${reason}).`;
}

/** What a job needs: `2 × 1 CPU`; of an elastic one, `at least 2 × 1 CPU, at most 8 workers`. */
export function needsText({ needs, workers }: Pick<QueueEntry, "needs" | "workers">): string {
  const most = workers?.at(-1);
  return most === undefined ? needs : `at least ${needs}, at most ${plural(most, "worker")}`;
}

export type Held = { owner: string | null; jobs: number; cpus: number; gpus: number; ends: string | null };

/** What each owner holds, the most GPUs first, and when the first of their jobs is expected to end. */
export function byOwner(holders: Holder[]): Held[] {
  const found = new Map<string | null, Held>();
  for (const { owner, cpus, gpus, ends } of holders) {
    const held = found.get(owner) ?? { owner, jobs: 0, cpus: 0, gpus: 0, ends: null };
    found.set(owner, {
      owner,
      jobs: held.jobs + 1,
      cpus: held.cpus + cpus,
      gpus: held.gpus + gpus,
      ends: held.ends === null || (ends !== null && Date.parse(ends) < Date.parse(held.ends)) ? ends : held.ends,
    });
  }
  return [...found.values()].sort((a, b) => b.gpus - a.gpus || b.cpus - a.cpus);
}
