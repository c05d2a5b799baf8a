// The curves of one job, one chart for what belongs together.
import { Loader, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { useMemo } from "react";
import type { Job } from "../../api/client";
import * as queries from "../../api/queries";
import { Chart } from "../../components/Chart";
import { axisLabel, chartsOf, curveOf, stepsPerEpoch } from "../../components/charts";
import { CurveControls } from "../../components/CurveControls";
import { Failure } from "../../components/Failure";
import { colorAt } from "../../compute/colors";
import { began } from "../../compute/curve";
import { meaning } from "../../compute/meaning";

const route = getRouteApi("/jobs/$id");

export default function Curves({ job }: { job: Job }) {
  const { axis = "step", smooth = 0, log = false } = route.useSearch();
  const names = Object.keys(job.summary).sort();
  const { data, error } = useQuery(queries.curves([job.id], names.slice(0, 20), 1000));
  const rest = useQuery(queries.curves(names.length > 20 ? [job.id] : [], names.slice(20, 40), 1000));
  const read = data !== undefined && (names.length <= 20 || rest.data !== undefined);
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
          curveOf(name, colorAt(index), found[name] ?? [], axis, smooth, perEpoch, began(found)),
        ),
      })),
    [found, axis, smooth, perEpoch],
  );
  if (error) return <Failure error={error} />;
  return (
    <Stack gap="sm">
      <CurveControls from="/jobs/$id" axis={axis} smooth={smooth} log={log} />
      {names.length === 0 && <Text c="dimmed">There are no curves yet: the first points come with the first steps.</Text>}
      {names.length > 0 && data === undefined && <Loader size="sm" role="status" aria-label="The curves are being read" />}
      <div className="grid">
        {charts.map(({ title, curves }) => (
          <Chart key={title} title={title} note={meaning(title)} curves={curves} xLabel={axisLabel(axis)} log={log} group={job.id} />
        ))}
      </div>
      {/* They would be pushed down by the charts. */}
      {read && <Pictures job={job} />}
    </Stack>
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
