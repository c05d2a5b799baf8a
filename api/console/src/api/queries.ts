// What the screens ask the API, each question under one key.
import { queryOptions } from "@tanstack/react-query";
import type { paths } from "./schema";
import { answered, api, rememberCsrf } from "./client";

export type JobsQuery = NonNullable<paths["/v1/jobs"]["get"]["parameters"]["query"]>;
export type CountsQuery = NonNullable<paths["/v1/jobs/counts"]["get"]["parameters"]["query"]>;

export const session = queryOptions({
  queryKey: ["session"],
  queryFn: async ({ signal }) => {
    const found = await answered(api.GET("/v1/session", { signal }));
    rememberCsrf(found);
    return found;
  },
  staleTime: Infinity,
  retry: false,
});

export const jobs = (query: JobsQuery) =>
  queryOptions({
    queryKey: ["jobs", "list", query],
    queryFn: ({ signal }) => answered(api.GET("/v1/jobs", { params: { query }, signal })),
    placeholderData: (before) => before,
  });

export const counts = (query: CountsQuery) =>
  queryOptions({
    queryKey: ["jobs", "counts", query],
    queryFn: ({ signal }) => answered(api.GET("/v1/jobs/counts", { params: { query }, signal })),
    placeholderData: (before) => before,
  });

export const job = (id: string) =>
  queryOptions({
    queryKey: ["job", id],
    queryFn: ({ signal }) =>
      answered(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: id } }, signal })),
  });

export const request = (id: string) =>
  queryOptions({
    queryKey: ["job", id, "request"],
    queryFn: ({ signal }) =>
      answered(api.GET("/v1/jobs/{job_id}/request", { params: { path: { job_id: id } }, signal })),
    staleTime: Infinity,
  });

export const jobEvents = (id: string) =>
  queryOptions({
    queryKey: ["job", id, "events"],
    queryFn: async ({ signal }) => {
      const found = [];
      let cursor: string | undefined;
      // All of them: the timeline goes from the submission to the end.
      do {
        const page = await answered(
          api.GET("/v1/jobs/{job_id}/events", {
            params: { path: { job_id: id }, query: { limit: 200, cursor } },
            signal,
          }),
        );
        found.push(...page.items);
        cursor = page.next_cursor ?? undefined;
      } while (cursor !== undefined && found.length < 5000);
      return found;
    },
  });

export const artifacts = (id: string) =>
  queryOptions({
    queryKey: ["job", id, "artifacts"],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/v1/jobs/{job_id}/artifacts", { params: { path: { job_id: id } }, signal }),
      ),
  });

export const checkpoints = (id: string, live: boolean) =>
  queryOptions({
    queryKey: ["job", id, "checkpoints"],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/v1/jobs/{job_id}/checkpoints", { params: { path: { job_id: id } }, signal }),
      ),
    // A save is not an event.
    refetchInterval: live ? 10_000 : false,
  });

export const trials = (id: string) =>
  queryOptions({
    queryKey: ["job", id, "trials"],
    queryFn: async ({ signal }) => {
      const found = [];
      let cursor: string | undefined;
      // All of them: the pictures show each trial.
      do {
        const page = await answered(
          api.GET("/v1/jobs/{job_id}/trials", {
            params: { path: { job_id: id }, query: { limit: 200, cursor } },
            signal,
          }),
        );
        found.push(...page.items);
        cursor = page.next_cursor ?? undefined;
      } while (cursor !== undefined && found.length < 2000);
      return found;
    },
  });

export const trial = (id: string, number: string) =>
  queryOptions({
    // Not under "trials", which each event of the sweep refreshes.
    queryKey: ["job", id, "trial", number],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/v1/jobs/{job_id}/trials/{number}", {
          params: { path: { job_id: id, number: Number(number) } },
          signal,
        }),
      ),
    // A measurement is not an event.
    refetchInterval: (query) => (query.state.data?.state === "running" ? 5_000 : false),
  });

