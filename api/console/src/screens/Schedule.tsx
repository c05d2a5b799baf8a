import { Alert, Button, Group, Stack, Table, Text, Title } from "@mantine/core";
import { useDocumentTitle } from "@mantine/hooks";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, Link, useNavigate } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import { parse, stringify } from "yaml";
import { answered, ApiError, api, patchYaml, type Schedule } from "../api/client";
import * as queries from "../api/queries";
import { Confirm, tell, tellFailure, useMayChange } from "../components/actions";
import { Editor } from "../components/Editor";
import { Failure } from "../components/Failure";
import { StateBadge } from "../components/StateBadge";
import { absolute, Time } from "../components/Time";
import { mergePatch } from "../compute/patch";
import { rangeOf } from "../compute/spec";
import { ScheduleState } from "./Schedules";

const route = getRouteApi("/schedules/$id");

export function ScheduleScreen() {
  const { id } = route.useParams();
  const { data: schedule, error } = useQuery(queries.schedule(id));
  useDocumentTitle(schedule === undefined ? "" : `${schedule.name} · VICReg`);
  if (error) return <Failure error={error} />;
  if (schedule === undefined) return null;
  return (
    <Stack gap="sm">
      <Group justify="space-between">
        <Group gap="sm">
          <ScheduleState state={schedule.state} />
          <Title order={1} className="wrap">
            {schedule.name}
          </Title>
        </Group>
        <Actions schedule={schedule} />
      </Group>
      {schedule.problem != null && (
        <Alert color="red" variant="light">
          {schedule.problem}
        </Alert>
      )}
      <div className="grid">
        <section className="card">
          <Title order={2}>Next</Title>
          {schedule.preview.map((at) => (
            <Group key={at} justify="space-between">
              <Text size="sm">{absolute(at)}</Text>
              <Text size="sm" c="dimmed">
                <Time at={at} />
              </Text>
            </Group>
          ))}
          {schedule.preview.length === 0 && (
            <Text size="sm" c="dimmed">
              {schedule.state === "paused" ? "It is paused." : "It has ended."}
            </Text>
          )}
        </section>
        <Past id={id} />
      </div>
      <SpecOf schedule={schedule} />
    </Stack>
  );
}

function useAct(id: string) {
  const client = useQueryClient();
  return async (message: string) => {
    tell(message);
    await client.invalidateQueries({ queryKey: ["schedules"] });
    await client.invalidateQueries({ queryKey: ["schedules", id] });
  };
}

function Actions({ schedule }: { schedule: Schedule }) {
  const may = useMayChange()(schedule.owner);
  const navigate = useNavigate();
  const done = useAct(schedule.id);
  const path = { params: { path: { schedule_id: schedule.id } } };
  const pause = useMutation({
    mutationFn: () =>
      schedule.state === "paused"
        ? answered(api.POST("/v1/schedules/{schedule_id}/resume", path))
        : answered(api.POST("/v1/schedules/{schedule_id}/pause", path)),
    onSuccess: (after) => done(after.state === "paused" ? "Paused" : "Resumed"),
    onError: tellFailure,
  });
  const run = useMutation({
    mutationFn: () => answered(api.POST("/v1/schedules/{schedule_id}/run-now", path)),
    onSuccess: async (job) => {
      await done("Submitted a job now");
      await navigate({ to: "/jobs/$id", params: { id: job.id } });
    },
    onError: tellFailure,
  });
  const remove = useMutation({
    mutationFn: () => answered(api.DELETE("/v1/schedules/{schedule_id}", path)),
    onSuccess: async () => {
      await done("Deleted");
      await navigate({ to: "/schedules" });
    },
    onError: tellFailure,
  });
  if (!may) return null;
  return (
    <Group gap={6}>
      <Button loading={run.isPending} onClick={() => run.mutate()}>
        Run now
      </Button>
      {schedule.state !== "ended" && (
        <Button variant="default" loading={pause.isPending} onClick={() => pause.mutate()}>
          {schedule.state === "paused" ? "Resume" : "Pause"}
        </Button>
      )}
      <Confirm label="Delete" title="Delete this schedule?" confirm="Delete the schedule" onConfirm={() => remove.mutate()}>
        {schedule.name} submits no more jobs. Its jobs stay, and continue.
      </Confirm>
    </Group>
  );
}

function Past({ id }: { id: string }) {
  const { data } = useQuery(queries.ticks(id));
  return (
    <section className="card">
      <Title order={2}>Past</Title>
      <div style={{ maxHeight: 420, overflowY: "auto" }} tabIndex={0} aria-label="Past times" role="region">
        <Table withRowBorders={false} verticalSpacing={2}>
          <Table.Tbody>
            {data?.items.map((tick) => (
              <Table.Tr key={tick.at}>
                <Table.Td>
                  <Time at={tick.at} />
                </Table.Td>
                <Table.Td>
                  {tick.job_id === null || tick.job_state === null ? (
                    tick.outcome
                  ) : (
                    <Link to="/jobs/$id" params={{ id: tick.job_id }}>
                      <StateBadge state={tick.job_state} />
                    </Link>
                  )}
                </Table.Td>
                <Table.Td className="wrap">{tick.reason}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
      {data?.items.length === 0 && (
        <Text size="sm" c="dimmed">
          It has not been due yet.
        </Text>
      )}
    </section>
  );
}

function SpecOf({ schedule }: { schedule: Schedule }) {
  const may = useMayChange()(schedule.owner);
  const done = useAct(schedule.id);
  const [text, setText] = useState<string | null>(null);
  const written = stringify(schedule.spec);
  const save = useMutation({
    mutationFn: async () => {
      const wanted: unknown = parse(text ?? written);
      if (typeof wanted !== "object" || wanted === null || Array.isArray(wanted)) throw new Error("The spec must be a mapping of fields.");
      // A line that was deleted is a field that is removed.
      const patch = mergePatch(schedule.spec, wanted as Record<string, unknown>);
      return patchYaml<Schedule>(`/v1/schedules/${schedule.id}`, stringify(patch));
    },
    onSuccess: async () => {
      setText(null);
      await done("Saved");
    },
  });
  const schema = useQuery({ ...queries.schema("schedule"), enabled: text !== null });
  const problems = save.error instanceof ApiError ? save.error.problem?.errors : undefined;
  const faults = useMemo(
    () => (problems ?? []).map((fault) => ({ ...rangeOf(text ?? "", fault.field), message: fault.message })),
    // The faults are of the text that was sent.
    [problems],
  );
  return (
    <section>
      <Group justify="space-between" mb={4}>
        <Title order={2}>Spec</Title>
        {may && text === null && (
          <Button variant="default" onClick={() => setText(written)}>
            Edit
          </Button>
        )}
        {text !== null && (
          <Group gap={6}>
            <Button variant="default" onClick={() => setText(null)}>
              Leave as it was
            </Button>
            <Button loading={save.isPending} onClick={() => save.mutate()}>
              Save
            </Button>
          </Group>
        )}
      </Group>
      {save.error && <Failure error={save.error} />}
      {text === null ? (
        <Editor label="Spec of the schedule" text={written} language="yaml" height={360} />
      ) : (
        <Editor label="Edit the spec of the schedule" text={written} language="yaml" height={360} change={setText} faults={faults} schema={schema.data} />
      )}
    </section>
  );
}
