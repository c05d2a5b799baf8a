// How many workers a job asks for: a number, or as many as there is room for.
import { plural } from "./format";

export type Workers = number | { min: number; max: number };

/** What a resolved spec asks for; null if it has no number of workers. */
export function workersOf(spec: Record<string, unknown>): Workers | null {
  return (spec as { resources?: { workers?: Workers } }).resources?.workers ?? null;
}

/** `2 workers`, `1 to 8 workers`. */
export function workersText(workers: Workers): string {
  return typeof workers === "number" ? plural(workers, "worker") : `${workers.min} to ${plural(workers.max, "worker")}`;
}

/** How many a job has, and between which numbers that may change: `4 (elastic: 1 to 8)`. */
export function workersNow(now: number | null, wanted: Workers | null): string {
  if (wanted === null || typeof wanted === "number") return String(now ?? wanted ?? "–");
  const range = `elastic: ${wanted.min} to ${wanted.max}`;
  return now === null ? range : `${now} (${range})`;
}
