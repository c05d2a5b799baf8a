import { expect, test } from "vitest";
import { began, joined, positions, smoothed, zoomed } from "./curve";

const point = (step: number, value: number, timestamp = 0) => ({ step, value, timestamp });

test("smoothing leaves a constant as it is, from its first point on", () => {
  for (const value of smoothed([3, 3, 3, 3], 0.9)) expect(value).toBeCloseTo(3, 12);
});

test("smoothing is the weighted mean of what came before", () => {
  // By hand: weights 1/2, 1/4, 1/8 of the newest to the oldest, over their sum.
  const third = (8 / 2 + 4 / 4 + 2 / 8) / (1 / 2 + 1 / 4 + 1 / 8);
  expect(smoothed([2, 4, 8], 0.5)[2]).toBeCloseTo(third, 12);
});

test("no smoothing changes nothing, and what is not finite stays out of it", () => {
  expect(smoothed([1, 5, 2], 0)).toEqual([1, 5, 2]);
  const [first, bad, last] = smoothed([1, Number.NaN, 1], 0.5);
  expect([first, last]).toEqual([1, 1]);
  expect(bad).toBeNaN();
});

test("a point lies by its step, its epoch or its minute", () => {
  const points = [point(10, 0, 60_000), point(20, 0, 180_000)];
  expect(positions(points, "step", 10)).toEqual([10, 20]);
  expect(positions(points, "epoch", 10)).toEqual([1, 2]);
  expect(positions(points, "epoch", null)).toEqual([10, 20]);
  expect(positions(points, "time", 10)).toEqual([0, 2]);
});

test("minutes count from a job's first point, so that its charts show the same moment", () => {
  const curves = {
    "train/loss": [point(1, 0, 120_000), point(2, 0, 180_000)],
    "knn/top1": [point(0, 0, 60_000), point(2, 0, 180_000)],
    "none/yet": [],
  };
  const start = began(curves);
  expect(start).toBe(60_000);
  expect(positions(curves["train/loss"], "time", null, start)).toEqual([1, 2]);
  expect(positions(curves["knn/top1"], "time", null, start)).toEqual([0, 2]);
  expect(began({})).toBeUndefined();
});

test("one has zoomed if values are out of sight", () => {
  expect(zoomed([0, 5, 10], { min: 0, max: 10 })).toBe(false);
  expect(zoomed([0, 5, 10], { min: 0, max: 6 })).toBe(true);
  expect(zoomed([0, 5, 10], { min: 4, max: 10 })).toBe(true);
  // One point has room on both sides.
  expect(zoomed([5], { min: 4, max: 6 })).toBe(false);
  expect(zoomed([], { min: 0, max: 1 })).toBe(false);
  expect(zoomed([1, 2], {})).toBe(false);
});

test("curves of different steps share one axis", () => {
  expect(
    joined([
      { x: [1, 3], y: [10, 30] },
      { x: [2, 3], y: [0, Number.NaN] },
    ]),
  ).toEqual([
    [1, 2, 3],
    [10, null, 30],
    [null, 0, null],
  ]);
});
