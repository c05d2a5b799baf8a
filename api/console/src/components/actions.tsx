// What can be done with jobs, and what it says afterwards.
import { Button, Group, Modal, Stack, Text } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { type QueryClient, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { answered, api, type Job } from "../api/client";
import { session } from "../api/queries";
import { plural } from "../compute/format";

/** Whether the reader may change what belongs to an owner. */
export function useMayChange(): (owner: string | null | undefined) => boolean {
  const { data } = useQuery(session);
  return (owner) =>
    data !== undefined && (data.role === "admin" || (data.role === "user" && data.name === owner));
}

export function useMaySubmit(): boolean {
  const { data } = useQuery(session);
  return data !== undefined && data.role !== "viewer";
}

export function tell(message: string): void {
  notifications.show({ message });
}

export function tellFailure(error: Error): void {
  notifications.show({ color: "red", title: "That was not done", message: error.message, autoClose: 12_000 });
}

/** Ask again for whatever shows these jobs. */
export async function refresh(client: QueryClient, jobs: Job[]): Promise<void> {
  await Promise.all([
    client.invalidateQueries({ queryKey: ["jobs"] }),
    client.invalidateQueries({ queryKey: ["queue"] }),
    ...jobs.map((job) => client.invalidateQueries({ queryKey: ["job", job.id] })),
  ]);
}

const DONE = {
  pause: "Paused",
  resume: "Resumed",
  cancel: "Cancelled",
  retry: "Submitted again",
  label: "Labelled",
  priority: "Priority changed",
};

export type Action = keyof typeof DONE;
/** The API takes so many at once. */
const AT_ONCE = 200;

type Bulk = { action: Action; jobs: string[]; labels?: Record<string, string | null>; priority?: number };

/** Do one thing with several jobs; each that could not be done is named. */
export function useBulk(after?: (jobs: Job[]) => void) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: async ({ labels = {}, jobs, ...rest }: Bulk) => {
      const items = [];
      for (let start = 0; start < jobs.length; start += AT_ONCE) {
        const body = { labels, jobs: jobs.slice(start, start + AT_ONCE), ...rest };
        items.push(...(await answered(api.POST("/v1/jobs/bulk", { body }))).items);
      }
      return { items };
    },
    onSuccess: async (answer, { action }) => {
      const jobs = answer.items.flatMap((item) => (item.job ? [item.job] : []));
      for (const item of answer.items) {
        if (item.problem) tellFailure(new Error(item.problem.detail));
      }
      if (jobs.length > 0) tell(`${DONE[action]}: ${plural(jobs.length, "job")}`);
      await refresh(client, jobs);
      after?.(jobs);
    },
    onError: tellFailure,
  });
}

/** A button that asks before it does something that cannot be undone. */
export function Confirm({
  label,
  title,
  children,
  confirm,
  onConfirm,
  disabled,
  loading,
}: {
  label: string;
  title: string;
  children: ReactNode;
  confirm: string;
  onConfirm: () => void;
  disabled?: boolean;
  loading?: boolean;
}) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button variant="default" disabled={disabled} loading={loading} onClick={() => setOpen(true)}>
        {label}
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title={title}>
        <Stack>
          <Text size="sm" component="div" className="wrap">
            {children}
          </Text>
          <Group justify="flex-end">
            <Button variant="default" onClick={() => setOpen(false)} data-autofocus>
              Keep as it is
            </Button>
            <Button
              color="red"
              onClick={() => {
                setOpen(false);
                onConfirm();
              }}
            >
              {confirm}
            </Button>
          </Group>
        </Stack>
      </Modal>
    </>
  );
}
