// The scores of encoders, and which way each metric is better.
import type { Point } from "../api/client";
import { number } from "./format";

/** One score of each protocol, or two where images have several labels: encoders are ranked by these. */
export const SCORES = [
  "knn/top1",
  "linear/top1",
  "linear/map",
  "finetune/top1",
  "svm/map",
  "retrieval/map",
  "segmentation/miou",
  "detection/ap",
];

/** Whether a metric says how good an encoder is: a fraction of 1, and larger is better. */
export function isScore(metric: string): boolean {
  return /\/(top\d+|map|recall_at_\d+|miou|pixel_accuracy|(mask_)?ap(50|75)?)$/.test(metric);
}

/** Whether larger is better; null if neither is. */
export function direction(metric: string): "max" | "min" | null {
  if (isScore(metric) || metric.endsWith("/rankme")) return "max";
  if (metric === "train/loss") return "min";
  return null;
}

/** The best of a curve's values, by its metric's direction. */
export function best(metric: string, points: Point[]): number | null {
  const values = points.map((point) => point.value).filter((value) => Number.isFinite(value));
  const way = direction(metric);
  if (values.length === 0 || way === null) return null;
  return values.reduce((a, b) => (way === "max" ? Math.max(a, b) : Math.min(a, b)));
}

/** The metric to begin with: a score, or else one that has a direction. */
export function telling(metrics: string[]): string | undefined {
  const inOrder = [...SCORES.filter((name) => metrics.includes(name)), ...metrics];
  return inOrder.find(isScore) ?? inOrder.find((name) => direction(name) !== null) ?? metrics[0];
}

/** What a score has gained, in the unit of its values: points of a percentage for accuracies, else plain. */
export function gain(metric: string, before: number, after: number): string {
  const size = Math.abs(after - before);
  return (after < before ? "−" : "+") + (/\/top\d+$/.test(metric) ? `${(100 * size).toFixed(1)} points` : number(size));
}
