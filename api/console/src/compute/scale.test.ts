import { expect, test } from "vitest";
import { named, scaleOf } from "./scale";

test("numbers lie on a scale, also if some are missing", () => {
  expect(scaleOf([1, 50, undefined, null])).toEqual({ type: "value" });
  expect(scaleOf([0, 1000])).toEqual({ type: "value" });
  expect(scaleOf([])).toEqual({ type: "value" });
});

test("numbers far apart lie on a logarithmic scale", () => {
  expect(scaleOf([0.001, 1])).toEqual({ type: "log" });
  expect(scaleOf([-0.001, 1])).toEqual({ type: "value" });
  expect(scaleOf([1, 2, Number.POSITIVE_INFINITY])).toEqual({ type: "value" });
});

test("other values lie by name, those that are missing last", () => {
  expect(scaleOf([undefined, "lars", 10, "adamw", 9, [64, 64], true, "lars"])).toEqual({
    type: "category",
    data: ["[64,64]", "9", "10", "adamw", "lars", "true", "–"],
  });
  expect(named(undefined)).toBe("–");
  expect(named(null)).toBe("null");
});
