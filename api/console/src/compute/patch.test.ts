import { expect, test } from "vitest";
import { mergePatch } from "./patch";

test.each([
  [{ a: 1 }, { a: 1 }, {}],
  [{ a: 1, b: 2 }, { a: 1 }, { b: null }],
  [{ a: { b: 1, c: 2 } }, { a: { b: 1, d: 3 } }, { a: { c: null, d: 3 } }],
  [{ a: [1, 2] }, { a: [1] }, { a: [1] }],
  [{ a: { b: 1 } }, { a: "text" }, { a: "text" }],
  [{}, { a: { b: 1 } }, { a: { b: 1 } }],
])("from %j to %j", (before, after, patch) => expect(mergePatch(before, after)).toEqual(patch));
