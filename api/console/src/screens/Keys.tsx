// Who may use the platform, and what they have done: for administrators.
import { Alert, Button, Code, CopyButton, Group, Modal, NumberInput, Select, Stack, Table, Tabs, Text, TextInput, Title } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { answered, api, type Key } from "../api/client";
import * as queries from "../api/queries";
import { Confirm, tell, tellFailure } from "../components/actions";
import { Columns } from "../components/Columns";
import { Failure } from "../components/Failure";
import { Tag } from "../components/Tag";
import { Time } from "../components/Time";

export function Keys() {
  return (
    <Stack gap="xs">
      <Title order={1}>Keys</Title>
      <Tabs defaultValue="keys" keepMounted={false}>
        <Tabs.List mb="sm">
          <Tabs.Tab value="keys">Keys</Tabs.Tab>
          <Tabs.Tab value="audit">Audit</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="keys">
          <KeyList />
        </Tabs.Panel>
        <Tabs.Panel value="audit">
          <Audit />
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}

function KeyList() {
  const client = useQueryClient();
  const { data, error } = useQuery(queries.keys);
  const revoke = useMutation({
    mutationFn: (prefix: string) => answered(api.DELETE("/v1/keys/{prefix}", { params: { path: { prefix } } })),
    onSuccess: async (key) => {
      tell(`Revoked: the key of ${key.name}`);
      await client.invalidateQueries({ queryKey: ["keys"] });
    },
    onError: tellFailure,
  });
  if (error) return <Failure error={error} />;
  return (
    <Stack gap="xs">
      <Group justify="flex-end">
        <NewKey />
      </Group>
      <div className="scroll" tabIndex={0}>
        <Table>
          <Columns names={["Owner", "Role", "Public part", "Jobs", "GPUs", "Priority", "Weight", "Created", "Expires", "Last used", ""]} />
          <Table.Tbody>
            {data?.items.map((key) => (
              <Table.Tr key={key.prefix}>
                <Table.Td>{key.name}</Table.Td>
                <Table.Td>{key.role}</Table.Td>
                <Table.Td>
                  <Code>{key.prefix}</Code>
                </Table.Td>
                <Table.Td>{key.max_jobs ?? "–"}</Table.Td>
                <Table.Td>{key.max_gpus ?? "–"}</Table.Td>
                <Table.Td>{key.max_priority ?? "–"}</Table.Td>
                <Table.Td>{key.weight ?? 1}</Table.Td>
                <Table.Td>
                  <Time at={key.created_at} />
                </Table.Td>
                <Table.Td>
                  <Time at={key.expires_at} />
                </Table.Td>
                <Table.Td>
                  <Time at={key.last_used_at} />
                </Table.Td>
                <Table.Td ta="right">
                  <Revocation keyOf={key} revoke={() => revoke.mutate(key.prefix)} />
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
    </Stack>
  );
}

function Revocation({ keyOf, revoke }: { keyOf: Key; revoke: () => void }) {
  if (keyOf.revoked_at !== null) {
    return (
      <Tag tone="gray" outline>
        revoked
      </Tag>
    );
  }
  return (
    <Confirm label="Revoke" title="Revoke this key?" confirm="Revoke the key" onConfirm={revoke}>
      The key {keyOf.prefix} of {keyOf.name} is refused from the next request on, and browsers that have signed in with it are signed out.
    </Confirm>
  );
}

function NewKey() {
  const [open, setOpen] = useState(false);
  const [made, setMade] = useState(false);
  const close = () => {
    setOpen(false);
    setMade(false);
  };
  return (
    <>
      <Button onClick={() => setOpen(true)}>New key</Button>
      <Modal opened={open} onClose={close} title="New key" closeOnClickOutside={!made}>
        <KeyForm done={close} made={() => setMade(true)} />
      </Modal>
    </>
  );
}

/** It begins anew whenever the dialog opens: what one key may do is not the next one's. */
function KeyForm({ done, made }: { done: () => void; made: () => void }) {
  const client = useQueryClient();
  const [name, setName] = useState("");
  const [role, setRole] = useState<"admin" | "user" | "viewer">("user");
  const [days, setDays] = useState<number | string>("");
  const [jobs, setJobs] = useState<number | string>("");
  const [gpus, setGpus] = useState<number | string>("");
  const [priority, setPriority] = useState<number | string>("");
  const [weight, setWeight] = useState<number | string>("");
  const create = useMutation({
    mutationFn: () =>
      answered(
        api.POST("/v1/keys", {
          body: {
            name,
            role,
            expires_in: days === "" ? null : `P${days}D`,
            max_jobs: jobs === "" ? null : Number(jobs),
            max_gpus: gpus === "" ? null : Number(gpus),
            max_priority: priority === "" ? null : Number(priority),
            weight: weight === "" ? null : Number(weight),
          },
        }),
      ),
    onSuccess: () => {
      made();
      return client.invalidateQueries({ queryKey: ["keys"] });
    },
  });
  if (create.data !== undefined) {
    return (
      <Stack>
        <Alert color="orange" variant="light">
          This is the only time that the key is shown. What is stored is its digest.
        </Alert>
        <Code block className="wrap">
          {create.data.key}
        </Code>
        <Group justify="flex-end">
          <CopyButton value={create.data.key}>
            {({ copied, copy }) => (
              <Button variant="default" onClick={copy}>
                {copied ? "Copied" : "Copy"}
              </Button>
            )}
          </CopyButton>
          <Button onClick={done}>Done</Button>
        </Group>
      </Stack>
    );
  }
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        create.mutate();
      }}
    >
      <Stack>
        {create.error && <Failure error={create.error} />}
        <TextInput label="Owner" required value={name} onChange={(event) => setName(event.currentTarget.value)} data-autofocus />
        <Select
          label="Role"
          data={["viewer", "user", "admin"]}
          value={role}
          allowDeselect={false}
          onChange={(value) => setRole(value as typeof role)}
          description="A viewer sees everything; a user also submits, and changes what is theirs; an administrator may do everything."
        />
        <NumberInput label="Expires in days" min={1} max={3650} value={days} onChange={setDays} />
        <NumberInput label="Unfinished jobs, at most" min={1} value={jobs} onChange={setJobs} />
        <NumberInput label="GPUs, at most" min={0} value={gpus} onChange={setGpus} />
        <NumberInput label="Priority of a job, at most" min={-1000} max={1000} allowDecimal={false} value={priority} onChange={setPriority} />
        <NumberInput
          label="Weight"
          description="With 2, the owner gets twice the share of one with 1, the default."
          min={0.01}
          max={100}
          value={weight}
          onChange={setWeight}
        />
        <Button type="submit" loading={create.isPending}>
          Create the key
        </Button>
      </Stack>
    </form>
  );
}

function Audit() {
  const [cursors, setCursors] = useState<string[]>([]);
  const { data, error } = useQuery(queries.audit(cursors.at(-1)));
  if (error) return <Failure error={error} />;
  return (
    <Stack gap="xs">
      <div className="scroll" tabIndex={0}>
        <Table>
          <Columns names={["When", "Who", "Key", "From", "Request", "Answer", "Made"]} />
          <Table.Tbody>
            {data?.items.map((entry) => (
              <Table.Tr key={entry.id}>
                <Table.Td>
                  <Time at={entry.at} />
                </Table.Td>
                <Table.Td>{entry.name}</Table.Td>
                <Table.Td>
                  <Code>{entry.key ?? "–"}</Code>
                </Table.Td>
                <Table.Td>{entry.address}</Table.Td>
                <Table.Td className="wrap">
                  {entry.method} {entry.path}
                </Table.Td>
                <Table.Td>{entry.status ?? "none"}</Table.Td>
                <Table.Td>
                  {entry.made?.startsWith("/v1/jobs/") === true ? (
                    <Link to="/jobs/$id" params={{ id: entry.made.split("/").at(-1) ?? "" }}>
                      {entry.made.split("/").at(-1)}
                    </Link>
                  ) : (
                    entry.made
                  )}
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
      <Group justify="center">
        <Button variant="default" disabled={cursors.length === 0} onClick={() => setCursors((now) => now.slice(0, -1))}>
          ← Later
        </Button>
        <Button
          variant="default"
          disabled={data?.next_cursor == null}
          onClick={() => setCursors((now) => (data?.next_cursor == null ? now : [...now, data.next_cursor]))}
        >
          Earlier →
        </Button>
      </Group>
      <Text size="xs" c="dimmed">
        Every request that changed something, or was refused.
      </Text>
    </Stack>
  );
}
