// Curves: smoothing and axes.
import type { Point } from "../api/client";

/**
 * An exponential moving average without the bias of its start, as TensorBoard draws it.
 *
 * @param values - of the curve.
 * @param weight - of what came before, from 0 (no smoothing) to below 1.
 */
export function smoothed(values: number[], weight: number): number[] {
  if (weight <= 0) return values;
  let last = 0;
  let total = 0;
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    last = last * weight + (1 - weight) * value;
    total = total * weight + (1 - weight);
    return last / total;
  });
}

export type Axis = "step" | "epoch" | "time";

/**
 * Where the points of a curve lie on the horizontal axis.
 *
 * @param stepsPerEpoch - null if it is not known: epochs are then steps.
 * @returns steps, epochs, or minutes since the first point.
 */
export function positions(points: Point[], axis: Axis, stepsPerEpoch: number | null): number[] {
  const start = points[0]?.timestamp ?? 0;
  return points.map((point) => {
    if (axis === "time") return (point.timestamp - start) / 60_000;
    if (axis === "epoch" && stepsPerEpoch !== null) return point.step / stepsPerEpoch;
    return point.step;
  });
}

/** Several curves over one axis: the union of their positions, and null where one has no point. */
export function joined(curves: { x: number[]; y: number[] }[]): (number | null)[][] {
  const xs = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, index) => [x, index]));
  const columns = curves.map((curve) => {
    const column: (number | null)[] = Array.from({ length: xs.length }, () => null);
    for (const [index, x] of curve.x.entries()) {
      const at = place.get(x);
      const y = curve.y[index];
      if (at !== undefined && y !== undefined && Number.isFinite(y)) column[at] = y;
    }
    return column;
  });
  return [xs, ...columns];
}
