// Several jobs beside each other: curves, values, and only those parameters that differ.
import { ActionIcon, Button, Group, Select, Stack, Table, Text, Title } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useQueries, useQuery } from "@tanstack/react-query";
import { getRouteApi, Link, useNavigate } from "@tanstack/react-router";
import { useCallback, useMemo } from "react";
import type { Job } from "../api/client";
import * as queries from "../api/queries";
import { Chart } from "../components/Chart";
import { axisLabel, curveOf, stepsPerEpoch } from "../components/charts";
import { CurveControls } from "../components/CurveControls";
import { Failure } from "../components/Failure";
import { FindJob } from "../components/FindJob";
import { ParallelCoordinates, Scatter } from "../components/Picture";
import { StateBadge } from "../components/StateBadge";
import { colorAt, leftOut, placed } from "../compute/colors";
import { began } from "../compute/curve";
import { metric, number } from "../compute/format";
import { best, telling } from "../compute/scores";
import { differing, flatten } from "../compute/spec";

const route = getRouteApi("/compare");
const MOST = 50;
/** As many parameters are taken in at a glance. */
const FEW = 12;
/** What is drawn of each training, in this order. */
const DRAWN = [
  "train/loss", "train/invariance", "train/variance", "train/covariance", "embedding/std_mean",
  "knn/top1", "representation/rankme", "train/learning_rate", "train/images_per_second",
];
/** Fields that say which job it is, not what it does. */
const NAMES = new Set(["name", "experiment", "priority", "start_after", "deadline", "max_runtime", "depends_on", "evaluations"]);

function parameters(job: Job): Record<string, string> {
  const flat = flatten(job.spec);
  return Object.fromEntries(Object.entries(flat).filter(([path]) => !NAMES.has(path) && !path.startsWith("labels.")));
}

function value(text: string | undefined): number | string | undefined {
  const asNumber = Number(text);
  return text !== undefined && text !== "" && Number.isFinite(asNumber) ? asNumber : text;
}

