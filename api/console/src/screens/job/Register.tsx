// The encoder of a pretraining that has succeeded, as a version of a model in MLflow's registry.
import { Anchor, Button, Modal, Stack, Text, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { answered, api, type Job } from "../../api/client";
import { Failure } from "../../components/Failure";

export function Register({ job }: { job: Job }) {
  const [open, setOpen] = useState(false);
  const [model, setModel] = useState(job.experiment);
  const [alias, setAlias] = useState("candidate");
  const register = useMutation({
    mutationFn: () =>
      answered(
        api.POST("/v1/jobs/{job_id}/register", {
          params: { path: { job_id: job.id } },
          body: { model, alias: alias || null, require: {} },
        }),
      ),
  });
  const close = () => {
    setOpen(false);
    register.reset();
  };
  return (
    <>
      <Button variant="default" onClick={() => setOpen(true)}>
        Register
      </Button>
      <Modal opened={open} onClose={close} title={register.data === undefined ? "Register the encoder" : "It is registered"}>
        {register.data !== undefined ? (
          <Text size="sm">
            The encoder is{" "}
            <Anchor href={register.data.url} target="_blank" rel="noreferrer">
              version {register.data.version} of {register.data.name} ↗
            </Anchor>
            {register.data.alias !== null && `, and its ${register.data.alias}`}.
          </Text>
        ) : (
          <form
            onSubmit={(event) => {
              event.preventDefault();
              register.mutate();
            }}
          >
            <Stack>
              <Text size="sm">
                A version of a model in MLflow's registry, with the scores as tags. This job has one version of a model.
              </Text>
              {register.error && <Failure error={register.error} />}
              <TextInput
                label="Model"
                description="It is created if there is none."
                required
                value={model}
                onChange={(event) => setModel(event.currentTarget.value)}
                data-autofocus
              />
              <TextInput
                label="Alias"
                description="Moved to this version."
                value={alias}
                onChange={(event) => setAlias(event.currentTarget.value)}
              />
              <Button type="submit" loading={register.isPending}>
                Register
              </Button>
            </Stack>
          </form>
        )}
      </Modal>
    </>
  );
}
