import { expect, test } from "vitest";
import { whyEnded } from "./trial";

test("a trial that was cut says by what and when, one that has failed why", () => {
  expect(whyEnded({ reason: null, stopped_early: true, epoch: 3 }, "asha")).toBe(
    "asha stopped it after 3 epochs: others were better there",
  );
  expect(whyEnded({ reason: "the loss is not finite", stopped_early: false, epoch: 1 }, "asha")).toBe("the loss is not finite");
  expect(whyEnded({ reason: null, stopped_early: false, epoch: 4 }, "asha")).toBe("");
});
