// How a paused job is resumed.
import { Button, Modal, NumberInput, Stack } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answered, api, type Job } from "../../api/client";
import { refresh, tell, tellFailure } from "../../components/actions";
import { Failure } from "../../components/Failure";
import { workersNow, workersOf } from "../../compute/workers";

export function Resume({ job }: { job: Job }) {
  const client = useQueryClient();
  const [open, setOpen] = useState(false);
  const [workers, setWorkers] = useState<number | string>("");
  const training = job.kind === "pretrain";
  const resume = useMutation({
    mutationFn: () =>
      answered(
        api.POST("/v1/jobs/{job_id}/resume", {
          params: { path: { job_id: job.id } },
          body: { workers: workers === "" ? null : Number(workers) },
        }),
      ),
    onSuccess: async (resumed) => {
      tell(`Resumed: ${resumed.name}`);
      setOpen(false);
      await refresh(client, [resumed]);
    },
    // The dialog of a pretraining shows it.
    onError: training ? undefined : tellFailure,
  });
  return (
    <>
      <Button loading={resume.isPending} onClick={() => (training ? setOpen(true) : resume.mutate())}>
        Resume
      </Button>
      <Modal opened={open} onClose={() => setOpen(false)} title="Resume this job">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            resume.mutate();
          }}
        >
          <Stack>
            {resume.error && <Failure error={resume.error} />}
            <NumberInput
              label="Workers"
              description={`They share each batch evenly. Leave it empty to keep ${workersNow(job.workers ?? null, workersOf(job.spec))}.`}
              min={1}
              max={1024}
              allowDecimal={false}
              value={workers}
              onChange={setWorkers}
              data-autofocus
            />
            <Button type="submit" loading={resume.isPending}>
              Resume the job
            </Button>
          </Stack>
        </form>
      </Modal>
    </>
  );
}
