import { expect, test } from "vitest";
import { bytes, duration, metric, number, plural, relative, ticks } from "./format";

test.each([
  [0, "0 s"],
  [1.54, "1.5 s"],
  [59.6, "1 min"],
  [200, "3 min 20 s"],
  [3600, "1 h"],
  [100_800, "1 d 4 h"],
  [Number.NaN, "–"],
])("%d seconds are %s", (seconds, text) => expect(duration(seconds)).toBe(text));

test("a moment is told from now, in one unit", () => {
  const now = Date.parse("2026-11-27T12:00:00Z");
  expect(relative("2026-11-27T11:59:58Z", now)).toBe("just now");
  expect(relative("2026-11-27T10:30:00Z", now)).toBe("1 h ago");
  expect(relative("2026-11-29T12:00:00Z", now)).toBe("in 2 d");
});

test.each([
  [0, "0"],
  [0.000123456, "1.23e-4"],
  [0.123456, "0.1235"],
  [25, "25"],
  [1234.5, "1,235"],
  [12_345_678, "1.23e+7"],
  [null, "–"],
])("%s is shown as %s", (value, text) => expect(number(value)).toBe(text));

test.each([
  [[0, 0.5, 1], 0.5, ["0", "0.5", "1"]],
  [[12_345.1, 12_345.2], 0.1, ["12,345.1", "12,345.2"]],
  [[0.12341, 0.12342], 0.00001, ["0.12341", "0.12342"]],
  [[10, null, 1000], 10, ["10", "", "1,000"]],
  [[0, 0.0001, 0.00015], 0.00005, ["0", "1.0e-4", "1.5e-4"]],
  [[1_000_000, 1_100_000], 100_000, ["1.0e+6", "1.1e+6"]],
])("marks %j, %d apart, are told apart", (marks, step, text) => expect(ticks(marks, step)).toEqual(text));

test("accuracies are in percent, other metrics are not", () => {
  expect(metric("knn/top1", 0.8925)).toBe("89.3 %");
  expect(metric("train/loss", 0.8925)).toBe("0.8925");
});

test("bytes are in binary units", () => {
  expect(bytes(512)).toBe("512 B");
  expect(bytes(1536)).toBe("1.5 KiB");
  expect(bytes(150 * 1024 ** 2)).toBe("150 MiB");
});

test("one is not many", () => {
  expect(plural(1, "job")).toBe("1 job");
  expect(plural(100_000, "job")).toBe("100,000 jobs");
});
