// Whose turn it is: what each owner has used, for their weight.
import { Table, Text, Title } from "@mantine/core";
import type { OwnerShare } from "../../api/client";
import { Columns } from "../../components/Columns";
import { ShareBar } from "../../components/ShareBar";
import { duration, number } from "../../compute/format";

export function Shares({ shares }: { shares: OwnerShare[] }) {
  const most = Math.max(...shares.map((share) => share.used / share.weight));
  return (
    <section className="card" aria-label="Shares">
      <Title order={2}>Shares</Title>
      {shares.length === 0 ? (
        <Text size="sm" c="dimmed">
          Nobody has a job in the queue or on the cluster.
        </Text>
      ) : (
        <div className="scroll" tabIndex={0} style={{ maxHeight: 260 }}>
          <Table withRowBorders={false}>
            <Columns names={["Owner", "Used", "Weight", "Used for the weight"]} />
            <Table.Tbody>
              {shares.map(({ owner, used, weight }) => (
                <Table.Tr key={owner ?? ""}>
                  <Table.Td>{owner ?? "–"}</Table.Td>
                  <Table.Td>{duration(used)}</Table.Td>
                  <Table.Td>{number(weight)}</Table.Td>
                  <Table.Td>
                    <ShareBar share={most === 0 ? 0 : used / weight / most} text={duration(used / weight)} />
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
      <Text size="xs" c="dimmed">
        Among jobs of one priority, those of the owner come first who has used least for their weight: GPU time, and CPU
        time of jobs without GPUs. What is past counts less.
      </Text>
    </section>
  );
}
