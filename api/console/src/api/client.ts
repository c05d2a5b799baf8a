// The one connection to the API: typed by its OpenAPI document, signed in by a cookie.
import createClient, { type Middleware } from "openapi-fetch";
import type { components, paths } from "./schema";

type Schemas = components["schemas"];
export type Job = Schemas["JobSchema"];
export type Attempt = Schemas["AttemptSchema"];
export type JobState = Schemas["JobState"];
export type JobEvent = Schemas["JobEvent"];
export type EventOfJob = Schemas["EventSchema"];
export type JobProgress = Pick<Job, "state" | "progress" | "progress_at" | "summary"> & { job_id: string };
export type Checkpoint = Schemas["CheckpointSchema"];
export type Trial = Schemas["TrialSchema"];
export type TrialDetail = Schemas["TrialDetail"];
export type Schedule = Schemas["ScheduleSchema"];
export type Node = Schemas["NodeSchema"];
export type Key = Schemas["KeySchema"];
export type Session = Schemas["SessionSchema"];
export type Point = Schemas["MetricPointSchema"];
export type Recipe = Schemas["Recipe"];
export type Problem = Schemas["Problem"];
export type DryRun = Schemas["DryRun"];
export type JobPatch = Schemas["JobPatch"];
export type Queue = Schemas["QueueSchema"];
export type QueueEntry = Schemas["QueueEntry"];
export type QueuePlace = Schemas["QueuePlace"];
export type Holder = Schemas["Holder"];
export type OwnerShare = Schemas["OwnerShare"];

/** An answer of the API that is not a success. */
export class ApiError extends Error {
  readonly status: number;
  readonly problem: Problem | null;

  constructor(status: number, problem: Problem | null) {
    super(problem?.detail ?? `the API answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

let csrf: string | null = null;

/** Take over what the session says: requests that change something must carry it. */
export function rememberCsrf(session: Session | null): void {
  csrf = session?.csrf ?? null;
}

function changing(method: string): boolean {
  return method !== "GET" && method !== "HEAD";
}

const withCsrf: Middleware = {
  onRequest({ request }) {
    if (csrf !== null && changing(request.method)) request.headers.set("X-CSRF-Token", csrf);
    return request;
  },
};

export const api = createClient<paths>({ baseUrl: "/" });
api.use(withCsrf);

type Answer<T> = { data?: T; error?: unknown; response: Response };

/** The data of an answer; an ApiError for any other. */
export async function answered<T>(call: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await call;
  } catch (error) {
    if (error instanceof DOMException) throw error; // aborted
    throw new ApiError(0, {
      type: "about:blank",
      title: "No answer",
      status: 0,
      detail: "The API does not answer. What you see may be out of date.",
      code: "unreachable",
    });
  }
  if (answer.response.ok) return answer.data as T;
  const problem = isProblem(answer.error) ? answer.error : null;
  throw new ApiError(answer.response.status, problem);
}

function isProblem(value: unknown): value is Problem {
  return typeof value === "object" && value !== null && "detail" in value && "code" in value;
}

/** POST a document as YAML: a spec, or a schedule. */
export async function postYaml<T>(path: string, text: string, idempotencyKey?: string): Promise<T> {
  const headers: Record<string, string> = { "Content-Type": "application/yaml" };
  if (csrf !== null) headers["X-CSRF-Token"] = csrf;
  if (idempotencyKey !== undefined) headers["Idempotency-Key"] = idempotencyKey;
  return sent<T>(path, { method: "POST", headers, body: text });
}

/** PATCH a document as YAML: a merge patch. */
export async function patchYaml<T>(path: string, text: string): Promise<T> {
  const headers: Record<string, string> = { "Content-Type": "application/yaml" };
  if (csrf !== null) headers["X-CSRF-Token"] = csrf;
  return sent<T>(path, { method: "PATCH", headers, body: text });
}

async function sent<T>(path: string, init: RequestInit): Promise<T> {
  return answered<T>(
    fetch(path, init).then(async (response) => {
      const body: unknown = await response.json().catch(() => undefined);
      return response.ok ? { data: body as T, response } : { error: body, response };
    }),
  );
}
