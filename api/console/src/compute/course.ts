// The whole course of a job on one axis of time: its attempts, and what came between them.
import type { Attempt, EventOfJob, Job, JobState } from "../api/client";
import { workersText } from "./workers";

export type Span = {
  kind: "waiting" | "queued" | "paused" | "attempt" | "failed" | "moment";
  name: string;
  /** In milliseconds since 1970. */
  from: number;
  until: number;
  /** Whether it lasts still. */
  open: boolean;
  /** How an attempt ended. */
  end: string | null;
};

/** A job passes through `waiting` until the dispatcher looks at it: that is not a wait of its own. */
const PASSED_MS = 5_000;
const OFF_CLUSTER: Partial<Record<JobState, Pick<Span, "kind" | "name">>> = {
  waiting: { kind: "waiting", name: "waits for its time or for other jobs" },
  queued: { kind: "queued", name: "waits in the queue" },
  paused: { kind: "paused", name: "paused" },
};

/**
 * What became of a job, in the order of time.
 *
 * @param attempts - of the job, first to last.
 * @param events - of the job, oldest first.
 * @param now - until when what has not ended has lasted.
 */
export function course({ attempts }: Pick<Job, "attempts">, events: EventOfJob[], now: number): Span[] {
  const runs = attempts.map((attempt, index) => run(attempt, attempts[index + 1], now));
  const notes = events
    // What an attempt has reached is not a change of the job.
    .filter(({ before, after, attempt, message }) => before === after && attempt === null && message !== null)
    .map(({ at, message }): Span => {
      const moment = Date.parse(at);
      return { kind: "moment", name: message ?? "", from: moment, until: moment, open: false, end: null };
    });
  return [...waits(events, now), ...runs, ...notes].sort((a, b) => a.from - b.from);
}

function run(attempt: Attempt, next: Attempt | undefined, now: number): Span {
  const { number, workers, created_at, ended_at, outcome } = attempt;
  const from = Date.parse(created_at);
  return {
    kind: outcome === null || LEFT.includes(outcome) ? "attempt" : "failed",
    name: `attempt ${number}${workers == null ? "" : ` with ${workersText(workers)}`}`,
    from,
    until: Math.max(from, ended_at === null ? now : Date.parse(ended_at)),
    open: ended_at === null,
    end: ending(attempt, next),
  };
}

const LEFT = ["succeeded", "cancelled", "paused", "preempted", "resized"];

function ending({ outcome, message, workers }: Attempt, next: Attempt | undefined): string | null {
  const by = /\bmakes room for (job \S+)/.exec(message ?? "")?.[1];
  const room = by === undefined ? null : `made room for ${by}`;
  if (outcome === "preempted") return room ?? "made room for another job";
  if (outcome === "resized") {
    const resized = workers != null && next?.workers != null && workers !== next.workers;
    if (!resized) return message ?? "restarted";
    return [`${workers} → ${workersText(next.workers ?? 0)}`, room].filter(Boolean).join(": ");
  }
  if (outcome === null || LEFT.includes(outcome)) return outcome;
  return `failed: ${message ?? outcome}`;
}

function waits(events: EventOfJob[], now: number): Span[] {
  const changes = events.filter(({ before, after }) => before !== after);
  const found: Span[] = [];
  for (const [index, { at, after }] of changes.entries()) {
    const what = OFF_CLUSTER[after];
    if (what === undefined) continue;
    const next = changes[index + 1];
    const from = Date.parse(at);
    const until = Math.max(from, next === undefined ? now : Date.parse(next.at));
    const passed = after === "waiting" && next?.after === "queued" && until - from < PASSED_MS;
    if (!passed) found.push({ ...what, from, until, open: next === undefined, end: null });
  }
  return found;
}

/** Seconds for which a job has been on the cluster: not in the queue, and not paused. */
export function ranFor({ attempts }: Pick<Job, "attempts">, now: number): number {
  return attempts.reduce((sum, { submitted_at, ended_at }) => {
    if (submitted_at === null) return sum;
    const until = ended_at === null ? now : Date.parse(ended_at);
    return sum + Math.max(0, until - Date.parse(submitted_at)) / 1000;
  }, 0);
}

const STEPS = [1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400, 172_800, 604_800];
const MOST_TICKS = 6;

/** The seconds at which an axis of time is marked: round ones, from 0. */
export function ticks(seconds: number): number[] {
  const week = 604_800;
  const step = STEPS.find((each) => seconds / each <= MOST_TICKS) ?? week * Math.ceil(seconds / MOST_TICKS / week);
  return Array.from({ length: Math.floor(seconds / step) + 1 }, (_, index) => index * step);
}
