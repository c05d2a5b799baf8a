// What can be done with a job.
import { Button, Group } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { answered, api, type Job } from "../../api/client";
import { Confirm, tell, tellFailure, useBulk, useMayChange, useMaySubmit } from "../../components/actions";
import { ChangeJob } from "../../components/ChangeJob";
import { LinkButton } from "../../components/links";
import { ended } from "../../components/StateBadge";
import { Extend } from "./Extend";
import { Register } from "./Register";
import { Resume } from "./Resume";

export function Actions({ job }: { job: Job }) {
  const mayChange = useMayChange()(job.owner);
  const maySubmit = useMaySubmit();
  const [changing, setChanging] = useState(false);
  const navigate = useNavigate();
  const client = useQueryClient();
  // One that stops to make room can still be paused or cancelled.
  const pausing = job.state === "paused" || job.stopping_for === "paused";
  const ending = job.stopping_for === "cancelled" || job.stopping_for === "timeout";
  const bulk = useBulk((jobs) => {
    const made = jobs[0];
    if (made !== undefined && made.id !== job.id) void navigate({ to: "/jobs/$id", params: { id: made.id } });
  });
  const promote = useMutation({
    mutationFn: () =>
      answered(api.POST("/v1/jobs/{job_id}/promote", { params: { path: { job_id: job.id } } })),
    onSuccess: async (made) => {
      tell("The best configuration is trained by this job");
      await client.invalidateQueries({ queryKey: ["jobs"] });
      await navigate({ to: "/jobs/$id", params: { id: made.id } });
    },
    onError: tellFailure,
  });
  return (
    <Group gap={6}>
      {job.mlflow !== null && (
        <Button component="a" href={job.mlflow.url} target="_blank" rel="noreferrer" variant="default">
          MLflow ↗
        </Button>
      )}
      <LinkButton to="/compare" search={{ job: [job.id] }} variant="default">
        Compare
      </LinkButton>
      {maySubmit && (
        <LinkButton to="/new" search={{ from: job.id }} variant="default">
          Clone
        </LinkButton>
      )}
      {maySubmit && (job.state === "failed" || job.state === "cancelled") && (
        <Button variant="default" loading={bulk.isPending} onClick={() => bulk.mutate({ action: "retry", jobs: [job.id] })}>
          {job.failure === "user" ? "Retry as it is" : "Retry"}
        </Button>
      )}
      {maySubmit && job.kind !== "evaluate" && job.state === "succeeded" && <Extend job={job} />}
      {mayChange && job.kind === "pretrain" && job.state === "succeeded" && <Register job={job} />}
      {mayChange && job.kind === "sweep" && ended(job.state) && (
        <Button loading={promote.isPending} onClick={() => promote.mutate()}>
          Promote the best
        </Button>
      )}
      {mayChange && !ended(job.state) && (
        <>
          <Button variant="default" onClick={() => setChanging(true)}>
            Change
          </Button>
          <ChangeJob id={changing ? job.id : null} close={() => setChanging(false)} />
        </>
      )}
      {mayChange && pausing && <Resume job={job} />}
      {mayChange && !ended(job.state) && !pausing && (
        <Button
          variant="default"
          disabled={ending}
          loading={bulk.isPending}
          onClick={() => bulk.mutate({ action: "pause", jobs: [job.id] })}
        >
          Pause
        </Button>
      )}
      {mayChange && !ended(job.state) && (
        <Confirm
          label="Cancel"
          title="Cancel this job?"
          confirm="Cancel the job"
          disabled={ending}
          loading={bulk.isPending}
          onConfirm={() => bulk.mutate({ action: "cancel", jobs: [job.id] })}
        >
          {job.name} {whatCancelling(job)}
        </Confirm>
      )}
    </Group>
  );
}

function whatCancelling({ kind, attempts }: Job): string {
  if (attempts.length === 0) return "leaves the queue.";
  if (kind === "pretrain") return "stops. Its last checkpoint is kept: a retry resumes from there.";
  if (kind === "sweep") return "stops, with its trials. They are kept: a retry continues with them.";
  return "stops. A retry begins anew.";
}
