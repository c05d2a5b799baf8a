// Where the time of an attempt went.
import type { Attempt } from "../api/client";

export type Phase = { name: string; from: number; seconds: number; until: string };

const ORDER: [field: string, phase: string][] = [
  ["submitted", "waits in the queue"],
  ["driver_up", "driver starts"],
  ["workers_up", "workers start"],
  ["process_group_up", "workers connect"],
  ["data_open", "data is opened"],
  ["network_built", "network is built"],
  ["first_step", "first step"],
  ["last_step", "trains"],
  ["published", "results are published"],
  ["ended", "ends"],
  ["archived", "log is stored"],
];

/** What the attempt did between the moments that it reached; those it has not are left out. */
export function phases(attempt: Attempt, kind: string): Phase[] {
  const moments: Record<string, string | null | undefined> = {
    ...attempt.timeline,
    queued: attempt.queued_at ?? attempt.created_at,
    submitted: attempt.submitted_at,
    ended: attempt.ended_at,
    archived: attempt.archived_at,
  };
  const start = moments.queued;
  if (start === null || start === undefined) return [];
  let before = Date.parse(start);
  const found: Phase[] = [];
  // A sweep has no steps of its own, and what was stopped or failed no last one.
  const work = kind === "sweep" ? "trials run" : kind === "pretrain" ? "trains" : "measures";
  let working = false;
  for (const [field, phase] of ORDER) {
    const until = moments[field];
    if (until === null || until === undefined) continue;
    const at = Date.parse(until);
    const worked = field === "last_step" || (working && (field === "published" || field === "ended"));
    const name = worked ? work : phase;
    if (field === (kind === "pretrain" ? "first_step" : "driver_up")) working = true;
    if (worked) working = false;
    // The clocks of two nodes may differ: no phase is shorter than nothing.
    found.push({ name, from: before, seconds: Math.max(0, (at - before) / 1000), until });
    before = Math.max(before, at);
  }
  return found;
}
