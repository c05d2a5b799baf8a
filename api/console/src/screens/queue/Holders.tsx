// Who holds what of the cluster, and until when.
import { Group, SegmentedControl, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import type { Holder } from "../../api/client";
import * as queries from "../../api/queries";
import { Columns } from "../../components/Columns";
import { ShareBar } from "../../components/ShareBar";
import { Time } from "../../components/Time";
import { number } from "../../compute/format";
import { byOwner } from "../../compute/queue";

type Room = { cpus: number; gpus: number };

export function Holders({ holders }: { holders: Holder[] }) {
  const [by, setBy] = useState("job");
  const cluster = useQuery(queries.cluster);
  // Without the cluster's answer, a bar is a part of what is held.
  const total = cluster.data?.total ?? {
    cpus: holders.reduce((sum, holder) => sum + holder.cpus, 0),
    gpus: holders.reduce((sum, holder) => sum + holder.gpus, 0),
  };
  return (
    <section className="card" aria-label="On the cluster">
      <Group justify="space-between" mb={8}>
        <Title order={2}>On the cluster</Title>
        <SegmentedControl
          aria-label="Who holds what"
          value={by}
          onChange={setBy}
          data={[
            { value: "job", label: "By job" },
            { value: "owner", label: "By owner" },
          ]}
        />
      </Group>
      {holders.length === 0 ? (
        <Text size="sm" c="dimmed">
          No job holds anything.
        </Text>
      ) : (
        <div className="scroll" tabIndex={0} style={{ maxHeight: 320 }}>
          {by === "job" ? <Jobs holders={holders} total={total} /> : <Owners holders={holders} total={total} />}
        </div>
      )}
    </section>
  );
}

function Jobs({ holders, total }: { holders: Holder[]; total: Room }) {
  return (
    <Table withRowBorders={false}>
      <Columns names={["Job", "Owner", "Priority", "GPUs", "CPUs", "Ends"]} />
      <Table.Tbody>
        {holders.map((holder) => (
          <Table.Tr key={holder.job_id}>
            <Table.Td maw={170}>
              <Link
                to="/jobs/$id"
                params={{ id: holder.job_id }}
                className="clip"
                style={{ display: "block" }}
                title={`${holder.name}${holder.preemptible ? "" : ", cannot be preempted"}`}
              >
                {holder.name}
              </Link>
            </Table.Td>
            <Table.Td>{holder.owner ?? "–"}</Table.Td>
            <Table.Td>{holder.priority}</Table.Td>
            <Bars held={holder} total={total} />
            <Table.Td>
              {holder.state === "stopping" ? "is stopping" : <Time at={holder.ends} />}
              {holder.state !== "stopping" && holder.basis === "limit" && " at the latest"}
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}

function Owners({ holders, total }: { holders: Holder[]; total: Room }) {
  return (
    <Table withRowBorders={false}>
      <Columns names={["Owner", "Jobs", "GPUs", "CPUs", "First to end"]} />
      <Table.Tbody>
        {byOwner(holders).map((held) => (
          <Table.Tr key={held.owner ?? ""}>
            <Table.Td>{held.owner ?? "–"}</Table.Td>
            <Table.Td>{held.jobs}</Table.Td>
            <Bars held={held} total={total} />
            <Table.Td>
              <Time at={held.ends} />
            </Table.Td>
          </Table.Tr>
        ))}
      </Table.Tbody>
    </Table>
  );
}

function Bars({ held, total }: { held: Room; total: Room }) {
  return [
    [held.gpus, total.gpus],
    [held.cpus, total.cpus],
  ].map(([has = 0, of = 0], index) => (
    <Table.Td key={index}>{has === 0 ? "–" : <ShareBar share={has / Math.max(of, has)} text={number(has)} />}</Table.Td>
  ));
}
