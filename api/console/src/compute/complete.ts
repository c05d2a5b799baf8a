// Completion of a spec in YAML from its JSON Schema.
import type { Completion, CompletionContext, CompletionResult, CompletionSource } from "@codemirror/autocomplete";

export type Schema = {
  $ref?: string;
  $defs?: Record<string, Schema>;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  properties?: Record<string, Schema>;
  items?: Schema;
  enum?: unknown[];
  const?: unknown;
  type?: string;
  default?: unknown;
  description?: string;
};

/** A schema and its alternatives, without references. */
export function alternatives(schema: Schema, root: Schema, depth = 0): Schema[] {
  if (depth > 8) return [];
  if (schema.$ref !== undefined) {
    const name = schema.$ref.split("/").at(-1) ?? "";
    const target = root.$defs?.[name];
    return target === undefined ? [] : alternatives(target, root, depth + 1);
  }
  const more = [...(schema.anyOf ?? []), ...(schema.oneOf ?? []), ...(schema.allOf ?? [])];
  return [schema, ...more.flatMap((each) => alternatives(each, root, depth + 1))];
}

/**
 * What a schema says of a place.
 *
 * @param path - keys from the outside in; those of lists are left out.
 * @param chosen - by dotted path, the values that tell alternatives apart: `kind`, `name`.
 */
export function schemasAt(root: Schema, path: string[], chosen: Record<string, string>): Schema[] {
  let here = fitting(alternatives(root, root), "", chosen);
  let at = "";
  for (const key of path) {
    at = at === "" ? key : `${at}.${key}`;
    here = here
      .flatMap((schema) => schema.properties?.[key] ?? [])
      .flatMap((schema) => alternatives(schema, root))
      .flatMap((schema) => (schema.items === undefined ? schema : alternatives(schema.items, root)));
    here = fitting(here, at, chosen);
  }
  return here;
}

/** The alternatives whose discriminators have the values that are written. */
function fitting(schemas: Schema[], at: string, chosen: Record<string, string>): Schema[] {
  return schemas.filter((schema) =>
    ["kind", "name", "source", "algorithm"].every((field) => {
      const fixed = schema.properties?.[field]?.const;
      const written = chosen[at === "" ? field : `${at}.${field}`];
      return fixed === undefined || written === undefined || written === fixed;
    }),
  );
}

type Place = { path: string[]; key: string | null; indent: number };

/** Where a line of block YAML stands: the keys around it, and its own if it is a value's. */
export function placeOf(lines: string[], line: number, column: number): Place {
  const text = (lines[line] ?? "").slice(0, column);
  const own = /^(\s*(?:- )*)([\w.]+):\s/.exec(text);
  const indent = /^[\s-]*/.exec(text)?.[0].length ?? 0;
  const path: string[] = [];
  let below = indent;
  for (let each = line - 1; each >= 0 && below > 0; each -= 1) {
    const found = /^(\s*(?:- )*)([\w.]+):\s*(?:#.*)?$/.exec(lines[each] ?? "");
    const start = found?.[1]?.length ?? Number.POSITIVE_INFINITY;
    if (found?.[2] !== undefined && start < below) {
      path.unshift(found[2]);
      below = start;
    }
  }
  return { path, key: own?.[2] ?? null, indent };
}

/** The written values of fields that tell alternatives apart, by dotted path. */
export function discriminators(lines: string[]): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [index, line] of lines.entries()) {
    const match = /^[\s-]*(kind|name|source|algorithm):\s*["']?([\w-]+)/.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) {
      const { path } = placeOf(lines, index, line.length);
      found[[...path, match[1]].join(".")] = match[2];
    }
    for (const inline of line.matchAll(/([\w.]+):\s*\{[^}]*?\b(name|source|algorithm):\s*["']?([\w-]+)/g)) {
      const { path } = placeOf(lines, index, 0);
      const outer = index > 0 && /^\s/.test(line) ? placeOf(lines, index, line.search(/\S/)).path : path;
      found[[...outer, inline[1] ?? "", inline[2] ?? ""].join(".")] = inline[3] ?? "";
    }
  }
  return found;
}

function values(schemas: Schema[]): Completion[] {
  const known = schemas.flatMap((schema) => [
    ...(schema.enum ?? []),
    ...(schema.const === undefined ? [] : [schema.const]),
    ...(schema.type === "boolean" ? [true, false] : []),
  ]);
  return [...new Set(known.map(String))].map((label) => ({ label, type: "constant" }));
}

/** A source of completions for block YAML, and for flow mappings of one line. */
export function complete(schema: unknown): CompletionSource {
  return (context: CompletionContext): CompletionResult | null => {
    if (typeof schema !== "object" || schema === null) return null;
    const root = schema as Schema;
    const word = context.matchBefore(/[\w.-]*/);
    if (word === null || (word.from === word.to && !context.explicit)) return null;
    const lines = context.state.doc.toString().split("\n");
    const at = context.state.doc.lineAt(context.pos);
    const chosen = discriminators(lines);
    const before = at.text.slice(0, word.from - at.from);
    const { path } = placeOf(lines, at.number - 1, before.length);
    // `optimizer: {name: lars, ba|`
    const flow = /([\w.]+):\s*\{([^{}]*)$/.exec(before);
    const inside = flow?.[1] === undefined ? path : [...path, flow[1]];
    const key = /(?:^|[\s{,-])([\w.]+):\s*$/.exec(before)?.[1];
    if (key !== undefined) {
      const options = values(schemasAt(root, [...inside, key], chosen));
      return options.length > 0 ? { from: word.from, options } : null;
    }
    const options = new Map<string, Completion>();
    for (const each of schemasAt(root, inside, chosen)) {
      for (const [name, field] of Object.entries(each.properties ?? {})) {
        options.set(name, {
          label: name,
          apply: `${name}: `,
          type: "property",
          detail: field.default === undefined ? undefined : JSON.stringify(field.default),
          info: field.description,
        });
      }
    }
    return options.size > 0 ? { from: word.from, options: [...options.values()] } : null;
  };
}
