// What its owner can change of a job that has not ended.
import { Button, Modal, Stack, Switch, TextInput } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answered, ApiError, api, type Job, type JobPatch } from "../api/client";
import * as queries from "../api/queries";
import { refresh, tell } from "./actions";
import { Failure } from "./Failure";
import { PriorityInput } from "./PriorityInput";

/** A dialog for the job of this id; closed if there is none. */
export function ChangeJob({ id, close }: { id: string | null; close: () => void }) {
  return (
    <Modal opened={id !== null} onClose={close} title="Change the job">
      {id !== null && <Current id={id} close={close} />}
    </Modal>
  );
}

/** The job as it is now: what is known of it may be older than its latest change. */
function Current({ id, close }: { id: string; close: () => void }) {
  const [looked, setLooked] = useState(0);
  const { data: job, error, isFetchedAfterMount, refetch } = useQuery({ ...queries.job(id), refetchOnMount: "always" });
  if (error) return <Failure error={error} retry={() => void refetch()} />;
  if (job === undefined || !isFetchedAfterMount) return <div style={{ minHeight: 200 }} />;
  return <Fields key={looked} job={job} close={close} again={() => void refetch().then(() => setLooked((times) => times + 1))} />;
}

function Fields({ job, close, again }: { job: Job; close: () => void; again: () => void }) {
  const client = useQueryClient();
  // What is changed is what was shown: a change of another's meanwhile is not overwritten.
  const [shown] = useState(job);
  const limit = (shown.spec as { max_runtime?: string | null }).max_runtime ?? "";
  const [priority, setPriority] = useState<number | string>(shown.priority);
  const [preemptible, setPreemptible] = useState(shown.preemptible);
  const [runtime, setRuntime] = useState(limit);
  const changes: JobPatch = {};
  if (priority !== "" && Number(priority) !== shown.priority) changes.priority = Number(priority);
  if (preemptible !== shown.preemptible) changes.preemptible = preemptible;
  if (runtime !== limit) changes.max_runtime = runtime === "" ? null : Number(runtime) || runtime;
  const save = useMutation({
    mutationFn: () =>
      answered(
        api.PATCH("/v1/jobs/{job_id}", {
          params: { path: { job_id: shown.id }, header: { "if-match": `"${shown.version}"` } },
          body: changes,
        }),
      ),
    onSuccess: async (changed) => {
      tell(`Changed: ${changed.name}`);
      close();
      await refresh(client, [changed]);
    },
  });
  const overtaken = save.error instanceof ApiError && save.error.status === 412;
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        save.mutate();
      }}
    >
      <Stack>
        <span className="wrap">{shown.name}</span>
        {save.error && <Failure error={save.error} />}
        {overtaken && (
          <Button variant="default" onClick={again}>
            Show what it is now
          </Button>
        )}
        <PriorityInput value={priority} change={setPriority} />
        <Switch
          label="Preemptible"
          description="It may be stopped, or made smaller, for a job of higher priority; it resumes from the same step later."
          checked={preemptible}
          onChange={(event) => setPreemptible(event.currentTarget.checked)}
        />
        <TextInput
          label="Longest time of an attempt"
          description="Seconds, or as in PT12H; nothing for as long as it takes."
          value={runtime}
          onChange={(event) => setRuntime(event.currentTarget.value.trim())}
        />
        <Button type="submit" loading={save.isPending} disabled={Object.keys(changes).length === 0}>
          Save
        </Button>
      </Stack>
    </form>
  );
}
