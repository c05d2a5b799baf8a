import { expect, test } from "vitest";
import { filters, nested, page } from "./jobs";

test("the page before a job is the page after it in the opposite order", () => {
  expect(page({ after: "a" })).toMatchObject({ cursor: "a", order: "desc", limit: 50 });
  expect(page({ before: "b" })).toMatchObject({ cursor: "b", order: "asc" });
  expect(page({ before: "b", order: "asc", sort: "name" })).toMatchObject({ cursor: "b", order: "desc", sort: "name" });
  expect(page({ before: "b" })).not.toHaveProperty("before");
});

test("a list is nested until it is searched; its order and page change no total", () => {
  expect(nested({ experiment: "e", owner: "o", sort: "name", after: "a" })).toBe(true);
  expect(page({ owner: "o" }).top_level).toBe(true);
  for (const search of [{ state: ["failed" as const] }, { kind: "sweep" }, { text: "x" }, { label: ["a=b"] }, { created_from: "2026-01-01" }]) {
    expect(nested(search)).toBe(false);
    expect(page(search).top_level).toBeUndefined();
  }
  expect(filters({ kind: "sweep", sort: "name", order: "asc", after: "a", before: undefined })).toEqual({ kind: "sweep" });
});
