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
 * @param start - the moment from which minutes count.
 * @returns steps, epochs, or minutes.
 */
export function positions(points: Point[], axis: Axis, stepsPerEpoch: number | null, start = points[0]?.timestamp ?? 0): number[] {
  return points.map((point) => {
    if (axis === "time") return (point.timestamp - start) / 60_000;
    if (axis === "epoch" && stepsPerEpoch !== null) return point.step / stepsPerEpoch;
    return point.step;
  });
}

/** The moment of the first point of any of a job's metrics: charts whose minutes count from it show the same moments. */
export function began(curves: Record<string, Point[]>): number | undefined {
  const firsts = Object.values(curves).flatMap(([first]) => first?.timestamp ?? []);
  return firsts.length > 0 ? Math.min(...firsts) : undefined;
}

/** Whether one looks at a part of the values along an axis, which are in order. */
export function zoomed(values: ArrayLike<number>, { min, max }: { min?: number | null; max?: number | null }): boolean {
  const first = values[0];
  const last = values[values.length - 1];
  if (first === undefined || last === undefined || min == null || max == null) return false;
  return min > first || max < last;
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
