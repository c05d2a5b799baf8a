import type { JobState } from "../api/client";
import { Tag, type Tone } from "./Tag";

/** Each state, and the tone in which it is shown. */
const TONES: Record<JobState, Tone> = {
  waiting: "gray",
  queued: "gray",
  starting: "indigo",
  running: "indigo",
  stopping: "orange",
  paused: "orange",
  succeeded: "green",
  failed: "red",
  cancelled: "gray",
  unknown: "gray",
};
/** Those that are on their way, or were left: drawn as outlines. */
const OUTLINED: JobState[] = ["waiting", "starting", "stopping", "cancelled", "unknown"];

/** Those that a job can be looked for by. */
export const STATES = (Object.keys(TONES) as JobState[]).filter((state) => state !== "unknown");

export function ended(state: JobState): boolean {
  return state === "succeeded" || state === "failed" || state === "cancelled";
}

export function StateBadge({ state }: { state: JobState }) {
  return (
    <Tag tone={TONES[state]} outline={OUTLINED.includes(state)}>
      {state}
    </Tag>
  );
}