export function Compare() {
  const { job: places = [], axis = "step", smooth = 0, log = false, metric: chosen, x } = route.useSearch();
  const navigate = useNavigate({ from: "/compare" });
  const [every, { toggle }] = useDisclosure();
  const ids = [...new Set(places)].filter((id) => id !== "");
  const { jobs, failed } = useQueries({
    queries: ids.slice(0, MOST).map((id) => queries.job(id)),
    combine: (found) => ({
      jobs: found.flatMap((each) => each.data ?? []),
      failed: found.find((each) => each.error !== null)?.error,
    }),
  });
  const colorOf = useCallback((job: Job) => colorAt(places.indexOf(job.id)), [places]);
  const names = useMemo(() => [...new Set(jobs.flatMap((job) => Object.keys(job.summary)))].sort(), [jobs]);
  const metricNames = names.filter((name) => name !== "train/epoch" && name !== "data/corrupt_images");
  const shown = metricNames.includes(chosen ?? "") ? chosen : telling(metricNames);
  // What is compared first, and then how the trainings went.
  const drawn = [...new Set(shown === undefined ? DRAWN : [shown, ...DRAWN])].filter((name) => names.includes(name));
  const curves = useQuery(queries.curves(jobs.map((job) => job.id), drawn, 500));
  const specs = useMemo(() => jobs.map(parameters), [jobs]);
  const paths = useMemo(() => differing(specs), [specs]);
  const numeric = paths.find((path) => specs.every((spec) => typeof value(spec[path]) === "number"));
  const across = paths.includes(x ?? "") ? x : (numeric ?? paths[0]);
  const columns = every ? paths : paths.slice(0, FEW);
  const lines = useMemo(
    () =>
      jobs.map((job, index) => ({
        label: job.name,
        color: colorOf(job),
        values: {
          ...Object.fromEntries(paths.map((path) => [path, value(specs[index]?.[path])])),
          ...(shown === undefined ? {} : { [shown]: job.summary[shown] ?? null }),
        },
      })),
    [jobs, paths, specs, shown, colorOf],
  );
  const axes = useMemo(() => [...paths.slice(0, FEW), ...(shown === undefined ? [] : [shown])], [paths, shown]);
  const dots = useMemo(
    () =>
      jobs.flatMap((job, index) => {
        const y = shown === undefined ? undefined : job.summary[shown];
        const at = across === undefined ? undefined : value(specs[index]?.[across]);
        return at !== undefined && y !== undefined ? [{ label: job.name, color: colorOf(job), x: at, y }] : [];
      }),
    [jobs, specs, shown, across, colorOf],
  );
  const charts = useMemo(
    () =>
      drawn.map((name) => ({
        name,
        curves: jobs.map((job) => {
          const found = curves.data?.[job.id] ?? {};
          return curveOf(job.name, colorOf(job), found[name] ?? [], axis, smooth, stepsPerEpoch(job), began(found));
        }),
      })),
    [jobs, curves.data, axis, smooth, drawn.join(), colorOf],
  );
  const change = (next: string[]) => void navigate({ search: (now) => ({ ...now, job: next }), replace: true });
  return (
    <Stack gap="sm">
      <Group justify="space-between">
        <Title order={1}>Compare</Title>
        <FindJob label="Add a job by its name or id" but={ids} choose={(id) => change(placed(places, id))} />
      </Group>
      {failed && <Failure error={failed} />}
      {ids.length > MOST && <Failure error={new Error(`At most ${MOST} jobs are compared: the first are shown.`)} />}
      {jobs.length < 2 && <Text c="dimmed">Choose two jobs or more in the list of jobs, or add them here by their name or id.</Text>}
      {jobs.length > 0 && (
        <>
          <Group>
            <CurveControls from="/compare" axis={axis} smooth={smooth} log={log} />
            <Select aria-label="Metric" w={220} data={metricNames} value={shown ?? null} onChange={(next) => void navigate({ search: (now) => ({ ...now, metric: next ?? undefined }), replace: true })} />
          </Group>
          <div className="scroll" tabIndex={0}>
            <Table>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>Job</Table.Th>
                  <Table.Th>State</Table.Th>
                  <Table.Th ta="right">{shown}, last</Table.Th>
                  <Table.Th ta="right">best</Table.Th>
                  {columns.map((path) => (
                    <Table.Th key={path} ta="right">
                      {path}
                    </Table.Th>
                  ))}
                  <Table.Th w={30} />
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {jobs.map((job, index) => (
                  <Table.Tr key={job.id}>
                    <Table.Td maw={260}>
                      <Group gap={6} wrap="nowrap">
                        <span aria-hidden style={{ width: 12, height: 12, borderRadius: 3, background: colorOf(job), flexShrink: 0 }} />
                        <Link to="/jobs/$id" params={{ id: job.id }} className="clip">
                          {job.name}
                        </Link>
                      </Group>
                    </Table.Td>
                    <Table.Td>
                      <StateBadge state={job.state} />
                    </Table.Td>
                    <Table.Td ta="right" style={{ whiteSpace: "nowrap" }}>{shown === undefined ? "–" : metric(shown, job.summary[shown])}</Table.Td>
                    <Table.Td ta="right" style={{ whiteSpace: "nowrap" }}>
                      {shown === undefined ? "–" : metric(shown, best(shown, curves.data?.[job.id]?.[shown] ?? []))}
                    </Table.Td>
                    {columns.map((path) => {
                      const text = specs[index]?.[path];
                      const known = value(text);
                      return (
                        <Table.Td key={path} ta="right" maw={160} className="clip" title={text}>
                          {typeof known === "number" ? number(known) : (text ?? "–")}
                        </Table.Td>
                      );
                    })}
                    <Table.Td>
                      <ActionIcon variant="subtle" color="gray" size="sm" aria-label={`Leave out ${job.name}`} onClick={() => change(leftOut(places, job.id))}>
                        ✕
                      </ActionIcon>
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </div>
          {paths.length > FEW && (
            <Button variant="subtle" size="compact-xs" w="fit-content" onClick={toggle}>
              {every ? `Show the first ${FEW} parameters` : `Show all ${paths.length} parameters`}
            </Button>
          )}
          {paths.length === 0 && jobs.length > 1 && <Text c="dimmed">Their parameters are the same.</Text>}
          <div className="grid">
            {charts.map((each) => (
              <Chart key={each.name} title={each.name} curves={each.curves} xLabel={axisLabel(axis)} log={log} group="compare" />
            ))}
          </div>
          {jobs.length > 1 && shown !== undefined && paths.length > 0 && (
            <div className="grid">
              <div>
                <Select
                  label="Parameter of the scatter"
                  mb={4}
                  data={paths}
                  value={across ?? null}
                  onChange={(next) => void navigate({ search: (now) => ({ ...now, x: next ?? undefined }), replace: true })}
                />
                {across !== undefined && (
                  <Scatter
                    title={`${shown} against ${across}${dots.length < jobs.length ? `: ${dots.length} of ${jobs.length} jobs have both` : ""}`}
                    dots={dots}
                    xLabel={across}
                    yLabel={shown}
                  />
                )}
              </div>
              <ParallelCoordinates
                title={paths.length > FEW ? `The first ${FEW} of ${paths.length} parameters, and the metric` : "Parameters and metric"}
                axes={axes}
                lines={lines}
              />
            </div>
          )}
        </>
      )}
    </Stack>
  );
}
