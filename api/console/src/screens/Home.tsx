// What one wants to know first: what runs, what failed, what waits, and whether all is well.
import { Code, Group, Stack, Table, Text, Title, Tooltip } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { Job, JobState } from "../api/client";
import * as queries from "../api/queries";
import { useMaySubmit } from "../components/actions";
import { Bar } from "../components/Bar";
import { Failure } from "../components/Failure";
import { LinkButton } from "../components/links";
import { JobProgressBar } from "../components/JobProgressBar";
import { Sparkline } from "../components/Sparkline";
import { StateBadge, STATES } from "../components/StateBadge";
import { Tag } from "../components/Tag";
import { Time } from "../components/Time";
import { kindOfFailure } from "../compute/advice";
import { number, plural } from "../compute/format";

const LIVE: JobState[] = ["running", "starting", "stopping"];

export function Home() {
  const total = useQuery(queries.counts({ by: "state" }));
  if (total.error) return <Failure error={total.error} retry={() => void total.refetch()} />;
  if (total.data?.total === 0) return <Welcome />;
  return (
    <Stack gap="sm">
      <Title order={1} className="skip">
        Home
      </Title>
      <Group gap="xs" mih={28}>
        {STATES.map((state) => {
          const count = total.data && (total.data.items.find((item) => item.value === state)?.count ?? 0);
          return (
            <LinkButton
              key={state}
              to="/jobs"
              search={{ state: [state] }}
              variant="default"
              size="compact-sm"
              opacity={count === 0 ? 0.75 : 1}
            >
              <b style={{ marginRight: 6 }}>{number(count)}</b> {state}
            </LinkButton>
          );
        })}
      </Group>
      <div className="grid">
        <Running />
        <Failed />
      </div>
      <div className="grid">
        <ClusterBars />
        <Health />
        <Latest />
      </div>
    </Stack>
  );
}

function Welcome() {
  const maySubmit = useMaySubmit();
  return (
    <Stack maw={720} mx="auto" mt="xl">
      <Title order={1}>Nothing has been submitted yet</Title>
      <Text>
        A <b>job</b> pretrains an image encoder with VICReg, evaluates one, or searches for better
        settings. It is written as a spec in YAML. The recipe <Code>digits</Code> needs no data and
        takes about a minute on two cores: it trains a small network on scikit-learn's handwritten
        digits and evaluates it by nearest neighbours and by a linear classifier.
      </Text>
      {maySubmit && (
        <Group>
          <LinkButton to="/new" search={{ recipe: "digits" }} size="sm">
            Start with the recipe digits
          </LinkButton>
          <LinkButton to="/new" size="sm" variant="default">
            See all recipes
          </LinkButton>
        </Group>
      )}
      <Health />
    </Stack>
  );
}

