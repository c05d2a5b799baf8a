import { expect, test } from "vitest";
import { firstError, plain, plainPieces } from "./log";

test("what a terminal takes for commands is left out", () => {
  expect(plain("\x1b[31mred\x1b[0m \x1b]0;title\x07text\x1b[2K\rline\x00\x08")).toBe("red text\nline");
  expect(plain("tab\there\r\nnext ü 漢字")).toBe("tab\there\nnext ü 漢字");
});

test("ten megabytes of escapes take no second", () => {
  const text = "\x1b[1;31mx\x1b[0m".repeat(700_000);
  const began = performance.now();
  expect(plain(text)).toHaveLength(700_000);
  expect(performance.now() - began).toBeLessThan(2_000);
});

test("a command that is cut in two is still one", () => {
  const text = "a\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07end\x1b[2";
  for (let cut = 0; cut <= text.length; cut += 1) {
    const pieces = plainPieces();
    expect(pieces(text.slice(0, cut)) + pieces(text.slice(cut)) + pieces(null)).toBe(plain(text));
  }
});

test.each([
  ["fine\nTraceback (most recent call last):\n", 5],
  ["fine\n05:22 ERROR no\n", 5],
  ["vicreg failure: the loss is nan", 0],
  ["a\nValueError: no\n", 2],
  ["no errors here, 0 errors\n", null],
])("the first error of %j is at %s", (text, at) => expect(firstError(text)).toBe(at));
