// A pretraining or a sweep that has succeeded, continued by a new job: for more epochs, or more trials.
import { Alert, Button, Group, Modal, NumberInput, Radio, Stack, Text } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answered, api, type Job } from "../../api/client";
import { refresh } from "../../components/actions";
import { Failure } from "../../components/Failure";
import { LinkButton } from "../../components/links";
import { number } from "../../compute/format";

export function Extend({ job }: { job: Job }) {
  const client = useQueryClient();
  const sweep = job.kind === "sweep";
  const spec = job.spec as { training?: { epochs: number }; search?: { trials: number } };
  const done = (sweep ? spec.search?.trials : spec.training?.epochs) ?? 0;
  const [open, setOpen] = useState(false);
  const [total, setTotal] = useState<number | string>(2 * done);
  const [schedule, setSchedule] = useState<"anneal" | "rewarm">("anneal");
  const extend = useMutation({
    mutationFn: () =>
      answered(
        api.POST("/v1/jobs/{job_id}/extend", {
          params: { path: { job_id: job.id } },
          body: sweep ? { trials: Number(total) } : { epochs: Number(total), schedule },
        }),
      ),
    onSuccess: (made) => refresh(client, [made.job]),
  });
  const title = sweep ? "Try more" : "Train it on";
  const close = () => {
    setOpen(false);
    extend.reset();
  };
  return (
    <>
      <Button variant="default" onClick={() => setOpen(true)}>
        Extend
      </Button>
      <Modal opened={open} onClose={close} title={extend.data === undefined ? title : "Extended"}>
        {extend.data !== undefined ? (
          <Stack>
            {extend.data.warnings.map((warning) => (
              <Alert key={warning} color="orange" variant="light">
                {warning}
              </Alert>
            ))}
            <Group justify="flex-end">
              <LinkButton to="/jobs/$id" params={{ id: extend.data.job.id }} onClick={close}>
                Open the new job
              </LinkButton>
            </Group>
          </Stack>
        ) : (
          <form
            onSubmit={(event) => {
              event.preventDefault();
              extend.mutate();
            }}
          >
            <Stack>
              <Text size="sm">
                {sweep
                  ? "A new job begins with the trials of this one, and runs none of them again. This one stays as it is."
                  : "A new job continues from the last checkpoint of this one. This one stays as it is."}
              </Text>
              {extend.error && <Failure error={extend.error} />}
              <NumberInput
                label={sweep ? "Trials in all" : "Epochs of the whole training"}
                description={`${number(done)} of them are ${sweep ? "tried" : "trained"} already.`}
                min={done + 1}
                max={sweep ? 10_000 : 100_000}
                allowDecimal={false}
                value={total}
                onChange={setTotal}
                data-autofocus
              />
              {!sweep && (
                <Radio.Group
                  label="The learning rate"
                  value={schedule}
                  onChange={(value) => setSchedule(value as typeof schedule)}
                >
                  <Stack gap="xs" mt={4}>
                    <Radio
                      value="anneal"
                      label="Anneal"
                      description="It is what it would be from here on in one run of the whole length, and falls until the last epoch."
                    />
                    <Radio
                      value="rewarm"
                      label="Rewarm"
                      description="It rises to its peak once more, and falls over the rest: what is learned moves further, and unsettles first."
                    />
                  </Stack>
                </Radio.Group>
              )}
              <Button type="submit" loading={extend.isPending} disabled={total === ""}>
                {title}
              </Button>
            </Stack>
          </form>
        )}
      </Modal>
    </>
  );
}
