import { Badge } from "@mantine/core";
import type { JobState } from "../api/client";

const COLORS: Record<JobState, [color: string, variant: "light" | "outline"]> = {
  waiting: ["gray", "outline"],
  queued: ["gray", "light"],
  starting: ["indigo", "outline"],
  running: ["indigo", "light"],
  stopping: ["orange", "outline"],
  succeeded: ["green", "light"],
  failed: ["red", "light"],
  cancelled: ["gray", "outline"],
};

export const STATES = Object.keys(COLORS) as JobState[];

export function ended(state: JobState): boolean {
  return state === "succeeded" || state === "failed" || state === "cancelled";
}

export function StateBadge({ state }: { state: JobState }) {
  const [color, variant] = COLORS[state];
  return (
    <Badge
      color={color}
      variant={variant}
      w={92}
      radius="sm"
      tt="none"
      fw={600}
      style={{ "--badge-color": `var(--state-${color})` }}
    >
      {state}
    </Badge>
  );
}
