// How good the encoder is, beside the same network untrained.
import { Button, Stack, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { stringify } from "yaml";
import type { Job } from "../../api/client";
import * as queries from "../../api/queries";
import { useMaySubmit } from "../../components/actions";
import { Failure } from "../../components/Failure";
import { StateBadge } from "../../components/StateBadge";
import { metric } from "../../compute/format";
import { gain, isScore } from "../../compute/scores";
import { keepDraft } from "../../components/draft";

type Spec = { encoder?: { untrained?: unknown }; protocol?: { name?: string }; data?: unknown };

function scores(job: Job): [string, number][] {
  return Object.entries(job.summary)
    .filter(([name]) => isScore(name))
    .sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
}

function sameProtocol(a: Job, b: Job): boolean {
  return JSON.stringify((a.spec as Spec).protocol) === JSON.stringify((b.spec as Spec).protocol);
}

function sameData(a: Job, b: Job): boolean {
  return JSON.stringify((a.spec as Spec).data) === JSON.stringify((b.spec as Spec).data);
}

export default function Evaluations({ job }: { job: Job }) {
  const evaluations = useQuery(queries.jobs({ parent: job.id, kind: "evaluate", order: "asc", limit: 100 }));
  const others = useQuery(queries.jobs({ kind: "evaluate", state: ["succeeded"], experiment: job.experiment, limit: 200 }));
  const maySubmit = useMaySubmit();
  const navigate = useNavigate();
  if (evaluations.error) return <Failure error={evaluations.error} />;
  const backbone = JSON.stringify((job.spec as { backbone?: unknown }).backbone);
  const untrained = (others.data?.items ?? []).filter(
    (each) => JSON.stringify((each.spec as Spec).encoder?.untrained) === backbone,
  );
  const items = evaluations.data?.items ?? [];
  const measureUntrained = (evaluation: Job) => {
    const { protocol, data } = evaluation.spec as Spec;
    const encoder = { untrained: (job.spec as { backbone?: unknown }).backbone };
    const name = `${job.name.slice(0, 180)}-untrained-${protocol?.name ?? ""}`;
    keepDraft(stringify({ kind: "evaluate", name, experiment: job.experiment, encoder, protocol, data }));
    void navigate({ to: "/new", search: { from: "draft" } });
  };
  return (
    <Stack>
      <div className="scroll" tabIndex={0}>
        <Table maw={1000}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Evaluation</Table.Th>
              <Table.Th>State</Table.Th>
              <Table.Th>Metric</Table.Th>
              <Table.Th ta="right">Trained</Table.Th>
              <Table.Th ta="right">Untrained</Table.Th>
              <Table.Th ta="right">Gain</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {items.flatMap((each) => {
              const base = untrained.find((other) => sameProtocol(other, each) && sameData(other, each));
              const rows = scores(each);
              const shown: [string, number | undefined][] = rows.length > 0 ? rows : [["–", undefined]];
              return shown.map(([name, value], index) => {
                const before = base?.summary[name];
                return (
                  <Table.Tr key={`${each.id} ${name}`}>
                    <Table.Td maw={280}>
                      {index === 0 && (
                        <Link to="/jobs/$id" params={{ id: each.id }} className="clip" style={{ display: "block" }}>
                          {each.name}
                        </Link>
                      )}
                    </Table.Td>
                    <Table.Td>{index === 0 && <StateBadge state={each.state} />}</Table.Td>
                    <Table.Td>{name}</Table.Td>
                    <Table.Td ta="right">{metric(name, value)}</Table.Td>
                    <Table.Td ta="right">
                      {base === undefined ? (
                        index === 0 &&
                        maySubmit && (
                          <Button variant="subtle" size="compact-xs" onClick={() => measureUntrained(each)}>
                            measure it
                          </Button>
                        )
                      ) : (
                        <Link to="/jobs/$id" params={{ id: base.id }}>
                          {metric(name, before)}
                        </Link>
                      )}
                    </Table.Td>
                    <Table.Td ta="right">
                      {value !== undefined && before !== undefined ? gain(name, before, value) : "–"}
                    </Table.Td>
                  </Table.Tr>
                );
              });
            })}
          </Table.Tbody>
        </Table>
      </div>
      {items.length === 0 && (
        <Text c="dimmed">
          No evaluation follows from this job. Its spec can ask for some under <code>evaluations</code>, or submit one
          with <code>encoder: {"{"}job: {job.id}{"}"}</code>.
        </Text>
      )}
    </Stack>
  );
}
