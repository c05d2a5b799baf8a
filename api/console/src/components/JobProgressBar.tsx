import { Group, Progress, Text } from "@mantine/core";
import type { Job } from "../api/client";
import { duration, number } from "../compute/format";
import { ended } from "./StateBadge";

/** How far a job is, and when it may be done. */
export function JobProgressBar({ job, wide = false }: { job: Job; wide?: boolean }) {
  const { progress } = job;
  if (progress === null) return <Text size="xs" c="dimmed">{ended(job.state) ? "–" : ""}</Text>;
  // A sweep whose trials were stopped early has done all the same.
  const done = job.state === "succeeded" || progress.steps === 0;
  const share = done ? 100 : (100 * progress.step) / progress.steps;
  const left = ended(job.state) ? "" : duration(progress.eta_seconds);
  const unit = job.kind === "sweep" ? "trials" : "epochs";
  return (
    <Group gap={8} wrap="nowrap" w={wide ? "100%" : 150}>
      <Progress
        value={share}
        flex={1}
        size="sm"
        color={job.state === "failed" ? "red" : "indigo"}
        aria-label={`${Math.round(share)} % done`}
        transitionDuration={0}
      />
      <Text size="xs" c="dimmed" miw={54} ta="right" style={{ whiteSpace: "nowrap" }}>
        {wide
          ? `${number(progress.epoch)} of ${number(progress.epochs)} ${unit}${left === "" ? "" : `, ${left} left`}`
          : left === ""
            ? `${Math.round(share)} %`
            : left}
      </Text>
    </Group>
  );
}
