// Specs as flat maps of dotted paths, and where they differ.
import { parseDocument } from "yaml";

export type Flat = Record<string, string>;

/** Every leaf of a value by its dotted path, as text; a list is a leaf. */
export function flatten(value: unknown, prefix = ""): Flat {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return { [prefix]: typeof value === "string" ? value : JSON.stringify(value) };
  }
  const flat: Flat = {};
  for (const [key, each] of Object.entries(value)) {
    Object.assign(flat, flatten(each, prefix === "" ? key : `${prefix}.${key}`));
  }
  return flat;
}

/** The paths at which not all of the specs have the same value, sorted. */
export function differing(specs: Flat[]): string[] {
  const paths = new Set(specs.flatMap((spec) => Object.keys(spec)));
  return [...paths]
    .filter((path) => new Set(specs.map((spec) => spec[path])).size > 1)
    .sort((a, b) => a.localeCompare(b));
}

export type Range = { from: number; to: number };

/**
 * Where a field stands in a text of YAML or JSON.
 *
 * @param text - what the user wrote.
 * @param field - as the API names it: `optimizer.lr`, `evaluations[1].protocol`.
 * @returns the range of the deepest part of the field that the text has.
 */
export function rangeOf(text: string, field: string): Range {
  const document = parseDocument(text);
  const path = field
    .replaceAll(/\[(\d+)\]/g, ".$1")
    .split(".")
    .filter((part) => part !== "")
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part));
  for (let length = path.length; length > 0; length -= 1) {
    const parent = length > 1 ? document.getIn(path.slice(0, length - 1), true) : document.contents;
    const key = path[length - 1];
    const items = (parent as { items?: unknown[] } | null | undefined)?.items ?? [];
    for (const [index, item] of items.entries()) {
      const pair = item as { key?: { value?: unknown; range?: number[] }; range?: number[] };
      const found = pair.key !== undefined ? String(pair.key.value) === String(key) : index === key;
      const range = pair.key?.range ?? pair.range;
      if (found && range !== undefined) return { from: range[0] ?? 0, to: range[1] ?? 0 };
    }
  }
  const end = text.indexOf("\n");
  return { from: 0, to: end === -1 ? text.length : end };
}
