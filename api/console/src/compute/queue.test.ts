import { expect, test } from "vitest";
import type { Holder, QueuePlace } from "../api/client";
import { byOwner, expected, foreseen, grounds, needsText, standing } from "./queue";

const NOW = Date.UTC(2026, 10, 27, 12);
const place = (minutes: number | null, basis: string | null = "progress"): QueuePlace => ({
  position: 3,
  waits_for: [],
  start: minutes === null ? null : new Date(NOW + 60_000 * minutes).toISOString(),
  basis,
});

test.each([
  [12, "progress", "in 12 min"],
  [11.2, "progress", "in 12 min"],
  [170, "progress", "in 2 h 50 min"],
  [120, "limit", "at the latest in 2 h"],
  [1, "limit", "within a minute"],
  [-3, "progress", "any moment"],
  [null, null, "unknown"],
])("a start in %s minutes by %s is %s", (minutes, basis, text) => {
  expect(expected(place(minutes, basis), NOW)).toBe(text);
});

test("what an expectation rests on is told, or why there is none", () => {
  expect(grounds(place(12))).toContain("how fast running jobs are");
  expect(grounds(place(12, "limit"))).toContain("may be sooner.");
  expect(grounds(place(null, null))).toContain("does not say when it ends");
  expect(grounds({ ...place(null, null), position: null })).toContain("has not placed it");
});

test("a job is told where it stands", () => {
  expect(standing(place(12), NOW)).toBe("Number 3 in the queue, expected to start in 12 min.");
  expect(standing(place(null, null), NOW)).toBe("Number 3 in the queue; when it starts is unknown.");
  expect(standing({ ...place(null, null), position: null }, NOW)).toBe(
    "Its place in the queue is unknown; when it starts is unknown.",
  );
});

test("a dry run says when the job would start", () => {
  const check = { spec: {}, warnings: [] };
  expect(foreseen({ ...check, queue: place(0) }, NOW)).toBe("It would start at once.");
  expect(foreseen({ ...check, queue: place(12), reason: "waits for room: it needs 2 CPUs" }, NOW)).toBe(
    "It would be number 3 in the queue, and would start in 12 min (waits for room: it needs 2 CPUs).",
  );
  expect(foreseen({ ...check, queue: place(null, null), reason: "waits for room" }, NOW)).toBe(
    "It would be number 3 in the queue, and nobody can know when it would start (waits for room).",
  );
  expect(foreseen({ ...check, reason: "waits for its start time or other jobs" }, NOW)).toBe(
    "It waits for its start time or other jobs.",
  );
  expect(foreseen({ ...check, queue: null }, NOW)).toContain("is unknown");
});

test("an elastic job needs the least that it runs with, and takes more", () => {
  expect(needsText({ needs: "2 × 1 CPU", workers: null })).toBe("2 × 1 CPU");
  expect(needsText({ needs: "2 × 1 CPU", workers: [2, 4, 8] })).toBe("at least 2 × 1 CPU, at most 8 workers");
});

test("what owners hold is the sum of their jobs, and the first end that is known", () => {
  const holder = (owner: string | null, cpus: number, gpus: number, ends: string | null) =>
    ({ owner, cpus, gpus, ends }) as Holder;
  const [early, late] = ["2026-11-27T12:00:00Z", "2026-11-27T13:00:00Z"];
  expect(
    byOwner([holder("bob", 8, 0, null), holder("ann", 1, 1, null), holder("ann", 2, 1, late), holder("ann", 2, 0, early), holder(null, 1, 0, null)]),
  ).toEqual([
    { owner: "ann", jobs: 3, cpus: 5, gpus: 2, ends: early },
    { owner: "bob", jobs: 1, cpus: 8, gpus: 0, ends: null },
    { owner: null, jobs: 1, cpus: 1, gpus: 0, ends: null },
  ]);
});
