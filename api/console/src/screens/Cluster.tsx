import { Code, Group, Stack, Table, Text, Title } from "@mantine/core";
import { useQueries, useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import type { Node } from "../api/client";
import * as queries from "../api/queries";
import { Bar } from "../components/Bar";
import { Failure } from "../components/Failure";
import { StateBadge } from "../components/StateBadge";
import { bytes, number, plural } from "../compute/format";

export function Cluster() {
  const nodes = useQuery(queries.nodes);
  const queued = useQuery(queries.jobs({ state: ["starting", "queued"], sort: "priority", limit: 50 }));
  return (
    <Stack gap="sm">
      <Title order={1}>Cluster</Title>
      {nodes.error && <Failure error={nodes.error} retry={() => void nodes.refetch()} />}
      <div className="grid">
        {nodes.data?.items.map((node) => (
          <Machine key={node.id} node={node} />
        ))}
      </div>
      <section className="card">
        <Title order={2}>Starting, and waiting for room</Title>
        {queued.data?.items.length === 0 && (
          <Text size="sm" c="dimmed">
            No job starts or waits.
          </Text>
        )}
        <Table withRowBorders={false}>
          <Table.Tbody>
            {queued.data?.items.map((job) => (
              <Table.Tr key={job.id}>
                <Table.Td maw={240}>
                  <Link to="/jobs/$id" params={{ id: job.id }} className="clip" style={{ display: "block" }}>
                    {job.name}
                  </Link>
                </Table.Td>
                <Table.Td>
                  <StateBadge state={job.state} />
                </Table.Td>
                <Table.Td>priority {job.priority}</Table.Td>
                <Table.Td className="wrap">{job.reason}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </section>
    </Stack>
  );
}

function Machine({ node }: { node: Node }) {
  const jobs = useQueries({ queries: node.jobs.map((each) => queries.job(each.job_id)) });
  return (
    <section className="card" aria-label={`Node ${node.name}`}>
      <Title order={2} className="wrap">
        {node.name}
      </Title>
      <Stack gap="xs">
        <Bar name="GPUs reserved" used={node.used.gpus} total={node.total.gpus} />
        <Bar name="CPUs reserved" used={node.used.cpus} total={node.total.cpus} />
        <Text size="xs" c="dimmed">
          {node.cpu_percent === null ? "" : `CPUs ${number(node.cpu_percent)} % busy, `}
          memory {bytes(node.memory_used)} of {bytes(node.memory_total)}
        </Text>
        {node.devices.map((device, index) => (
          <Text size="xs" key={`${device.name} ${index}`}>
            GPU {index}: {device.name}
            {device.utilization === null ? "" : `, ${number(device.utilization)} % busy`}, {bytes(device.memory_used)} of{" "}
            {bytes(device.memory_total)}
          </Text>
        ))}
        <Table withRowBorders={false} verticalSpacing={2}>
          <Table.Tbody>
            {node.jobs.map((placed, index) => (
              <Table.Tr key={`${placed.job_id} ${placed.attempt}`}>
                <Table.Td maw={220}>
                  <Link to="/jobs/$id" params={{ id: placed.job_id }} className="clip" style={{ display: "block" }}>
                    {jobs[index]?.data?.name ?? placed.job_id}
                  </Link>
                </Table.Td>
                <Table.Td ta="right">
                  {[placed.gpus > 0 && plural(placed.gpus, "GPU"), placed.cpus > 0 && plural(placed.cpus, "CPU")].filter(Boolean).join(", ") || "its driver"}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
        {node.jobs.length === 0 && (
          <Text size="sm" c="dimmed">
            No job runs here.
          </Text>
        )}
        <Group>
          <Code fz={11}>{node.id.slice(0, 16)}</Code>
        </Group>
      </Stack>
    </section>
  );
}
