import type { Job } from "../api/client";
import { ranFor } from "../compute/course";
import { duration } from "../compute/format";
import { useNow } from "./Time";

/** How long a job has been on the cluster: not in the queue, and not paused. */
export function RanFor({ job }: { job: Job }) {
  const now = useNow();
  return <span style={{ whiteSpace: "nowrap" }}>{job.attempts.length === 0 ? "–" : duration(ranFor(job, now))}</span>;
}
