import { expect, test } from "vitest";
import { workersNow, workersOf, workersText } from "./workers";

test("a spec asks for a number of workers, a range, or none", () => {
  expect(workersOf({ resources: { workers: 2, cpus_per_worker: 1 } })).toBe(2);
  expect(workersOf({ resources: { workers: { min: 1, max: 8 } } })).toEqual({ min: 1, max: 8 });
  expect(workersOf({ resources: { cpus: 1 } })).toBeNull();
  expect(workersOf({})).toBeNull();
});

test("workers are told in words", () => {
  expect(workersText(1)).toBe("1 worker");
  expect(workersText({ min: 1, max: 8 })).toBe("1 to 8 workers");
});

test("a job has its number of workers, and what it may become", () => {
  expect(workersNow(4, { min: 1, max: 8 })).toBe("4 (elastic: 1 to 8)");
  expect(workersNow(null, { min: 1, max: 8 })).toBe("elastic: 1 to 8");
  expect(workersNow(null, 2)).toBe("2");
  expect(workersNow(4, 2)).toBe("4"); // resumed with more
});
