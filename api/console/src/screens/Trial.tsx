// One trial of a sweep: its parameters, its seeds, its curves, and why it ended.
import { Alert, Anchor, Group, Stack, Table, Text, Title } from "@mantine/core";
import { useDocumentTitle } from "@mantine/hooks";
import { useQueries, useQuery } from "@tanstack/react-query";
import { getRouteApi, Link } from "@tanstack/react-router";
import { useMemo } from "react";
import type { Job, TrialDetail } from "../api/client";
import * as queries from "../api/queries";
import { Chart } from "../components/Chart";
import { meaning } from "../compute/meaning";
import { axisLabel, chartsOf, curveOf, stepsPerEpoch } from "../components/charts";
import { Columns } from "../components/Columns";
import { CurveControls } from "../components/CurveControls";
import { Failure } from "../components/Failure";
import { TrialBadge } from "../components/TrialBadge";
import { colorAt } from "../compute/colors";
import { began } from "../compute/curve";
import { metric, number } from "../compute/format";
import { whyEnded } from "../compute/trial";

const route = getRouteApi("/jobs/$id/trials/$trial");

type Sweep = {
  objective: { metric: string };
  scheduler: { name: string };
  search: { seeds?: number };
};

export function TrialScreen() {
  const { id, trial: place } = route.useParams();
  const sweep = useQuery(queries.job(id));
  const trial = useQuery(queries.trial(id, place));
  const error = sweep.error ?? trial.error;
  useDocumentTitle(sweep.data === undefined ? "" : `Trial ${place} of ${sweep.data.name} · VICReg`);
  if (error) return <Failure error={error} retry={() => void trial.refetch()} />;
  if (sweep.data === undefined || trial.data === undefined) return null;
  return (
    <Stack gap="sm">
      <Head sweep={sweep.data} trial={trial.data} />
      <div className="grid">
        <Parameters trial={trial.data} />
        <Trainings sweep={sweep.data} trial={trial.data} />
      </div>
      <Curves sweep={sweep.data} trial={trial.data} />
    </Stack>
  );
}

function Head({ sweep, trial }: { sweep: Job; trial: TrialDetail }) {
  const { objective, scheduler } = sweep.spec as unknown as Sweep;
  const why = whyEnded(trial, scheduler.name);
  return (
    <>
      <Group gap="sm">
        <TrialBadge state={trial.state} />
        <Title order={1}>Trial {trial.number}</Title>
        <Text size="sm" c="dimmed">
          of the sweep{" "}
          <Link to="/jobs/$id" params={{ id: sweep.id }} search={{ tab: "trials" }}>
            {sweep.name}
          </Link>
        </Text>
      </Group>
      <Text size="sm">
        {trial.rank == null ? "Not ranked yet" : `Rank ${trial.rank}`} · {objective.metric} {metric(objective.metric, trial.objective)}
        {trial.std != null && ` ± ${metric(objective.metric, trial.std)}`} · {trial.epoch} of {trial.epochs} epochs
      </Text>
      {why !== "" && (
        <Alert color={trial.state === "failed" ? "red" : "indigo"} variant="light" title="Why it ended">
          <span className="wrap">{why}</span>
        </Alert>
      )}
    </>
  );
}

function Parameters({ trial }: { trial: TrialDetail }) {
  return (
    <section className="card" aria-label="Parameters">
      <Title order={2}>Parameters</Title>
      <Table withRowBorders={false} verticalSpacing={2}>
        <Table.Tbody>
          {Object.entries(trial.parameters)
            .sort(([a], [b]) => a.localeCompare(b))
            .map(([name, value]) => (
              <Table.Tr key={name}>
                <Table.Td>{name}</Table.Td>
                <Table.Td ta="right">{typeof value === "number" ? number(value) : JSON.stringify(value)}</Table.Td>
              </Table.Tr>
            ))}
        </Table.Tbody>
      </Table>
    </section>
  );
}

function Trainings({ sweep, trial }: { sweep: Job; trial: TrialDetail }) {
  const { objective, search } = sweep.spec as unknown as Sweep;
  const asked = search.seeds ?? 1;
  return (
    <section className="card" aria-label="Seeds">
      <Title order={2}>{asked > 1 ? `Seeds: ${trial.trainings.length} of ${asked} have begun` : "Training"}</Title>
      <div className="scroll" tabIndex={0}>
        <Table withRowBorders={false} verticalSpacing={2}>
          <Columns names={["Seed", "State", "Epochs", `${objective.metric}, latest`, "Run"]} />
          <Table.Tbody>
            {trial.trainings.map((training) => (
              <Table.Tr key={training.mlflow.run_id}>
                <Table.Td>{training.seed}</Table.Td>
                <Table.Td>
                  <TrialBadge state={training.state} />
                </Table.Td>
                <Table.Td>{training.progress === null ? "–" : `${training.progress.epoch} of ${training.progress.epochs}`}</Table.Td>
                <Table.Td>{metric(objective.metric, training.summary[objective.metric])}</Table.Td>
                <Table.Td>
                  <Anchor size="sm" href={training.mlflow.url} target="_blank" rel="noreferrer">
                    MLflow ↗
                  </Anchor>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
    </section>
  );
}

function Curves({ sweep, trial }: { sweep: Job; trial: TrialDetail }) {
  const { axis = "step", smooth = 0, log = false } = route.useSearch();
  const { trainings } = trial;
  const asked = trainings.flatMap((training) =>
    inTwenties(Object.keys(training.summary).sort()).map((keys) => ({ training, keys })),
  );
  const { answers, error } = useQueries({
    queries: asked.map(({ training, keys }) => queries.trialCurves(sweep.id, trial.number, training.seed, keys, 1000)),
    combine: (found) => ({
      answers: found.map((answer) => answer.data),
      error: found.find((answer) => answer.error !== null)?.error ?? null,
    }),
  });
  const charts = useMemo(() => {
    const lines = asked.flatMap(({ training }, index) =>
      Object.entries(answers[index] ?? {}).map(([name, points]) => ({ name, training, points })),
    );
    const starts = new Map(
      trainings.map((training) => [training, began(Object.fromEntries(lines.filter((line) => line.training === training).map((line) => [line.name, line.points])))]),
    );
    return chartsOf([...new Set(lines.map((line) => line.name))]).map(([title, metrics]) => ({
      title,
      curves: metrics
        .flatMap((name) => lines.filter((line) => line.name === name))
        .map(({ name, training, points }, index) => {
          const label = trainings.length > 1 ? `${name}, seed ${training.seed}` : name;
          return curveOf(label, colorAt(index), points, axis, smooth, stepsPerEpoch(training), starts.get(training));
        }),
    }));
    // What is asked follows from the trainings.
  }, [answers, trainings, axis, smooth]);
  if (error) return <Failure error={error} />;
  return (
    <Stack gap="sm">
      <Title order={2}>Curves</Title>
      <CurveControls from="/jobs/$id/trials/$trial" axis={axis} smooth={smooth} log={log} />
      {asked.length === 0 && <Text c="dimmed">There are no curves yet.</Text>}
      <div className="grid">
        {charts.map(({ title, curves }) => (
          <Chart key={title} title={title} note={meaning(title)} curves={curves} xLabel={axisLabel(axis)} log={log} group={`${sweep.id} ${trial.number}`} />
        ))}
      </div>
    </Stack>
  );
}

/** As many metrics as the API takes at a time. */
function inTwenties(names: string[]): string[][] {
  return Array.from({ length: Math.ceil(names.length / 20) }, (_, index) => names.slice(20 * index, 20 * (index + 1)));
}
