import type { JobState } from "../api/client";

/** Each state, and the tone in which it is shown. */
const TONES: Record<JobState, "gray" | "indigo" | "orange" | "green" | "red"> = {
  waiting: "gray",
  queued: "gray",
  starting: "indigo",
  running: "indigo",
  stopping: "orange",
  succeeded: "green",
  failed: "red",
  cancelled: "gray",
};
/** Those that are on their way, or were left: drawn as outlines. */
const OUTLINED: JobState[] = ["waiting", "starting", "stopping", "cancelled"];

export const STATES = Object.keys(TONES) as JobState[];

export function ended(state: JobState): boolean {
  return state === "succeeded" || state === "failed" || state === "cancelled";
}

// A plain element: tables have hundreds of them.
export function StateBadge({ state }: { state: JobState }) {
  return (
    <span className={`badge ${TONES[state]}${OUTLINED.includes(state) ? " outline" : ""}`}>{state}</span>
  );
}
