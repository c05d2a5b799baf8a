// Numbers and times as people read them.

const UNITS: [number, string][] = [
  [86_400, "d"],
  [3_600, "h"],
  [60, "min"],
];

/** Seconds as one or two units: `3 min 20 s`, `1 d 4 h`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${seconds < 10 ? Math.max(0, Math.round(seconds * 10) / 10) : whole} s`;
  for (const [index, [size, unit]] of UNITS.entries()) {
    if (whole < size) continue;
    const [nextSize, nextUnit] = UNITS[index + 1] ?? [1, "s"];
    const rest = Math.floor((whole % size) / nextSize);
    const first = `${Math.floor(whole / size)} ${unit}`;
    return rest > 0 ? `${first} ${rest} ${nextUnit}` : first;
  }
  return `${whole} s`;
}

/** How long ago a moment is, or how far ahead. */
export function relative(moment: string, now: number): string {
  const seconds = (now - Date.parse(moment)) / 1000;
  if (Math.abs(seconds) < 5) return "just now";
  const [biggest] = duration(Math.abs(seconds)).match(/^[\d.]+ \w+/) ?? [""];
  return seconds > 0 ? `${biggest} ago` : `in ${biggest}`;
}

/** A number with four significant digits, and no more. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return size >= 1000
    ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(4)));
}

/**
 * The marks of an axis, with as many decimals as tell them apart.
 *
 * @param marks - null where there is no text.
 * @param step - between two of them.
 */
export function ticks(marks: (number | null)[], step: number): string[] {
  const digit = Math.floor(Math.log10(step) + 1e-9);
  const decimals = Math.min(20, Math.max(0, -digit));
  return marks.map((mark) => {
    if (mark === null) return "";
    const size = Math.abs(mark);
    if (mark === 0 || (size >= 1e-3 && size < 1e6)) {
      return mark.toLocaleString("en", { maximumFractionDigits: decimals });
    }
    return mark.toExponential(Math.min(20, Math.max(0, Math.floor(Math.log10(size) + 1e-9) - digit)));
  });
}

/** A metric's value: accuracies are fractions, shown in percent. */
export function metric(name: string, value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return /\/top\d+$/.test(name) ? `${(100 * value).toFixed(1)} %` : number(value);
}

/** Bytes in binary units. */
export function bytes(size: number | null | undefined): string {
  if (size === null || size === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = size;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** `1 job`, `2 jobs`. */
export function plural(count: number, noun: string): string {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}
