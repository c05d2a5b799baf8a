// What to do about a job that does not continue.
import type { Job } from "../api/client";
import { number, plural } from "./format";

const FAILURES: Record<string, string> = {
  user: "Something in the spec or the data is not right, and would fail again. Edit the spec, and submit it as a new job.",
  diverged:
    "The loss became infinite or not a number. Lower optimizer.base_lr, warm up longer (training.warmup_epochs), or use precision bf16 instead of fp16.",
  out_of_memory:
    "A worker ran out of memory. Use a smaller training.batch_size, more workers, a narrower expander, or precision bf16.",
  timeout:
    "The time that the spec allows was over. Raise max_runtime or deadline; a retry resumes from the last checkpoint.",
  infrastructure:
    "A machine or a service failed, as often as retry.max_attempts allows. Look at the cluster and the log; a retry resumes from the last checkpoint.",
};

export function advice(job: Job): string | null {
  if (job.state === "failed") return FAILURES[job.failure ?? ""] ?? FAILURES.infrastructure ?? null;
  if (job.state === "queued") return "It starts by itself as soon as the cluster has room for it.";
  if (job.state === "waiting") return "It starts by itself once that has come.";
  if (job.state === "paused") return "It occupies nothing. When resumed, it continues from the step at which it was paused.";
  if (job.state === "cancelled" && job.attempts.length > 0) return "A retry resumes from its last checkpoint.";
  return null;
}

/** What the health checks say of a training in which they find nothing; null if they cannot yet. */
export function verdict({ kind, state, progress }: Pick<Job, "kind" | "state" | "progress">): string | null {
  if (kind !== "pretrain" || progress === null || progress.epoch < 1 || progress.findings.length > 0) return null;
  if (state === "succeeded") {
    return `The health checks found nothing wrong in ${plural(progress.epochs, "epoch")}. How good the encoder is, its evaluations say.`;
  }
  if (state === "failed") return null;
  return `The health checks find nothing wrong so far, at epoch ${number(progress.epoch)} of ${progress.epochs}.`;
}

const KINDS: Record<string, string> = { user: "spec or data", out_of_memory: "out of memory" };

/** The class of a failure, for people. */
export function kindOfFailure(failure: string | null): string {
  return KINDS[failure ?? ""] ?? failure ?? "";
}
