// What can be done at once with the jobs that are chosen in a table.
import { Button, Group, Modal, Stack, Text, TextInput } from "@mantine/core";
import { type ReactNode, useState } from "react";
import { plural } from "../compute/format";
import { type Action, Confirm, useBulk, useMaySubmit } from "./actions";
import { PriorityInput } from "./PriorityInput";

const NAMES = { pause: "Pause", resume: "Resume", retry: "Retry" };

export function ChosenJobs({
  label = "Chosen jobs",
  jobs,
  actions,
  clear,
  children,
}: {
  label?: string;
  jobs: { id: string; name: string }[];
  actions: Action[];
  clear: () => void;
  children?: ReactNode;
}) {
  const bulk = useBulk(clear);
  const maySubmit = useMaySubmit();
  if (jobs.length === 0) return null;
  const count = plural(jobs.length, "job");
  const ids = jobs.map((job) => job.id);
  const button = (action: Action) => {
    if (action === "label") {
      return <Label key={action} count={count} set={(labels) => bulk.mutate({ action, jobs: ids, labels })} />;
    }
    if (action === "priority") {
      return <Priority key={action} count={count} set={(priority) => bulk.mutate({ action, jobs: ids, priority })} />;
    }
    const act = () => bulk.mutate({ action, jobs: ids });
    if (action === "cancel") {
      return (
        <Confirm key={action} label="Cancel" title={`Cancel ${count}?`} confirm={`Cancel ${count}`} loading={bulk.isPending} onConfirm={act}>
          {jobs
            .slice(0, 10)
            .map((job) => job.name)
            .join("\n")}
          {jobs.length > 10 && `\nand ${jobs.length - 10} more`}
        </Confirm>
      );
    }
    return (
      <Button key={action} variant="default" loading={bulk.isPending} onClick={act}>
        {NAMES[action]}
      </Button>
    );
  };
  return (
    <Group gap="xs" className="card" p={6} role="region" aria-label={label}>
      <Text size="sm">{count} chosen</Text>
      {children}
      {maySubmit && actions.map(button)}
      <Button variant="subtle" onClick={clear}>
        Choose none
      </Button>
    </Group>
  );
}

function Label({ count, set }: { count: string; set: (labels: Record<string, string | null>) => void }) {
  const [open, setOpen] = useState(false);
  const [pair, setPair] = useState("");
  const [key = "", value = ""] = pair.split(/=(.*)/s);
  return (
    <>
      <Button variant="default" onClick={() => setOpen(true)}>
        Label
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={`Label ${count}`}>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            set({ [key]: value === "" ? null : value });
            setOpen(false);
          }}
        >
          <Stack>
            <TextInput
              label="Label"
              description="key=value; key= removes it"
              value={pair}
              onChange={(event) => setPair(event.currentTarget.value)}
              data-autofocus
            />
            <Button type="submit" disabled={key === "" || !pair.includes("=")}>
              {value === "" ? "Remove the label" : "Set the label"}
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}

function Priority({ count, set }: { count: string; set: (priority: number) => void }) {
  const [open, setOpen] = useState(false);
  const [priority, setPriority] = useState<number | string>(0);
  return (
    <>
      <Button variant="default" onClick={() => setOpen(true)}>
        Set priority
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={`Priority of ${count}`}>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            set(Number(priority));
            setOpen(false);
          }}
        >
          <Stack>
            <PriorityInput value={priority} change={setPriority} />
            <Button type="submit" disabled={priority === ""}>
              Set the priority
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}
