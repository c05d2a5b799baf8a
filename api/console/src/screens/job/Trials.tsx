// A sweep's trials: the leaderboard, what was cut and why, and what mattered.
import { Group, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import type { Job, Trial } from "../../api/client";
import * as queries from "../../api/queries";
import { Failure } from "../../components/Failure";
import { Bars, ParallelCoordinates, Scatter } from "../../components/Picture";
import { TrialBadge } from "../../components/TrialBadge";
import { colorAt } from "../../compute/colors";
import { metric, number, plural } from "../../compute/format";
import { rungs } from "../../compute/rungs";
import { whyEnded } from "../../compute/trial";

type Sweep = {
  objective: { metric: string; mode: string };
  scheduler: { name: string; grace_epochs?: number; reduction_factor?: number };
  space: Record<string, unknown>;
  search: { seeds?: number };
};

export default function Trials({ job }: { job: Job }) {
  const { data: trials, error } = useQuery(queries.trials(job.id));
  const importance = useQuery(queries.importance(job.id));
  // By their numbers: their places change while they run.
  const [brushed, setBrushed] = useState<ReadonlySet<number> | null>(null);
  const sweep = job.spec as unknown as Sweep;
  const { objective, scheduler } = sweep;
  const seeds = sweep.search.seeds ?? 1;
  const parameters = useMemo(() => Object.keys(sweep.space).sort(), [sweep.space]);
  const ranked = useMemo(() => trials ?? [], [trials]);
  const lines = useMemo(
    () =>
      ranked.map((trial) => ({
        label: `trial ${trial.number}`,
        color: trial.stopped_early ? "#8a94a3" : colorAt(0),
        values: { ...trial.parameters, [objective.metric]: trial.objective },
      })),
    [ranked, objective.metric],
  );
  const axes = useMemo(() => [...parameters, objective.metric], [parameters, objective.metric]);
  const dots = useMemo(
    () =>
      ranked.flatMap((trial) =>
        trial.objective == null
          ? []
          : [{ label: `trial ${trial.number}`, color: trial.stopped_early ? "#8a94a3" : colorAt(0), x: trial.number, y: trial.objective }],
      ),
    [ranked],
  );
  if (error) return <Failure error={error} />;
  const shown = ranked.filter((trial) => brushed?.has(trial.number) ?? true);
  return (
    <Stack gap="sm">
      <div className="grid">
        <ParallelCoordinates
          title="Parameters and objective: drag along an axis to choose"
          axes={axes}
          lines={lines}
          brush={(indices) => setBrushed(indices && new Set(indices.flatMap((index) => ranked[index]?.number ?? [])))}
        />
        <Scatter title="Objective by trial, and the best so far" dots={dots} xLabel="trial" yLabel={objective.metric} line={objective.mode === "min" ? "min" : "max"} />
        {importance.data != null && Object.keys(importance.data.items).length > 0 && (
          <Bars title={`Importance of the parameters (${importance.data.method})`} bars={Object.entries(importance.data.items)} />
        )}
        {importance.data != null && Object.keys(importance.data.items).length === 0 && (
          <section className="card">
            <Title order={2}>Importance of the parameters</Title>
            <Text size="sm" c="dimmed">
              {importance.data.reason ?? "It is computed when more trials have a value."}
            </Text>
          </section>
        )}
        {scheduler.name === "asha" && (
          <Rungs trials={ranked} grace={scheduler.grace_epochs ?? 1} factor={scheduler.reduction_factor ?? 2} objective={objective} />
        )}
      </div>
      <Group justify="space-between">
        <Title order={2}>Leaderboard</Title>
        <Text size="sm" c="dimmed" role="status">
          {brushed === null ? `${ranked.length} trials` : `${shown.length} of ${ranked.length} trials chosen`}
        </Text>
      </Group>
      <div className="scroll" tabIndex={0}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Rank</Table.Th>
              <Table.Th>Trial</Table.Th>
              <Table.Th>State</Table.Th>
              <Table.Th ta="right">{objective.metric}</Table.Th>
              {seeds > 1 && <Table.Th ta="right">Seeds</Table.Th>}
              <Table.Th ta="right">Epochs</Table.Th>
              {parameters.map((name) => (
                <Table.Th key={name} ta="right">
                  {name}
                </Table.Th>
              ))}
              <Table.Th>Why it ended</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {shown.map((trial) => (
              <Table.Tr key={trial.number}>
                <Table.Td>{trial.rank ?? "–"}</Table.Td>
                <Table.Td>
                  <Link to="/jobs/$id/trials/$trial" params={{ id: job.id, trial: String(trial.number) }} aria-label={`Trial ${trial.number}`}>
                    {trial.number}
                  </Link>
                </Table.Td>
                <Table.Td>
                  <TrialBadge state={trial.state} />
                </Table.Td>
                <Table.Td ta="right">
                  {metric(objective.metric, trial.objective)}
                  {trial.std != null && ` ± ${metric(objective.metric, trial.std)}`}
                </Table.Td>
                {seeds > 1 && (
                  <Table.Td ta="right" title={trial.values.map((value) => metric(objective.metric, value)).join(", ")}>
                    {trial.values.length} of {seeds}
                  </Table.Td>
                )}
                <Table.Td ta="right">
                  {trial.epoch} of {trial.epochs}
                </Table.Td>
                {parameters.map((name) => {
                  const value = trial.parameters[name];
                  return (
                    <Table.Td key={name} ta="right">
                      {typeof value === "number" ? number(value) : JSON.stringify(value)}
                    </Table.Td>
                  );
                })}
                <Table.Td className="wrap">{whyEnded(trial, scheduler.name)}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
    </Stack>
  );
}

function Rungs({ trials, grace, factor, objective }: { trials: Trial[]; grace: number; factor: number; objective: Sweep["objective"] }) {
  return (
    <section className="card">
      <Title order={2}>Rungs</Title>
      <Table withRowBorders={false}>
        <Table.Thead>
          <Table.Tr>
            <Table.Th>After</Table.Th>
            <Table.Th ta="right">Reached it</Table.Th>
            <Table.Th ta="right">Stopped there</Table.Th>
            <Table.Th ta="right">Best since</Table.Th>
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>
          {rungs(trials, grace, factor, objective.mode).map((rung) => (
            <Table.Tr key={rung.epoch}>
              <Table.Td><span style={{ whiteSpace: "nowrap" }}>{plural(rung.epoch, "epoch")}</span></Table.Td>
              <Table.Td ta="right">{rung.reached}</Table.Td>
              <Table.Td ta="right">{rung.stopped}</Table.Td>
              <Table.Td ta="right">{metric(objective.metric, rung.best)}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      <Text size="xs" c="dimmed">
        At each rung, ASHA lets the best 1 in {factor} continue.
      </Text>
    </section>
  );
}
