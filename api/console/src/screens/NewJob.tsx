// A new job: from a recipe, from another job, or from nothing; checked as it is written.
import { Alert, Button, Group, Stack, Text, Title } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { getRouteApi, Link, useNavigate } from "@tanstack/react-router";
import { useEffect, useMemo, useState } from "react";
import { parseDocument, stringify } from "yaml";
import { ApiError, type DryRun, type Job, postYaml } from "../api/client";
import * as queries from "../api/queries";
import { tell, useMaySubmit } from "../components/actions";
import { draft } from "../components/draft";
import { Editor } from "../components/Editor";
import { PlaceLink } from "../components/links";
import { Failure } from "../components/Failure";
import { costText } from "../compute/cost";
import { plural } from "../compute/format";
import { foreseen } from "../compute/queue";
import { rangeOf } from "../compute/spec";
import { workersOf, workersText } from "../compute/workers";

const route = getRouteApi("/new");
const EXACT = { exact: true, includeSearch: true, explicitUndefined: true };
const BLANK = "kind: pretrain\nname: \ndata: {source: digits}\n";

export function NewJob() {
  const { recipe, from } = route.useSearch();
  const recipes = useQuery(queries.recipes);
  const source = useQuery({ ...queries.request(from ?? ""), enabled: from !== undefined && from !== "draft" });
  if (source.error) return <Failure error={source.error} />;
  let text: string | undefined;
  if (from === "draft") text = draft() ?? BLANK;
  else if (from !== undefined) text = source.data && stringify(source.data);
  else if (recipe !== undefined) text = recipes.data?.items.find((each) => each.name === recipe)?.text;
  else text = BLANK;
  return (
    <Stack gap="xs">
      <Title order={1}>New job</Title>
      <Group align="start" wrap="wrap" gap="md">
        <nav aria-label="Recipes" style={{ flex: "1 1 200px", maxWidth: 260 }}>
          <PlaceLink to="/new" activeOptions={EXACT} label="Blank" />
          {sorted(recipes.data?.items ?? []).map((each) => (
            <PlaceLink
              key={each.name}
              to="/new"
              search={{ recipe: each.name }}
              activeOptions={EXACT}
              label={each.name}
              description={each.summary}
            />
          ))}
        </nav>
        <div style={{ flex: "4 1 420px", minWidth: 0 }}>
          {text !== undefined && <Writing key={`${recipe} ${from}`} start={text} />}
        </div>
      </Group>
    </Stack>
  );
}

/** Those that need no data come first: they run wherever one tries them. */
function sorted<T extends { name: string }>(recipes: T[]): T[] {
  const rank = ({ name }: T) => (name.startsWith("digits") ? 0 : 1);
  return recipes.toSorted((a, b) => rank(a) - rank(b));
}

