// The encoders that have been trained: how good they are, on what, and where they come from.
import { Autocomplete, CopyButton, Group, Stack, Table, Text, TextInput, Title, Button } from "@mantine/core";
import { useQueries, useQuery } from "@tanstack/react-query";
import { getRouteApi, Link, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import type { Job } from "../api/client";
import * as queries from "../api/queries";
import { Failure } from "../components/Failure";
import { Time } from "../components/Time";
import { metric } from "../compute/format";
import { SCORES } from "../compute/scores";

const route = getRouteApi("/models");
type Spec = { backbone?: { name?: string }; data?: { source?: string; path?: string }; method?: { name?: string } };

export function Models() {
  const { text, experiment } = route.useSearch();
  const navigate = useNavigate({ from: "/models" });
  const experiments = useQuery(queries.counts({ by: "experiment", kind: "pretrain" }));
  const [sort, setSort] = useState<string | null>(null);
  const found = useQuery(queries.jobs({ kind: "pretrain", state: ["succeeded"], text, experiment, limit: 100 }));
  const items = found.data?.items ?? [];
  const evaluations = useQueries({
    queries: items.map((job) => ({
      ...queries.jobs({ parent: job.id, kind: "evaluate", state: ["succeeded"], limit: 50 }),
      staleTime: 60_000,
    })),
  });
  const rows = items.map((job, index) => ({ job, scores: scoresOf(job, evaluations[index]?.data?.items ?? []) }));
  if (sort !== null) rows.sort((a, b) => (b.scores[sort] ?? -1) - (a.scores[sort] ?? -1));
  return (
    <Stack gap="xs">
      <Title order={1}>Models</Title>
      <Text size="sm" c="dimmed">
        The encoders of pretrainings that have succeeded, with the best of their evaluations.
      </Text>
      <Group>
        <TextInput
          type="search"
          aria-label="Search by name"
          placeholder="Search"
          defaultValue={text ?? ""}
          onChange={(event) => {
            const value = event.currentTarget.value;
            void navigate({ search: (now) => ({ ...now, text: value || undefined }), replace: true });
          }}
        />
        <Autocomplete
          aria-label="Experiment"
          size="xs"
          placeholder="Any experiment"
          data={(experiments.data?.items ?? []).flatMap((item) => item.value ?? [])}
          value={experiment ?? ""}
          onChange={(value) => void navigate({ search: (now) => ({ ...now, experiment: value || undefined }), replace: true })}
        />
      </Group>
      {found.error && <Failure error={found.error} />}
      <div className="scroll" tabIndex={0}>
        <Table highlightOnHover>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Name</Table.Th>
              <Table.Th>Method</Table.Th>
              <Table.Th>Backbone</Table.Th>
              <Table.Th>Data</Table.Th>
              {SCORES.map((name) => (
                <Table.Th key={name} ta="right" aria-sort={sort === name ? "descending" : undefined}>
                  <button type="button" className="sort" onClick={() => setSort(sort === name ? null : name)}>
                    {name} {sort === name ? "↓" : "↕"}
                  </button>
                </Table.Th>
              ))}
              <Table.Th>From</Table.Th>
              <Table.Th>Trained</Table.Th>
              <Table.Th>Use it</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {rows.map(({ job, scores }) => (
              <Model key={job.id} job={job} scores={scores} />
            ))}
          </Table.Tbody>
        </Table>
      </div>
      {found.isSuccess && items.length === 0 && <Text c="dimmed">No pretraining has succeeded yet.</Text>}
      {found.data?.next_cursor != null && (
        <Text size="sm" c="dimmed">
          The newest 100 are shown: search for others.
        </Text>
      )}
    </Stack>
  );
}

/** The best value of each score over the evaluations; kNN also from the training itself. */
function scoresOf(job: Job, evaluations: Job[]): Record<string, number> {
  const best: Record<string, number> = {};
  const sources = evaluations.some((each) => "knn/top1" in each.summary) ? evaluations : [job, ...evaluations];
  for (const name of SCORES) {
    const values = sources.flatMap((each) => each.summary[name] ?? []);
    if (values.length > 0) best[name] = Math.max(...values);
  }
  return best;
}

function Model({ job, scores }: { job: Job; scores: Record<string, number> }) {
  const { backbone, data, method } = job.spec as Spec;
  const origins = Object.entries({ sweep: job.promoted_from, retry: job.retry_of, extension: job.extends });
  const command = `vicreg export ${job.id} ${job.id}.onnx`;
  return (
    <Table.Tr>
      <Table.Td maw={240}>
        <Link to="/jobs/$id" params={{ id: job.id }} search={{ tab: "evaluations" }} className="clip" style={{ display: "block", fontWeight: 500 }}>
          {job.name}
        </Link>
      </Table.Td>
      <Table.Td>{method?.name ?? "vicreg"}</Table.Td>
      <Table.Td>{backbone?.name}</Table.Td>
      <Table.Td maw={200} className="clip">
        {data?.path ?? data?.source}
      </Table.Td>
      {SCORES.map((name) => (
        <Table.Td key={name} ta="right">
          {metric(name, scores[name])}
        </Table.Td>
      ))}
      <Table.Td>
        {origins.every(([, id]) => id == null) && "–"}
        <Group gap={6} wrap="nowrap">
          {origins.map(
            ([name, id]) =>
              id != null && (
                <Link key={name} to="/jobs/$id" params={{ id }}>
                  {name}
                </Link>
              ),
          )}
        </Group>
      </Table.Td>
      <Table.Td>
        <Time at={job.finished_at} />
      </Table.Td>
      <Table.Td>
        <Group gap={6} wrap="nowrap">
          <Link to="/jobs/$id" params={{ id: job.id }} search={{ tab: "files" }}>
            files
          </Link>
          <CopyButton value={command}>
            {({ copied, copy }) => (
              <Button variant="subtle" size="compact-xs" onClick={copy} title={command}>
                {copied ? "copied" : "ONNX command"}
              </Button>
            )}
          </CopyButton>
        </Group>
      </Table.Td>
    </Table.Tr>
  );
}

