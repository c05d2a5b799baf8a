// One job: what it is, how it goes, why, and what can be done about it.
import { Alert, Code, Group, Stack, Table, Tabs, Text, Title, Tooltip } from "@mantine/core";
import { useDocumentTitle } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { getRouteApi, Link, useNavigate } from "@tanstack/react-router";
import { lazy, Suspense } from "react";
import type { Job } from "../api/client";
import * as queries from "../api/queries";
import { Columns } from "../components/Columns";
import { Failure } from "../components/Failure";
import { JobProgressBar } from "../components/JobProgressBar";
import { JobRef } from "../components/JobRef";
import { LinkButton } from "../components/links";
import { RanFor } from "../components/RanFor";
import { Reason } from "../components/Reason";
import { StateBadge } from "../components/StateBadge";
import { Duration, Time } from "../components/Time";
import { advice, verdict } from "../compute/advice";
import { bytes, duration, metric } from "../compute/format";
import { phases } from "../compute/timeline";
import { workersNow, workersOf } from "../compute/workers";
import type { JobSearch, Tab } from "../router";
import { Actions } from "./job/Actions";
import { Checkpoints } from "./job/Checkpoints";
import { Course } from "./job/Course";
import { Place } from "./job/Place";

const Curves = lazy(() => import("./job/Curves"));
const Trials = lazy(() => import("./job/Trials"));
const Evaluations = lazy(() => import("./job/Evaluations"));
const Logs = lazy(() => import("./job/Logs"));
const Spec = lazy(() => import("./job/Spec"));
const Editor = lazy(() => import("../components/Editor").then((module) => ({ default: module.Editor })));

const route = getRouteApi("/jobs/$id");

const NAMES: Record<Tab, string> = {
  overview: "Overview",
  curves: "Curves",
  trials: "Trials",
  evaluations: "Evaluations",
  logs: "Logs",
  spec: "Spec",
  attempts: "Attempts",
  files: "Files",
  events: "Events",
  json: "JSON",
};
const TABS: Record<string, Tab[]> = {
  pretrain: ["overview", "curves", "evaluations", "logs", "spec", "attempts", "files", "events", "json"],
  evaluate: ["overview", "curves", "logs", "spec", "attempts", "files", "events", "json"],
  sweep: ["overview", "trials", "logs", "spec", "attempts", "events", "json"],
};

export function JobScreen() {
  const { id } = route.useParams();
  const { tab = "overview" } = route.useSearch();
  const navigate = useNavigate({ from: "/jobs/$id" });
  const { data: job, error, refetch } = useQuery({
    ...queries.job(id),
    // Its place in the queue changes without an event.
    refetchInterval: (query) => (query.state.data?.state === "queued" ? 5_000 : false),
  });
  useDocumentTitle(job === undefined ? "" : `${job.name} · VICReg`);
  if (error) return <Failure error={error} retry={() => void refetch()} />;
  if (job === undefined) return null;
  const tabs = TABS[job.kind] ?? ["overview", "json"];
  return (
    <Stack gap="xs">
      <Head job={job} />
      <Tabs
        value={tabs.includes(tab) ? tab : "overview"}
        onChange={(value) =>
          void navigate({ search: (now): JobSearch => ({ ...now, tab: value as Tab }), replace: true })
        }
        keepMounted={false}
      >
        <Tabs.List mb="sm">
          {tabs.map((each) => (
            <Tabs.Tab key={each} value={each}>
              {NAMES[each]}
            </Tabs.Tab>
          ))}
        </Tabs.List>
        <Suspense fallback={<div style={{ minHeight: 400 }} />}>
          <Tabs.Panel value="overview">
            <Overview job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="curves">
            <Curves job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="trials">
            <Trials job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="evaluations">
            <Evaluations job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="logs">
            <Logs job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="spec">
            <Spec job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="attempts">
            <Attempts job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="files">
            <Files job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="events">
            <Events job={job} />
          </Tabs.Panel>
          <Tabs.Panel value="json">
            <Editor label="The job as JSON" text={JSON.stringify(job, null, 2)} language="json" height="70vh" />
          </Tabs.Panel>
        </Suspense>
      </Tabs>
    </Stack>
  );
}

