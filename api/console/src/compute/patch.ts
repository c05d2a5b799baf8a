// What turns one document into another.
type Document = Record<string, unknown>;

/** The merge patch (RFC 7396) from one mapping to another: null removes a field. */
export function mergePatch(before: Document, after: Document): Document {
  const patch: Document = {};
  for (const name of Object.keys(before)) if (!(name in after)) patch[name] = null;
  for (const [name, value] of Object.entries(after)) {
    const was = before[name];
    if (isMapping(was) && isMapping(value)) {
      const inner = mergePatch(was, value);
      if (Object.keys(inner).length > 0) patch[name] = inner;
    } else if (JSON.stringify(was) !== JSON.stringify(value)) {
      patch[name] = value;
    }
  }
  return patch;
}

function isMapping(value: unknown): value is Document {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
