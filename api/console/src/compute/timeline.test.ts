import { expect, test } from "vitest";
import type { Attempt } from "../api/client";
import { phases } from "./timeline";

const at = (seconds: number) => new Date(Date.UTC(2026, 10, 27) + 1000 * seconds).toISOString();
const attempt = {
  number: 1,
  queued_at: at(0),
  created_at: at(1),
  submitted_at: at(2),
  timeline: { driver_up: at(3), data_open: at(5), first_step: at(4.5), last_step: at(20) },
  ended_at: at(22),
  archived_at: null,
} as unknown as Attempt;

test("the phases follow each other and are the whole time", () => {
  const found = phases(attempt, "pretrain");
  expect(found.map((phase) => [phase.name, phase.seconds])).toEqual([
    ["waits in the queue", 2],
    ["driver starts", 1],
    ["data is opened", 2],
    ["first step", 0], // by a clock that is behind
    ["trains", 15],
    ["ends", 2],
  ]);
  expect(found.reduce((sum, phase) => sum + phase.seconds, 0)).toBe(22);
});

test("an attempt of before there were timelines has what it has", () => {
  expect(phases({ ...attempt, timeline: null, queued_at: null }, "evaluate").map((phase) => phase.name)).toEqual([
    "waits in the queue",
    "ends",
  ]);
});

test.each([
  ["sweep", { driver_up: at(3), published: at(20) }, [["driver starts", 1], ["trials run", 17], ["ends", 2]]],
  ["pretrain", { driver_up: at(3), first_step: at(5) }, [["driver starts", 1], ["first step", 2], ["trains", 17]]],
  ["pretrain", { driver_up: at(3) }, [["driver starts", 1], ["ends", 19]]], // it failed before its first step
])("what a %s with no last step was doing", (kind, timeline, expected) => {
  const found = phases({ ...attempt, timeline } as unknown as Attempt, kind);
  expect(found.slice(1).map((phase) => [phase.name, phase.seconds])).toEqual(expected);
});
