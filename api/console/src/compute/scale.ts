// How values of any kind lie along an axis.

export type Scale = { type: "value" | "log" } | { type: "category"; data: string[] };

const MISSING = "–";

/** A value as an axis of names has it. */
export function named(value: unknown): string {
  if (value === undefined) return MISSING;
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Numbers lie on a scale, a logarithmic one if they are far apart; other values by name, what is missing last. */
export function scaleOf(values: unknown[]): Scale {
  if (values.every((value) => value == null || typeof value === "number")) {
    const known = values.filter((value): value is number => Number.isFinite(value));
    const low = Math.min(...known);
    return { type: low > 0 && Math.max(...known) / low > 50 ? "log" : "value" };
  }
  const names = [...new Set(values.map(named))].sort(
    (a, b) => Number(a === MISSING) - Number(b === MISSING) || a.localeCompare(b, "en", { numeric: true }),
  );
  return { type: "category", data: names };
}
