// The jobs that wait for room, in the scheduler's order, and what they wait for.
import { Alert, Group, Stack, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import * as queries from "../api/queries";
import { Failure } from "../components/Failure";
import { plural } from "../compute/format";
import { Holders } from "./queue/Holders";
import { Paused } from "./queue/Paused";
import { Shares } from "./queue/Shares";
import { Waiting } from "./queue/Waiting";

export function Queue() {
  const { data: queue, error, refetch } = useQuery(queries.queue);
  return (
    <Stack gap="sm">
      <Group justify="space-between" align="center">
        <Title order={1}>Queue</Title>
        <Text size="sm" c="dimmed" role="status">
          {queue === undefined ? " " : `${plural(queue.total, "job")} ${queue.total === 1 ? "waits" : "wait"} for room`}
        </Text>
      </Group>
      {error && <Failure error={error} retry={() => void refetch()} />}
      {queue?.at === null && (
        <Alert color="orange" variant="light">
          The dispatcher has not looked at the queue for a minute: nothing starts, and positions and starts are unknown.
        </Alert>
      )}
      {queue !== undefined && (
        <>
          <div className="grid">
            <Holders holders={queue.holders} />
            <Shares shares={queue.shares} />
          </div>
          <Waiting queue={queue} />
        </>
      )}
      <Paused />
    </Stack>
  );
}