function Head({ job }: { job: Job }) {
  return (
    <>
      <Group justify="space-between" align="center">
        <Group gap="sm" wrap="nowrap" style={{ minWidth: 0, flex: "1 1 300px" }}>
          <StateBadge state={job.state} />
          <Title order={1} className="clip" title={job.name}>
            {job.name}
          </Title>
        </Group>
        <Actions key={job.id} job={job} />
      </Group>
      <Group gap="md" mih={22}>
        <Text size="sm" c="dimmed">
          {job.kind} · <bdi>{job.experiment}</bdi> · <Code>{job.id}</Code>
        </Text>
        <div style={{ flex: "1 1 260px", maxWidth: 460 }}>
          <JobProgressBar job={job} wide />
        </div>
      </Group>
    </>
  );
}

function Overview({ job }: { job: Job }) {
  const hint = advice(job);
  const well = verdict(job);
  const names = Object.keys(job.summary).sort();
  return (
    <Stack gap="sm">
      {(job.reason !== null || hint !== null) && (
        <Alert color={job.state === "failed" ? "red" : "indigo"} variant="light" title={job.reason === null ? undefined : <span className="wrap"><Reason text={job.reason} /></span>}>
          {job.state === "queued" && job.queue != null && <Place place={job.queue} />}
          {hint}
        </Alert>
      )}
      {job.progress?.findings.map((finding) => (
        <Alert key={finding.name} color="orange" variant="light" title={finding.name.replaceAll("_", " ")}>
          {finding.text}
        </Alert>
      ))}
      {well !== null && (
        <Alert color="green" variant="light">
          {well}
        </Alert>
      )}
      <Course job={job} />
      <div className="grid">
        <section className="card">
          <Title order={2}>Where the time went</Title>
          <Timeline job={job} />
        </section>
        <section className="card">
          <Title order={2}>Facts</Title>
          <Facts job={job} />
        </section>
        {job.kind === "pretrain" && job.state === "succeeded" && <UseEncoder job={job} />}
        <section className="card">
          <Title order={2}>Latest values</Title>
          <Table withRowBorders={false} verticalSpacing={2}>
            <Table.Tbody>
              {names.map((name) => (
                <Table.Tr key={name}>
                  <Table.Td>{name}</Table.Td>
                  <Table.Td ta="right">{metric(name, job.summary[name])}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
          {names.length === 0 && (
            <Text size="sm" c="dimmed">
              Nothing has been measured yet.
            </Text>
          )}
        </section>
      </div>
    </Stack>
  );
}

function UseEncoder({ job }: { job: Job }) {
  const commands = [
    ["PyTorch weights", `vicreg export ${job.id} encoder.pth`],
    ["A folder for timm", `vicreg export ${job.id} encoder --format timm`],
    ["Evaluate it", `vicreg evaluate ${job.id} --protocol linear`],
  ];
  return (
    <section className="card">
      <Title order={2}>Use the encoder</Title>
      <Table withRowBorders={false} verticalSpacing={2}>
        <Table.Tbody>
          {commands.map(([name, command]) => (
            <Table.Tr key={name}>
              <Table.Td>{name}</Table.Td>
              <Table.Td className="wrap">
                <Code>{command}</Code>
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      <LinkButton to="/jobs/$id" params={{ id: job.id }} search={{ tab: "files" }} variant="default" size="compact-xs" mt={6}>
        Download its files
      </LinkButton>
    </section>
  );
}

const SHADES = ["gray.5", "cyan.7", "indigo.4", "indigo.6", "teal.6", "teal.8", "violet.5", "green.7", "orange.6", "gray.6", "gray.5"];

function Timeline({ job }: { job: Job }) {
  const attempt = job.attempts.at(-1);
  const found = attempt === undefined ? [] : phases(attempt, job.kind);
  const total = found.reduce((sum, phase) => sum + phase.seconds, 0);
  if (attempt === undefined || found.length === 0) {
    return (
      <Text size="sm" c="dimmed">
        {job.state === "queued" || job.state === "waiting" ? (
          <>
            It waits since <Time at={job.created_at} />.
          </>
        ) : (
          "It has not started."
        )}
      </Text>
    );
  }
  return (
    <>
      <div style={{ display: "flex", height: 14, borderRadius: 3, overflow: "hidden" }} aria-hidden>
        {found.map((phase, index) => (
          <Tooltip key={phase.name} label={`${phase.name}: ${duration(phase.seconds)}`}>
            <div
              style={{
                flex: `${Math.max(phase.seconds, total / 200)} 0 0`,
                background: `var(--mantine-color-${(SHADES[index % SHADES.length] ?? "gray.5").replace(".", "-")})`,
              }}
            />
          </Tooltip>
        ))}
      </div>
      <Table withRowBorders={false} verticalSpacing={2} mt={6}>
        <Table.Tbody>
          {found.map((phase) => (
            <Table.Tr key={phase.name}>
              <Table.Td>{phase.name}</Table.Td>
              <Table.Td ta="right" w={100}>
                {duration(phase.seconds)}
              </Table.Td>
              <Table.Td ta="right" c="dimmed" w={110}>
                <Time at={phase.until} />
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      {job.attempts.length > 1 && (
        <Text size="xs" c="dimmed">
          Attempt {attempt.number}; the others are under Attempts.
        </Text>
      )}
    </>
  );
}

function Facts({ job }: { job: Job }) {
  const following = useQuery(queries.jobs({ parent: job.id, order: "asc", limit: 20 }));
  const limit = (job.spec as { max_runtime?: string | null }).max_runtime;
  const facts: [string, React.ReactNode][] = [
    ["Submitted", <Time key="c" at={job.created_at} />],
    ["Ran for", <RanFor key="d" job={job} />],
    ["Owner", job.owner ?? "–"],
    ["Priority", job.priority],
    ["Preemptible", job.preemptible ? "yes" : "no"],
  ];
  if (job.kind !== "sweep") facts.push(["Workers", workersNow(job.workers ?? null, workersOf(job.spec))]);
  // The parent of an extension is named below.
  if (job.kind === "evaluate" && job.parent != null) facts.push(["Evaluates", <JobRef key="v" id={job.parent} />]);
  if (job.promoted_from != null) facts.push(["Promoted from", <JobRef key="p" id={job.promoted_from} />]);
  if (job.retry_of != null) facts.push(["Retries", <JobRef key="r" id={job.retry_of} />]);
  if (job.extends != null) facts.push(["Extends", <JobRef key="e" id={job.extends} />]);
  if (job.made_room_for != null) facts.push(["Made room for", <JobRef key="m" id={job.made_room_for} />]);
  if (job.depends_on.length > 0) {
    facts.push(["Waits for", <Stack key="w" gap={0}>{job.depends_on.map((id) => <JobRef key={id} id={id} />)}</Stack>]);
  }
  if (job.schedule_id != null) {
    facts.push([
      "Schedule",
      <Link key="s" to="/schedules/$id" params={{ id: job.schedule_id }}>
        {job.schedule_id}
      </Link>,
    ]);
  }
  if (job.start_after != null) facts.push(["Not before", <Time key="n" at={job.start_after} />]);
  if (limit != null) facts.push(["Max runtime", limit]);
  if (job.deadline != null) facts.push(["Deadline", <Time key="l" at={job.deadline} />]);
  const children = following.data?.items ?? [];
  if (children.length > 0) {
    facts.push([
      "Followed by",
      <Stack key="f" gap={2}>
        {children.map((each) => (
          <Group key={each.id} gap={6} wrap="nowrap">
            <StateBadge state={each.state} />
            <Link to="/jobs/$id" params={{ id: each.id }} className="clip">
              {each.name}
            </Link>
          </Group>
        ))}
      </Stack>,
    ]);
  }
  return (
    <>
      <Table withRowBorders={false} verticalSpacing={2} layout="fixed">
        <Table.Tbody>
          {facts.map(([name, value]) => (
            <Table.Tr key={name}>
              <Table.Td c="dimmed" w={110} style={{ verticalAlign: "top" }}>
                {name}
              </Table.Td>
              <Table.Td>{value}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      <Group gap={4} mt={6}>
        {Object.entries(job.labels).map(([key, value]) => (
          <Tooltip key={key} label={`${key}=${value}`}>
            <LinkButton
              to="/jobs"
              search={{ label: [`${key}=${value}`] }}
              variant="default"
              size="compact-xs"
              maw={220}
            >
              <span className="clip">
                {key}={value}
              </span>
            </LinkButton>
          </Tooltip>
        ))}
      </Group>
    </>
  );
}

function Attempts({ job }: { job: Job }) {
  return (
    <div className="scroll" tabIndex={0}>
      <Table>
        <Columns names={["Attempt", "Outcome", "Workers", "Queued", "Submitted", "Ran for", "What it said", "On Ray"]} />
        <Table.Tbody>
          {job.attempts.map((attempt) => (
            <Table.Tr key={attempt.number}>
              <Table.Td>
                <Link to="/jobs/$id" params={{ id: job.id }} search={{ tab: "logs", attempt: attempt.number }}>
                  {attempt.number}: log
                </Link>
              </Table.Td>
              <Table.Td>{attempt.outcome ?? "live"}</Table.Td>
              <Table.Td>{attempt.workers ?? "–"}</Table.Td>
              <Table.Td>
                <Time at={attempt.queued_at} />
              </Table.Td>
              <Table.Td>
                <Time at={attempt.submitted_at} />
              </Table.Td>
              <Table.Td>
                <Duration from={attempt.submitted_at} to={attempt.ended_at} />
              </Table.Td>
              <Table.Td className="wrap">{attempt.message}</Table.Td>
              <Table.Td>
                <Code>{attempt.submission_id}</Code>
              </Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      {job.attempts.length === 0 && <Text c="dimmed">It has not been attempted yet.</Text>}
    </div>
  );
}

function fileUrl(job: Job, path: string): string {
  return `/v1/jobs/${job.id}/artifacts/${path.split("/").map(encodeURIComponent).join("/")}`;
}

function Files({ job }: { job: Job }) {
  const { data, error } = useQuery(queries.artifacts(job.id));
  if (error) return <Failure error={error} />;
  return (
    <>
      {job.kind === "pretrain" && <Checkpoints job={job} />}
      <Title order={2}>Files</Title>
      <Text size="sm" c="dimmed" mb="xs">
        The encoder and the last checkpoint are stored when the training has ended.
        {job.kind === "pretrain" && (
          <>
            {" "}
            As ONNX: <Code>vicreg export {job.id} encoder.onnx</Code>
          </>
        )}
      </Text>
      <Table maw={800}>
        <Table.Tbody>
          {data?.items.map((file) => (
            <Table.Tr key={file.path}>
              <Table.Td className="wrap">
                <a href={fileUrl(job, file.path)} download>
                  {file.path}
                </a>
              </Table.Td>
              <Table.Td ta="right">{bytes(file.size)}</Table.Td>
            </Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      {data?.items.length === 0 && <Text c="dimmed">Nothing is stored yet.</Text>}
    </>
  );
}

function Events({ job }: { job: Job }) {
  const { data, error } = useQuery(queries.jobEvents(job.id));
  if (error) return <Failure error={error} />;
  return (
    <Table maw={1000}>
      <Table.Tbody>
        {data?.map((event) => (
          <Table.Tr key={event.id}>
            <Table.Td w={110}>
              <Time at={event.at} />
            </Table.Td>
            <Table.Td w={110}>{event.before === event.after ? null : <StateBadge state={event.after} />}</Table.Td>
            <Table.Td w={80} c="dimmed">
              {event.attempt === null ? "" : `attempt ${event.attempt}`}
            </Table.Td>
            <Table.Td className="wrap">{event.message}</Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}
