import { Button, Group, Stack, Text, Title } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useMemo, useState } from "react";
import { ApiError, postYaml, type Schedule } from "../api/client";
import * as queries from "../api/queries";
import { tell } from "../components/actions";
import { Editor } from "../components/Editor";
import { Failure } from "../components/Failure";
import { rangeOf } from "../compute/spec";

function example(recipe: string | undefined): string {
  const job = (recipe ?? "kind: pretrain\nname: digits\ndata: {source: digits}")
    .split("\n")
    .filter((line) => !line.startsWith("#") && line !== "")
    .map((line) => `  ${line.replace(/^name: (.*)$/, 'name: "$1 {{ scheduled_time }}"')}`)
    .join("\n");
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return `name: nightly\ncron: "30 2 * * *"\ntimezone: ${zone}\njob:\n${job}\n`;
}

export function NewSchedule() {
  const recipes = useQuery(queries.recipes);
  if (recipes.isPending) return null;
  return <Writing start={example(recipes.data?.items.find((each) => each.name === "digits")?.text)} />;
}

function Writing({ start }: { start: string }) {
  const navigate = useNavigate();
  const client = useQueryClient();
  const [text, setText] = useState(start);
  const schema = useQuery(queries.schema("schedule"));
  const create = useMutation({
    mutationFn: () => postYaml<Schedule>("/v1/schedules", text),
    onSuccess: async (made) => {
      tell(`Created: ${made.name}`);
      await client.invalidateQueries({ queryKey: ["schedules"] });
      await navigate({ to: "/schedules/$id", params: { id: made.id } });
    },
  });
  const problems = create.error instanceof ApiError ? create.error.problem?.errors : undefined;
  const faults = useMemo(
    () => (problems ?? []).map((fault) => ({ ...rangeOf(text, fault.field), message: fault.message })),
    // The faults are of the text that was sent.
    [problems],
  );
  return (
    <Stack gap="xs">
      <Title order={1}>New schedule</Title>
      <Text size="sm" c="dimmed">
        <code>cron</code> is minute, hour, day of the month, month, day of the week, in the zone of <code>timezone</code>.
      </Text>
      <Editor label="Schedule" text={start} language="yaml" height="55vh" change={setText} faults={faults} schema={schema.data} />
      {create.error && <Failure error={create.error} />}
      <Group>
        <Button size="sm" loading={create.isPending} onClick={() => create.mutate()}>
          Create
        </Button>
      </Group>
    </Stack>
  );
}
