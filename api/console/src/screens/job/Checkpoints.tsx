// The checkpoints of a pretraining: which there are, and where.
import { Code, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import type { Checkpoint, Job } from "../../api/client";
import * as queries from "../../api/queries";
import { Columns } from "../../components/Columns";
import { Failure } from "../../components/Failure";
import { Time } from "../../components/Time";
import { bytes, number, plural } from "../../compute/format";

export function Checkpoints({ job }: { job: Job }) {
  const { data, error } = useQuery(queries.checkpoints(job.id, job.finished_at === null));
  if (error) return <Failure error={error} />;
  if (data === undefined) return null;
  return (
    <section aria-label="Checkpoints" style={{ marginBottom: 16 }}>
      <Title order={2}>Checkpoints</Title>
      <Text size="sm" c="dimmed" mb="xs">
        {data.items.length === 0
          ? "The workers have not saved one yet."
          : `A retry resumes from the newest one that is intact.${data.total > data.items.length ? ` These are the newest ${data.items.length} of ${plural(data.total, "checkpoint")}.` : ""}`}
      </Text>
      {data.items.length > 0 && (
        <div className="scroll" tabIndex={0}>
          <Table>
            <Columns names={["Step", "Epoch", "Saved", "Size", "In the storage", "Among the files"]} />
            <Table.Tbody>
              {data.items.map((each) => (
                <Table.Tr key={each.step}>
                  <Table.Td>{each.step.toLocaleString("en")}</Table.Td>
                  <Table.Td>{number(each.epoch)}</Table.Td>
                  <Table.Td>
                    <Time at={each.saved_at} />
                  </Table.Td>
                  <Table.Td>{bytes(each.size)}</Table.Td>
                  <Table.Td className="wrap">
                    <Place checkpoint={each} />
                  </Table.Td>
                  <Table.Td className="wrap">{each.artifact ?? "–"}</Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
    </section>
  );
}

function Place({ checkpoint: { storage, present } }: { checkpoint: Checkpoint }) {
  if (storage == null) return <>–</>;
  return (
    <>
      {present === false && (
        <Text span size="sm" c="red">
          gone:{" "}
        </Text>
      )}
      <Code>{storage}</Code>
      {present == null && (
        <Text span size="xs" c="dimmed">
          {" "}
          as the workers said when they last saved
        </Text>
      )}
    </>
  );
}
