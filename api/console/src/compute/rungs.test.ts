import { expect, test } from "vitest";
import type { Trial } from "../api/client";
import { rungs } from "./rungs";

const trial = (epoch: number, objective: number, stopped: boolean): Trial =>
  ({ epoch, epochs: 4, objective, stopped_early: stopped }) as Trial;

test("each rung counts who reached it, and who went no further", () => {
  const trials = [trial(4, 0.9, false), trial(4, 0.7, false), trial(2, 0.6, true), trial(1, 0.5, true), trial(1, 0.4, true)];
  expect(rungs(trials, 1, 2, "max")).toEqual([
    { epoch: 1, reached: 5, stopped: 2, best: 0.9 },
    { epoch: 2, reached: 3, stopped: 1, best: 0.9 },
    { epoch: 4, reached: 2, stopped: 0, best: 0.9 },
  ]);
});

test("a factor of one makes no endless ladder", () => expect(rungs([trial(4, 1, false)], 1, 1, "max")).toEqual([]));
