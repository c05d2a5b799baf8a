import { expect, test } from "vitest";
import type { Attempt, EventOfJob, JobState } from "../api/client";
import { course, type Span, ticks } from "./course";

const START = Date.UTC(2026, 10, 27);
const OTHER = "000000000000000000ab";
const at = (seconds: number) => new Date(START + 1000 * seconds).toISOString();

/** The events of a job that has been in these states since these seconds. */
function states(...changes: [seconds: number, state: JobState][]): EventOfJob[] {
  return changes.map(([seconds, after], index) => ({
    id: index,
    at: at(seconds),
    before: changes[index - 1]?.[1] ?? null,
    after,
    attempt: null,
    message: null,
  }));
}

function attempt(number: number, from: number, to: number | null, more: Partial<Attempt> = {}): Attempt {
  return {
    number,
    submission_id: `job-${number}`,
    created_at: at(from),
    submitted_at: at(from),
    ended_at: to === null ? null : at(to),
    outcome: null,
    message: null,
    ...more,
  };
}

/** Spans as they are written in these tests. */
function brief(spans: Span[]): unknown[] {
  return spans.map(({ kind, from, until, end }) => [kind, (from - START) / 1000, (until - START) / 1000, end]);
}

test("attempts stand in the order of time, with what came between them", () => {
  const attempts = [
    attempt(1, 10, 100, { workers: 4, outcome: "preempted", message: `makes room for job ${OTHER}` }),
    attempt(2, 160, 200, { workers: 2, outcome: "resized", message: "grows to 4 workers" }),
    attempt(3, 202, 300, { workers: 4, outcome: "infrastructure", message: "a node was lost" }),
    attempt(4, 310, 400, { workers: 4, outcome: "paused", message: "paused by the user" }),
    attempt(5, 1002, null, { workers: 1 }),
  ];
  const events = states(
    [0, "waiting"], [1, "queued"], [10, "starting"], [12, "running"], [95, "stopping"], [100, "queued"],
    [160, "starting"], [161, "running"], [190, "stopping"], [200, "queued"],
    [202, "starting"], [203, "running"], [300, "queued"],
    [310, "starting"], [311, "running"], [390, "stopping"], [400, "paused"],
    [1000, "waiting"], [1001, "queued"], [1002, "starting"], [1003, "running"],
  );
  const spans = course({ attempts }, events, START + 1_100_000);
  expect(brief(spans)).toEqual([
    ["queued", 1, 10, null],
    ["attempt", 10, 100, `made room for job ${OTHER}`],
    ["queued", 100, 160, null],
    ["attempt", 160, 200, "2 → 4 workers"],
    ["queued", 200, 202, null],
    ["failed", 202, 300, "failed: a node was lost"],
    ["queued", 300, 310, null],
    ["attempt", 310, 400, "paused"],
    ["paused", 400, 1000, null],
    ["queued", 1001, 1002, null],
    ["attempt", 1002, 1100, null],
  ]);
  expect(spans.map(({ name }) => name).filter((name) => name.startsWith("attempt"))).toEqual([
    "attempt 1 with 4 workers",
    "attempt 2 with 2 workers",
    "attempt 3 with 4 workers",
    "attempt 4 with 4 workers",
    "attempt 5 with 1 worker",
  ]);
  expect(spans.filter(({ open }) => open)).toHaveLength(1);
});

test("a job that shrinks says for whom; one whose workers stay as they were, why it stopped", () => {
  const shrinks = { workers: 4, outcome: "resized", message: `shrinks to 2 workers: makes room for job ${OTHER}` };
  const ends = (first: Partial<Attempt>, second: Partial<Attempt>) =>
    course({ attempts: [attempt(1, 0, 10, first), attempt(2, 20, 30, second)] }, [], START)[0]?.end;
  expect(ends(shrinks, { workers: 2 })).toBe(`4 → 2 workers: made room for job ${OTHER}`);
  const restarted = { outcome: "resized", message: "restarts with the changed search" };
  expect(ends({ ...restarted, workers: null }, { workers: null })).toBe("restarts with the changed search");
  expect(ends({ outcome: "preempted" }, {})).toBe("made room for another job");
  expect(ends({ outcome: "cancelled", message: "cancelled by the user" }, {})).toBe("cancelled");
});

test("a wait for a time is one, and continues until now; a change by the owner is a moment", () => {
  const note: EventOfJob = {
    id: 9,
    at: at(30),
    before: "waiting",
    after: "waiting",
    attempt: null,
    message: "changed by its owner: priority to 5",
  };
  const reached: EventOfJob = { ...note, attempt: 1, message: "driver up" };
  const spans = course({ attempts: [] }, [...states([0, "waiting"]), note, reached], START + 60_000);
  expect(brief(spans)).toEqual([
    ["waiting", 0, 60, null],
    ["moment", 30, 30, null],
  ]);
  expect(spans[1]?.name).toBe("changed by its owner: priority to 5");
});

test("a job that has ended waits for nothing", () => {
  expect(brief(course({ attempts: [] }, states([0, "queued"], [7, "cancelled"]), START + 60_000))).toEqual([
    ["queued", 0, 7, null],
  ]);
  expect(course({ attempts: [] }, [], START)).toEqual([]);
});

test("clocks that differ make no span shorter than nothing", () => {
  expect(brief(course({ attempts: [attempt(1, 5, 4)] }, states([5, "queued"], [3, "starting"]), START))).toEqual([
    ["queued", 5, 5, null],
    ["attempt", 5, 5, null],
  ]);
});

test.each([
  [0.5, [0]],
  [5, [0, 1, 2, 3, 4, 5]],
  [250, [0, 60, 120, 180, 240]],
  [4_000, [0, 900, 1_800, 2_700, 3_600]],
  [7_300, [0, 1_800, 3_600, 5_400, 7_200]],
  [20 * 7 * 86_400, [0, 28, 56, 84, 112, 140].map((days) => days * 86_400)],
])("an axis of %s seconds is marked at round ones", (seconds, marks) => expect(ticks(seconds)).toEqual(marks));
