import type { Trial } from "../api/client";
import { Tag, type Tone } from "./Tag";

const TONES: Record<Trial["state"], Tone> = {
  running: "indigo",
  succeeded: "green",
  stopped: "gray",
  failed: "red",
  cancelled: "gray",
};

/** The state of a trial, or of one of its trainings. */
export function TrialBadge({ state }: { state: Trial["state"] }) {
  return <Tag tone={TONES[state]}>{state}</Tag>;
}
