// The curves of one job, one chart for what belongs together.
import { Group, SegmentedControl, Slider, Stack, Switch, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { getRouteApi, useNavigate } from "@tanstack/react-router";
import { useMemo } from "react";
import type { Job, Point } from "../../api/client";
import * as queries from "../../api/queries";
import { Chart, type Curve } from "../../components/Chart";
import { Failure } from "../../components/Failure";
import { colorAt } from "../../compute/colors";
import { type Axis, positions, smoothed } from "../../compute/curve";
import type { JobSearch } from "../../router";

const route = getRouteApi("/jobs/$id");

/** What stands in one chart, in this order; any other metric has a chart of its own. */
const GROUPS: [title: string, metrics: string[]][] = [
  ["Loss", ["train/loss"]],
  ["Terms of the loss, bare", ["train/invariance", "train/variance", "train/covariance"]],
  ["Standard deviation of the embedding's dimensions", ["embedding/std_mean", "embedding/std_min"]],
  ["Standard deviation of the representation's dimensions", ["representation/std_mean", "representation/std_min"]],
  ["Nearest neighbours", ["knn/top1", "knn/top5"]],
  ["RankMe", ["representation/rankme"]],
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
): Curve {
  const raw = points.map((point) => point.value);
  const x = positions(points, axis, stepsPerEpoch);
  if (smooth <= 0 || raw.length < 5) return { label, color, x, y: raw };
  return { label, color, x, y: smoothed(raw, smooth), faint: raw };
}

export function stepsPerEpoch(job: Job): number | null {
  const { progress } = job;
  return progress === null || progress.epochs === 0 ? null : progress.steps / progress.epochs;
}

export default function Curves({ job }: { job: Job }) {
  const { axis = "step", smooth = 0, log = false } = route.useSearch();
  const names = Object.keys(job.summary).sort();
  const { data, error } = useQuery(queries.curves([job.id], names.slice(0, 20), 1000));
  const rest = useQuery(queries.curves(names.length > 20 ? [job.id] : [], names.slice(20, 40), 1000));
  const perEpoch = stepsPerEpoch(job);
  const found = useMemo(
    () => ({ ...data?.[job.id], ...rest.data?.[job.id] }),
    [data, rest.data, job.id],
  );
  const charts = useMemo(
    () =>
      chartsOf(Object.keys(found)).map(([title, metrics]) => ({
        title,
        curves: metrics.map((name, index) =>
          curveOf(name, colorAt(index), found[name] ?? [], axis, smooth, perEpoch),
        ),
      })),
    [found, axis, smooth, perEpoch],
  );
  if (error) return <Failure error={error} />;
  return (
    <Stack gap="sm">
      <CurveControls from="/jobs/$id" axis={axis} smooth={smooth} log={log} />
      {names.length === 0 && <Text c="dimmed">There are no curves yet.</Text>}
      <div className="grid">
        {charts.map(({ title, curves }) => (
          <Chart key={title} title={title} curves={curves} xLabel={axisLabel(axis)} log={log} group={job.id} />
        ))}
      </div>
      <Pictures job={job} />
    </Stack>
  );
}

export function CurveControls({
  from,
  axis,
  smooth,
  log,
}: {
  from: "/jobs/$id" | "/compare";
  axis: Axis;
  smooth: number;
  log?: boolean;
}) {
  const navigate = useNavigate({ from });
  const change = (changes: Partial<JobSearch>) =>
    void navigate({ search: ((now: object) => ({ ...now, ...changes })) as never, replace: true });
  return (
    <Group gap="lg">
      <SegmentedControl
        aria-label="Horizontal axis"
        data={["step", "epoch", "time"]}
        value={axis}
        onChange={(value) => change({ axis: value as Axis })}
      />
      <Group gap="xs">
        <Text size="xs">Smoothing</Text>
        <Slider
          w={120}
          min={0}
          max={0.98}
          step={0.02}
          value={smooth}
          onChange={(value) => change({ smooth: value })}
          thumbLabel="Smoothing"
          label={(value) => value.toFixed(2)}
        />
      </Group>
      {log !== undefined && (
        <Switch label="Logarithmic" checked={log} onChange={(event) => change({ log: event.currentTarget.checked || undefined })} />
      )}
    </Group>
  );
}

function Pictures({ job }: { job: Job }) {
  const { data } = useQuery(queries.artifacts(job.id));
  const pictures = (data?.items ?? []).filter((file) => file.path.endsWith(".png"));
  if (pictures.length === 0) return null;
  return (
    <section>
      <Title order={2} mb="xs">
        Pictures
      </Title>
      <div className="grid">
        {pictures.map(({ path }) => (
          <figure key={path} className="card" style={{ margin: 0 }}>
            <img
              src={`/v1/jobs/${job.id}/artifacts/${path.split("/").map(encodeURIComponent).join("/")}`}
              alt={path}
              loading="lazy"
              style={{ maxWidth: "100%" }}
            />
            <figcaption>
              <Text size="xs" c="dimmed">
                {path}
              </Text>
            </figcaption>
          </figure>
        ))}
      </div>
    </section>
  );
}
