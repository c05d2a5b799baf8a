import { expect, test } from "vitest";
import { pieces } from "./reason";

const ID = "000000000000000000ab";

test("the jobs that a reason names are found", () => {
  expect(pieces(`waits behind job ${ID}, the next to get room`)).toEqual([
    { text: "waits behind ", job: null },
    { text: `job ${ID}`, job: ID },
    { text: ", the next to get room", job: null },
  ]);
  expect(pieces(`job ${ID}`)).toEqual([{ text: `job ${ID}`, job: ID }]);
});

test("other text is left as it is", () => {
  expect(pieces("this job 12 waits")).toEqual([{ text: "this job 12 waits", job: null }]);
  expect(pieces("")).toEqual([]);
});
