// Which metrics share a chart, and how a metric's points become a curve.
import type { Job, Point } from "../api/client";
import { type Axis, positions, smoothed } from "../compute/curve";
import type { Curve } from "./Chart";

/** What stands in one chart, in this order; any other metric has a chart of its own. */
const GROUPS: [title: string, metrics: string[]][] = [
  ["Loss", ["train/loss"]],
  ["Terms of the loss, bare", ["train/invariance", "train/local_invariance", "train/variance", "train/covariance"]],
  ["Standard deviation of the embedding's dimensions", ["embedding/std_mean", "embedding/std_min"]],
  ["Standard deviation of the representation's dimensions", ["representation/std_mean", "representation/std_min"]],
  ["Nearest neighbours", ["knn/top1", "knn/top5"]],
  ["RankMe", ["representation/rankme", "embedding/rankme"]],
  ["Learning rate", ["train/learning_rate"]],
  ["Images per second", ["train/images_per_second"]],
];
const LEFT_OUT = new Set(["train/epoch", "data/corrupt_images"]);

export function chartsOf(names: string[]): [string, string[]][] {
  const known = new Set(GROUPS.flatMap(([, metrics]) => metrics));
  const others = names.filter((name) => !known.has(name) && !LEFT_OUT.has(name)).sort();
  const grouped = GROUPS.map(([title, metrics]): [string, string[]] => [
    title,
    metrics.filter((name) => names.includes(name)),
  ]);
  return [...grouped.filter(([, metrics]) => metrics.length > 0), ...others.map((name): [string, string[]] => [name, [name]])];
}

export function axisLabel(axis: Axis): string {
  return { step: "step", epoch: "epoch", time: "minutes" }[axis];
}

export function curveOf(
  label: string,
  color: string,
  points: Point[],
  axis: Axis,
  smooth: number,
  stepsPerEpoch: number | null,
  start?: number,
): Curve {
  const raw = points.map((point) => point.value);
  const x = positions(points, axis, stepsPerEpoch, start);
  if (smooth <= 0 || raw.length < 5) return { label, color, x, y: raw };
  return { label, color, x, y: smoothed(raw, smooth), faint: raw };
}

export function stepsPerEpoch({ progress }: Pick<Job, "progress">): number | null {
  return progress === null || progress.epochs === 0 ? null : progress.steps / progress.epochs;
}