function Running() {
  const me = useQuery(queries.session).data?.name ?? undefined;
  const mine = useQuery(queries.jobs({ state: LIVE, owner: me, limit: 20 }));
  const all = useQuery({ ...queries.jobs({ state: LIVE, limit: 20 }), enabled: mine.data?.items.length === 0 });
  const own = (mine.data?.items.length ?? 0) > 0;
  const items = (own ? mine.data : all.data)?.items ?? [];
  const training = items.filter((job) => job.mlflow !== null && job.kind === "pretrain").map((job) => job.id);
  const curves = useQuery(queries.curves(training, ["train/loss"], 60));
  return (
    <section className="card" aria-label="Running jobs">
      <Title order={2}>{own && me !== undefined ? "My running jobs" : "Running jobs"}</Title>
      {items.length === 0 ? (
        <Text c="dimmed" size="sm">
          {mine.isSuccess && all.isSuccess ? "Nothing runs." : mine.isError || all.isError ? "Unknown: the API does not answer." : ""}
        </Text>
      ) : (
        <div className="scroll" tabIndex={0}>
          <Table withRowBorders={false}>
            <Table.Tbody>
              {items.map((job) => (
                <Table.Tr key={job.id}>
                  <Table.Td maw={220}>
                    <JobLink job={job} />
                  </Table.Td>
                  <Table.Td>
                    <JobProgressBar job={job} />
                  </Table.Td>
                  <Table.Td w={100}>
                    <Sparkline
                      values={(curves.data?.[job.id]?.["train/loss"] ?? []).map((point) => point.value)}
                      label={`loss of ${job.name}`}
                    />
                  </Table.Td>
                  <Table.Td ta="right" w={70}>
                    {number(job.summary["train/loss"])}
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </section>
  );
}

function Failed() {
  const failed = useQuery(queries.jobs({ state: ["failed"], sort: "finished", limit: 5 }));
  const items = failed.data?.items ?? [];
  return (
    <section className="card" aria-label="What failed last">
      <Title order={2}>What failed last</Title>
      {items.length === 0 ? (
        <Text c="dimmed" size="sm">
          {failed.isSuccess ? "Nothing has failed." : failed.isError ? "Unknown: the API does not answer." : ""}
        </Text>
      ) : (
        <Stack gap={8}>
          {items.map((job) => (
            <div key={job.id}>
              <Group gap="xs" wrap="nowrap">
                <JobLink job={job} />
                <Tag tone="red">{kindOfFailure(job.failure)}</Tag>
                <Text size="xs" c="dimmed" ml="auto">
                  <Time at={job.finished_at} />
                </Text>
              </Group>
              <Text size="xs" c="dimmed" className="wrap" lineClamp={2}>
                {job.reason}
              </Text>
            </div>
          ))}
        </Stack>
      )}
    </section>
  );
}

function JobLink({ job }: { job: Job }) {
  return (
    <Link to="/jobs/$id" params={{ id: job.id }} className="clip" style={{ display: "block", fontWeight: 500 }}>
      {job.name}
    </Link>
  );
}

function ClusterBars() {
  const cluster = useQuery(queries.cluster);
  const waiting = useQuery(queries.counts({ state: ["queued"] }));
  return (
    <section className="card" aria-label="Cluster" style={{ minHeight: 150 }}>
      <Title order={2}>
        <Link to="/cluster">Cluster</Link>
      </Title>
      {cluster.error && <Failure error={cluster.error} />}
      {cluster.data && (
        <Stack gap="xs">
          <Bar name="GPUs" used={cluster.data.used.gpus} total={cluster.data.total.gpus} waitedFor={cluster.data.waited_for.gpus} />
          <Bar name="CPUs" used={cluster.data.used.cpus} total={cluster.data.total.cpus} waitedFor={cluster.data.waited_for.cpus} />
          <Text size="xs" c="dimmed">
            {plural(cluster.data.nodes.length, "node")}
            {waiting.data !== undefined && `; ${waiting.data.total === 0 ? "no job waits" : `${plural(waiting.data.total, "job")} ${waiting.data.total === 1 ? "waits" : "wait"}`} for room`}
          </Text>
        </Stack>
      )}
    </section>
  );
}

function Health() {
  const { data, error } = useQuery(queries.readiness);
  return (
    <section className="card" aria-label="Health">
      <Title order={2}>Health</Title>
      {error && <Failure error={error} />}
      <Stack gap={4}>
        {Object.entries(data?.checks ?? {}).map(([part, answer]) => (
          <Group key={part} gap="xs" wrap="nowrap" align="start">
            <Tag tone={answer === "ok" ? "green" : "red"}>{answer === "ok" ? "ok" : "not ready"}</Tag>
            <Text size="sm" className="wrap">
              {part}
              {answer !== "ok" && `: ${answer}`}
            </Text>
          </Group>
        ))}
      </Stack>
    </section>
  );
}

function Latest() {
  const { data } = useQuery(queries.latestEvents(12));
  return (
    <section className="card" aria-label="Latest events" style={{ minHeight: 280 }}>
      <Title order={2}>Latest events</Title>
      <Stack gap={3}>
        {data?.items.map((event) => (
          <Group key={event.id} gap="xs" wrap="nowrap">
            <Text size="xs" c="dimmed" w={66} style={{ flexShrink: 0 }}>
              <Time at={event.at} />
            </Text>
            <Tooltip label={event.message ?? event.after}>
              <div style={{ flexShrink: 0 }}>
                {event.before === event.after ? (
                  <Text size="xs" w={92} className="clip" ta="center">
                    {event.message}
                  </Text>
                ) : (
                  <StateBadge state={event.after} />
                )}
              </div>
            </Tooltip>
            <Link to="/jobs/$id" params={{ id: event.job_id }} className="clip">
              {event.name}
            </Link>
          </Group>
        ))}
      </Stack>
    </section>
  );
}
