import { expect, test } from "vitest";
import type { DryRun } from "../api/client";
import { costText } from "./cost";

type Cost = NonNullable<DryRun["cost"]>;
const cost: Cost = {
  seconds: 1234,
  basis: "run",
  images_per_second: 2500,
  workers: 2,
  device: "NVIDIA H100",
  peak_memory: 3.5 * 2 ** 30,
  job: "a",
  name: "first",
};

test("a cost says what was measured, and what it leaves out", () => {
  expect(costText({ cost })).toBe(
    "Training would take 20 min 34 s with 2 workers, at 2,500 images/s, without the wait in the queue and the start. Each takes up to 3.5 GiB of GPU memory.",
  );
  expect(costText({ cost: { ...cost, basis: "rate", device: "CPU" } })).toBe(
    "Training would take 20 min 34 s with 2 workers, at 2,500 images/s, without the wait in the queue, the start, measurements and checkpoints. Each takes up to 3.5 GiB of memory.",
  );
  expect(costText({ cost: { ...cost, peak_memory: null } })).toContain("does not say how much memory");
});

test("without a run that is alike, nothing is guessed", () => {
  expect(costText({ cost: null })).toContain("unknown: no run is known");
});
