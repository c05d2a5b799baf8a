import { expect, test } from "vitest";
import { discriminators, placeOf, type Schema, schemasAt } from "./complete";

const LINES = `kind: pretrain
optimizer: {name: lars, base_lr: 1}
evaluations:
  - protocol:
      name: knn
      k: 20
training:
  epochs: 1
`.split("\n");

test("a line stands under the keys around it", () => {
  expect(placeOf(LINES, 5, 7).path).toEqual(["evaluations", "protocol"]);
  expect(placeOf(LINES, 7, 4).path).toEqual(["training"]);
  expect(placeOf(LINES, 0, 2).path).toEqual([]);
});

test("what tells alternatives apart is read, in lines and in braces", () => {
  expect(discriminators(LINES)).toEqual({
    kind: "pretrain",
    "optimizer.name": "lars",
    "evaluations.protocol.name": "knn",
  });
});

const SCHEMA: Schema = {
  oneOf: [{ $ref: "#/$defs/Pretrain" }, { $ref: "#/$defs/Sweep" }],
  $defs: {
    Pretrain: {
      properties: { kind: { const: "pretrain" }, optimizer: { anyOf: [{ $ref: "#/$defs/Lars" }, { $ref: "#/$defs/Sgd" }] } },
    },
    Sweep: { properties: { kind: { const: "sweep" }, space: {} } },
    Lars: { properties: { name: { const: "lars" }, eta: {} } },
    Sgd: { properties: { name: { const: "sgd" }, nesterov: {} } },
  },
};

test("only the fields of the chosen alternative are offered", () => {
  const fields = (path: string[], chosen: Record<string, string>) =>
    schemasAt(SCHEMA, path, chosen).flatMap((each) => Object.keys(each.properties ?? {}));
  expect(fields([], { kind: "pretrain" })).toEqual(["kind", "optimizer"]);
  expect(fields([], { kind: "sweep" })).toEqual(["kind", "space"]);
  expect(fields(["optimizer"], { kind: "pretrain", "optimizer.name": "lars" })).toEqual(["name", "eta"]);
  expect(fields(["optimizer"], { kind: "pretrain" })).toEqual(["name", "eta", "name", "nesterov"]);
});
