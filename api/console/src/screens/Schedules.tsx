import { Group, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import type { Schedule } from "../api/client";
import * as queries from "../api/queries";
import { useMaySubmit } from "../components/actions";
import { Columns } from "../components/Columns";
import { Failure } from "../components/Failure";
import { useRowKeys } from "../components/keys";
import { LinkButton } from "../components/links";
import { StateBadge } from "../components/StateBadge";
import { Tag } from "../components/Tag";
import { Time } from "../components/Time";

const TONES = { active: "green", paused: "orange", ended: "gray" } as const;

export function ScheduleState({ state }: { state: Schedule["state"] }) {
  return <Tag tone={TONES[state]}>{state}</Tag>;
}

type Spec = { cron?: string; timezone?: string };

export function Schedules() {
  const { data, error } = useQuery(queries.schedules);
  const maySubmit = useMaySubmit();
  const navigate = useNavigate();
  const ids = (data?.items ?? []).map((schedule) => schedule.id);
  const [here] = useRowKeys(ids, (index) => void navigate({ to: "/schedules/$id", params: { id: ids[index] ?? "" } }));
  if (error) return <Failure error={error} />;
  return (
    <Stack gap="xs">
      <Group justify="space-between">
        <Title order={1}>Schedules</Title>
        {maySubmit && <LinkButton to="/schedules/new">New schedule</LinkButton>}
      </Group>
      <div className="scroll" tabIndex={0}>
        <Table highlightOnHover>
          <Columns names={["State", "Name", "When", "Next", "Last", "Jobs", "Owner"]} />
          <Table.Tbody>
            {data?.items.map((schedule, index) => (
              <Table.Tr key={schedule.id} id={`row-${index}`} className={index === here ? "row-here" : undefined}>
                <Table.Td>
                  <ScheduleState state={schedule.state} />
                </Table.Td>
                <Table.Td maw={260}>
                  <Link to="/schedules/$id" params={{ id: schedule.id }} className="clip" style={{ display: "block", fontWeight: 500 }}>
                    {schedule.name}
                  </Link>
                  {schedule.problem != null && <Text size="xs" c="red">{schedule.problem}</Text>}
                </Table.Td>
                <Table.Td>
                  <code>{(schedule.spec as Spec).cron}</code> {(schedule.spec as Spec).timezone}
                </Table.Td>
                <Table.Td>
                  <Time at={schedule.next} />
                </Table.Td>
                <Table.Td>
                  {schedule.last === null ? (
                    "–"
                  ) : (
                    <Group gap={6} wrap="nowrap">
                      {schedule.last.job_state === null ? schedule.last.outcome : <StateBadge state={schedule.last.job_state} />}
                      <Time at={schedule.last.at} />
                    </Group>
                  )}
                </Table.Td>
                <Table.Td>{schedule.runs}</Table.Td>
                <Table.Td>{schedule.owner ?? "–"}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
      {data?.items.length === 0 && (
        <Text c="dimmed">
          A schedule submits a job by the clock: every night, or on the first of the month. There is none yet.
        </Text>
      )}
    </Stack>
  );
}
