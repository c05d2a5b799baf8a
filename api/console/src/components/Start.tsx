import type { QueuePlace } from "../api/client";
import { expected, grounds } from "../compute/queue";
import { absolute, useNow } from "./Time";

/** When a job that waits is expected to start; on hover what that rests on, or why nobody knows. */
export function Start({ place }: { place: QueuePlace }) {
  const now = useNow();
  const at = place.start === null ? "" : `${absolute(place.start)}. `;
  return (
    <span title={at + grounds(place)} className="hint">
      {expected(place, now)}
    </span>
  );
}