function Writing({ start }: { start: string }) {
  const navigate = useNavigate();
  const client = useQueryClient();
  const maySubmit = useMaySubmit();
  const [text, setText] = useState(start);
  const [settled] = useDebouncedValue(text, 400);
  const schema = useQuery(queries.schema("job"));
  // One key for one text: a submission that is repeated makes one job.
  const [idempotencyKey, setIdempotencyKey] = useState(() => crypto.randomUUID());
  useEffect(() => setIdempotencyKey(crypto.randomUUID()), [text]);
  const check = useQuery({
    queryKey: ["check", settled],
    queryFn: () => postYaml<DryRun>("/v1/jobs?dry_run=true", settled),
    retry: false,
    staleTime: Infinity,
    // What was resolved stays until the next answer, which may be a refusal.
    placeholderData: (before) => before,
  });
  const submit = useMutation({
    mutationFn: () => postYaml<Job>("/v1/jobs", text, idempotencyKey),
    onSuccess: async (job) => {
      tell(`Submitted: ${job.name}`);
      await client.invalidateQueries({ queryKey: ["jobs"] });
      await navigate({ to: "/jobs/$id", params: { id: job.id } });
    },
  });
  const refused = submit.error ?? check.error;
  const problems = refused instanceof ApiError ? (refused.problem?.errors ?? []) : [];
  const faults = useMemo(
    () => [
      ...problems.map((fault) => ({ ...rangeOf(settled, fault.field), message: fault.message })),
      // What is no YAML has no fields: the place is known here.
      ...(refused === null ? [] : parseDocument(settled).errors.map(({ pos: [from, to], message }) => ({ from, to, message }))),
    ],
    [refused, settled],
  );
  const ready = check.isSuccess && !check.isPlaceholderData && settled === text;
  const write = (next: string) => {
    setText(next);
    submit.reset(); // a refusal was of what was written before
  };
  return (
    <Stack gap="xs">
      <Group gap="md" align="stretch">
        <div style={{ flex: "1 1 380px", minWidth: 0 }}>
          <Text size="xs" c="dimmed">
            Spec (Ctrl-Space completes)
          </Text>
          <Editor label="Spec" text={start} language="yaml" height="60vh" change={write} faults={faults} schema={schema.data} />
        </div>
        <div style={{ flex: "1 1 300px", minWidth: 0 }}>
          <Text size="xs" c="dimmed">
            Resolved: with every default
          </Text>
          <Editor label="Resolved spec" text={check.data ? stringify(check.data.spec) : ""} language="yaml" height="60vh" />
          {ready && check.data.spec.kind === "pretrain" && <Cost check={check.data} />}
        </div>
      </Group>
      <div role="status" style={{ minHeight: 40 }}>
        {refused !== null && (
          <Alert color="red" variant="light" title={problems.length > 0 ? plural(problems.length, "fault") : undefined}>
            {problems.length === 0 && <span className="wrap">{refused.message}</span>}
            {problems.map((fault) => (
              <Text key={`${fault.field} ${fault.message}`} size="sm" className="wrap">
                <b>{fault.field}</b>
                {fault.field === "" ? "" : ": "}
                {fault.message}
              </Text>
            ))}
          </Alert>
        )}
        {check.data?.warnings.map((warning) => (
          <Alert key={warning} color="orange" variant="light">
            {warning}
          </Alert>
        ))}
        {ready && check.data.warnings.length === 0 && (
          <Text size="sm" c="dimmed">
            {needs(check.data.spec)}
          </Text>
        )}
        {ready && (
          <Text size="sm" c="dimmed">
            {foreseen(check.data, check.dataUpdatedAt)}
          </Text>
        )}
      </div>
      <Group>
        <Button size="sm" disabled={!ready || !maySubmit} loading={submit.isPending} onClick={() => submit.mutate()}>
          Submit
        </Button>
        {!maySubmit && (
          <Text size="sm" c="dimmed">
            A viewer's key submits nothing.
          </Text>
        )}
      </Group>
    </Stack>
  );
}

function Cost({ check }: { check: DryRun }) {
  return (
    <Text size="sm" c="dimmed" mt={6} role="note" aria-label="What it would take">
      {costText(check)}
      {check.cost != null && (
        <>
          {" "}
          As measured in{" "}
          <Link to="/jobs/$id" params={{ id: check.cost.job }}>
            {check.cost.name}
          </Link>
          {check.cost.device != null && `, on ${check.cost.device}`}.
        </>
      )}
    </Text>
  );
}

type Resolved = {
  resources?: { cpus_per_worker?: number; gpus_per_worker?: number; cpus?: number; gpus?: number };
  evaluations?: unknown[];
  search?: { algorithm: string; trials: number; seeds: number };
  concurrency?: number;
};

function needs(spec: Record<string, unknown>): string {
  const { resources, evaluations, search, concurrency } = spec as Resolved;
  const parts = ["The spec is valid."];
  const workers = workersOf(spec);
  if (resources !== undefined && workers !== null) {
    const cpus = resources.cpus_per_worker ?? resources.cpus;
    const gpus = resources.gpus_per_worker ?? resources.gpus;
    const each = [cpus ? plural(cpus, "CPU") : "", gpus ? plural(gpus, "GPU") : ""].filter(Boolean);
    parts.push(`It needs ${workersText(workers)} of ${each.join(" and ")}.`);
  }
  if (search !== undefined) {
    const trials = `It trains ${search.algorithm === "grid" ? "at most " : ""}${plural(search.trials, "trial")}`;
    const seeds = search.seeds > 1 ? `, each with ${search.seeds} seeds` : "";
    parts.push(`${trials}${seeds}, up to ${concurrency} at a time.`);
  }
  if (evaluations !== undefined && evaluations.length > 0) {
    parts.push(`${plural(evaluations.length, "evaluation")} will follow.`);
  }
  return parts.join(" ");
}
