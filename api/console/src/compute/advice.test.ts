import { expect, test } from "vitest";
import type { Job } from "../api/client";
import { verdict } from "./advice";

function training(epoch: number, findings: { name: string; text: string; since: number }[] = []) {
  const progress = { epoch, epochs: 10, findings } as unknown as NonNullable<Job["progress"]>;
  return { kind: "pretrain", state: "running", progress } as Pick<Job, "kind" | "state" | "progress">;
}

test("a training in which nothing is found is said to be well, as far as it is", () => {
  expect(verdict(training(3))).toBe("The health checks find nothing wrong so far, at epoch 3 of 10.");
  expect(verdict({ ...training(10), state: "succeeded" })).toMatch(/^The health checks found nothing wrong in 10 epochs/);
});

test("nothing is said before an epoch, of a finding, of a failure, or of other jobs", () => {
  expect(verdict(training(0))).toBeNull();
  expect(verdict(training(3, [{ name: "collapsed", text: "…", since: 1 }]))).toBeNull();
  expect(verdict({ ...training(3), state: "failed" })).toBeNull();
  expect(verdict({ ...training(3), kind: "evaluate" })).toBeNull();
  expect(verdict({ ...training(3), progress: null })).toBeNull();
});