export const trialCurves = (id: string, number: number, seed: number, keys: string[], points: number) =>
  queryOptions({
    queryKey: ["job", id, "trial", String(number), "curves", seed, keys, points],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/v1/jobs/{job_id}/trials/{number}/metrics", {
          params: { path: { job_id: id, number }, query: { seed, key: keys, points } },
          signal,
        }),
      ).then((found) => found.items),
    placeholderData: (before) => before,
  });

export const importance = (id: string) =>
  queryOptions({
    queryKey: ["job", id, "importance"],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/v1/jobs/{job_id}/importance", { params: { path: { job_id: id } }, signal }),
      ),
  });

export const curves = (ids: string[], keys: string[], points: number) =>
  queryOptions({
    queryKey: ["curves", ids, keys, points],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/v1/metrics", { params: { query: { job: ids, key: keys, points } }, signal }),
      ).then((found) => found.items),
    enabled: ids.length > 0 && keys.length > 0,
    placeholderData: (before) => before,
  });

export const latestEvents = (limit: number) =>
  queryOptions({
    queryKey: ["events", limit],
    queryFn: ({ signal }) =>
      answered(api.GET("/v1/events", { params: { query: { limit } }, signal })),
  });

export const schedules = queryOptions({
  queryKey: ["schedules"],
  queryFn: ({ signal }) =>
    answered(api.GET("/v1/schedules", { params: { query: { limit: 200 } }, signal })),
});

export const schedule = (id: string) =>
  queryOptions({
    queryKey: ["schedules", id],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/v1/schedules/{schedule_id}", {
          params: { path: { schedule_id: id }, query: { preview: 10 } },
          signal,
        }),
      ),
  });

export const ticks = (id: string) =>
  queryOptions({
    queryKey: ["schedules", id, "ticks"],
    queryFn: ({ signal }) =>
      answered(
        api.GET("/v1/schedules/{schedule_id}/ticks", {
          params: { path: { schedule_id: id }, query: { limit: 100 } },
          signal,
        }),
      ),
  });

export const queue = queryOptions({
  queryKey: ["queue"],
  // As many as the API lists at once.
  queryFn: ({ signal }) => answered(api.GET("/v1/queue", { params: { query: { limit: 1000 } }, signal })),
  // Places change without an event: when what runs gets on, or the dispatcher has gone.
  refetchInterval: 2_000,
});

export const cluster = queryOptions({
  queryKey: ["cluster"],
  queryFn: ({ signal }) => answered(api.GET("/v1/cluster", { signal })),
  refetchInterval: 10_000,
  retry: false,
});

export const nodes = queryOptions({
  queryKey: ["cluster", "nodes"],
  queryFn: ({ signal }) => answered(api.GET("/v1/cluster/nodes", { signal })),
  refetchInterval: 5_000,
  retry: false,
});

export const readiness = queryOptions({
  queryKey: ["readiness"],
  queryFn: async ({ signal }) => {
    const answer = await api.GET("/readyz", { signal });
    // 503 says what is wrong in the same form.
    return (answer.data ?? answer.error) as { ready: boolean; checks: Record<string, string> };
  },
  refetchInterval: 15_000,
  retry: false,
});

export const recipes = queryOptions({
  queryKey: ["recipes"],
  queryFn: ({ signal }) => answered(api.GET("/v1/recipes", { signal })),
  staleTime: Infinity,
});

export const schema = (what: "job" | "schedule") =>
  queryOptions({
    queryKey: ["schema", what],
    queryFn: ({ signal }) =>
      answered(api.GET("/v1/schemas/{what}", { params: { path: { what } }, signal })),
    staleTime: Infinity,
  });

export const keys = queryOptions({
  queryKey: ["keys"],
  queryFn: ({ signal }) => answered(api.GET("/v1/keys", { signal })),
});

export const audit = (cursor: string | undefined) =>
  queryOptions({
    queryKey: ["audit", cursor],
    queryFn: ({ signal }) =>
      answered(api.GET("/v1/audit", { params: { query: { limit: 100, cursor } }, signal })),
  });
