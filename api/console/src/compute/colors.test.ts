import { expect, test } from "vitest";
import { colorAt, faint, leftOut, placed } from "./colors";

test("no two of fifty jobs have one colour", () => {
  expect(new Set(Array.from({ length: 50 }, (_, index) => colorAt(index))).size).toBe(50);
  expect(colorAt(0)).toBe("#0072b2");
  expect(colorAt(10)).toBe("hsl(295, 60%, 45%)");
});

test("each colour has a faint one", () => {
  expect(faint(colorAt(0))).toBe("#0072b255");
  expect(faint(colorAt(10))).toBe("hsla(295, 60%, 45%, 0.33)");
});

test("who is left out leaves a place free, and all others keep theirs", () => {
  expect(leftOut(["a", "b", "c"], "b")).toEqual(["a", "", "c"]);
  expect(leftOut(["a", "", "c"], "a")).toEqual(["", "", "c"]);
  // Nobody is after a place at the end.
  expect(leftOut(["a", "", "c"], "c")).toEqual(["a"]);
  expect(leftOut(["a"], "a")).toEqual([]);
});

test("who is added takes the first free place", () => {
  expect(placed(["a", "", "c"], "d")).toEqual(["a", "d", "c"]);
  expect(placed(["a", "c"], "d")).toEqual(["a", "c", "d"]);
  expect(placed([], "d")).toEqual(["d"]);
});
