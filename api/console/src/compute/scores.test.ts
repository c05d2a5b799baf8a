import { expect, test } from "vitest";
import { best, direction, gain, isScore, SCORES, telling } from "./scores";

test.each([
  ...SCORES, "knn/top5", "few_shot/16/top1", "svm/top1", "retrieval/recall_at_10", "segmentation/pixel_accuracy",
  "detection/ap50", "detection/ap75", "detection/mask_ap", "detection/mask_ap50", "evaluations/knn/top1",
])("%s is a score: larger is better", (metric) => {
  expect(isScore(metric)).toBe(true);
  expect(direction(metric)).toBe("max");
});

test.each([
  "linear/holdout_top1", "linear/top1_std", "few_shot/16/top1_std", "linear/learning_rate", "knn/queries",
  "representation/rankme", "data/corrupt_images", "train/loss",
])("%s is no score", (metric) => expect(isScore(metric)).toBe(false));

test("what is no score may have a direction", () => {
  expect(direction("representation/rankme")).toBe("max");
  expect(direction("train/loss")).toBe("min");
  expect(direction("train/learning_rate")).toBeNull();
});

test("the best value depends on the metric", () => {
  const points = [0.2, 0.9, 0.5, Number.NaN].map((value, step) => ({ step, value, timestamp: 0 }));
  expect(best("knn/top1", points)).toBe(0.9);
  expect(best("segmentation/miou", points)).toBe(0.9);
  expect(best("train/loss", points)).toBe(0.2);
  expect(best("train/learning_rate", points)).toBeNull();
  expect(best("knn/top1", [])).toBeNull();
});

test("one begins with a score, the usual first", () => {
  expect(telling(["embedding/rankme", "few_shot/1/top1", "linear/top1", "knn/top5"])).toBe("linear/top1");
  expect(telling(["embedding/rankme", "few_shot/1/top1"])).toBe("few_shot/1/top1");
  expect(telling(["embedding/std_mean", "train/loss"])).toBe("train/loss");
  expect(telling(["embedding/std_mean"])).toBe("embedding/std_mean");
  expect(telling([])).toBeUndefined();
});

test("a gain is in the unit of its score", () => {
  expect(gain("knn/top1", 0.25, 0.75)).toBe("+50.0 points");
  expect(gain("few_shot/1/top1", 0.5, 0.375)).toBe("−12.5 points");
  expect(gain("segmentation/miou", 0.25, 0.75)).toBe("+0.5");
  expect(gain("detection/ap", 0.5, 0.25)).toBe("−0.25");
  expect(gain("svm/map", 0.5, 0.5)).toBe("+0");
});
