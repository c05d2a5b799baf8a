import type { Job } from "../api/client";
import { duration, number } from "../compute/format";
import { ended } from "./StateBadge";
import { useNow } from "./Time";

/** Longer than between any two readings of a job that gets on; some steps of an evaluation are as long. */
const QUIET_MS = 300_000;

/** How far a job is, and when it may be done. */
export function JobProgressBar({ job, wide = false }: { job: Job; wide?: boolean }) {
  const { progress } = job;
  if (progress === null) return ended(job.state) ? "–" : null;
  // A sweep whose trials were stopped early has done all the same.
  const done = job.state === "succeeded" || progress.steps === 0;
  const share = done ? 100 : (100 * progress.step) / progress.steps;
  // It is 0 too while nobody can know.
  const left = ended(job.state) || progress.eta_seconds === 0 ? "" : duration(progress.eta_seconds);
  const far =
    job.kind === "evaluate"
      ? `${Math.round(share)} %`
      : `${number(progress.epoch)} of ${number(progress.epochs)} ${job.kind === "sweep" ? "trials" : "epochs"}`;
  const text = wide
    ? `${far}${left === "" ? "" : `, ${left} left`}`
    : left === ""
      ? `${Math.round(share)} %`
      : left;
  return (
    <div className={`bar${wide ? " wide" : ""}${job.state === "failed" ? " failed" : ""}`}>
      <div
        role="progressbar"
        aria-label={`progress of ${job.name}`}
        aria-valuenow={Math.round(share)}
        aria-valuemin={0}
        aria-valuemax={100}
      >
        <div style={{ width: `${share}%` }} />
      </div>
      <span>
        {text}
        {job.state === "running" && job.progress_at != null && <Quiet since={job.progress_at} />}
      </span>
    </div>
  );
}

/** Says that nothing has been heard of a running job for long. */
function Quiet({ since }: { since: string }) {
  const quiet = useNow() - Date.parse(since);
  if (quiet < QUIET_MS) return null;
  return (
    <b role="note" title={`Its progress has not changed since ${new Date(since).toLocaleString()}`}>
      , stale for {duration(quiet / 1000)}
    </b>
  );
}
