import { expect, test } from "vitest";
import { differing, flatten, rangeOf } from "./spec";

test("a spec is flattened to its leaves", () => {
  expect(flatten({ a: { b: 1, c: { d: "x" } }, e: [1, 2], f: null })).toEqual({
    "a.b": "1",
    "a.c.d": "x",
    e: "[1,2]",
    f: "null",
  });
});

test("only what differs is listed, also what one of them lacks", () => {
  expect(differing([{ a: "1", b: "2" }, { a: "1", b: "3", c: "4" }])).toEqual(["b", "c"]);
  expect(differing([{ a: "1" }, { a: "1" }])).toEqual([]);
});

const SPEC = `# a comment
kind: pretrain
optimizer: {name: lars, base_lr: -1}
evaluations:
  - protocol: {name: knn}
  - protocol:
      name: nope
training:
  epochs: 0
`;

test.each([
  ["training.epochs", "epochs"],
  ["optimizer.base_lr", "base_lr"],
  ["evaluations[1].protocol.name", "name"],
  ["evaluations.1.protocol", "protocol"],
  // The deepest part that is written.
  ["optimizer.none", "optimizer"],
  ["training.warmup.none", "training"],
])("%s is found in what was written", (field, key) => {
  const { from, to } = rangeOf(SPEC, field);
  expect(SPEC.slice(from, to)).toBe(key);
});

test("a fault of the right list item is at its line", () => {
  const { from } = rangeOf(SPEC, "evaluations[1].protocol.name");
  expect(SPEC.slice(0, from).split("\n")).toHaveLength(7);
});

test("a fault of no field is at the first line, also in a text that is no YAML", () => {
  expect(rangeOf("a: [", "")).toEqual({ from: 0, to: 4 });
  expect(rangeOf("{{{{\n", "a.b")).toEqual({ from: 0, to: 4 });
});
