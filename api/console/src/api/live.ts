// What the API tells by itself, put where the screens read: nothing asks for it row by row.
import type { QueryClient } from "@tanstack/react-query";
import { useSyncExternalStore } from "react";
import type { Job, JobEvent, JobProgress } from "./client";

const SILENT_MS = 12_000;
const REFRESH_MS = 1_000;

type Page = { items: Job[]; next_cursor?: string | null };

let stale = false;
const watchers = new Set<() => void>();

function setStale(value: boolean): void {
  if (stale === value) return;
  stale = value;
  for (const watcher of watchers) watcher();
}

/** Whether what the screens show may be out of date. */
export function useStale(): boolean {
  return useSyncExternalStore(
    (watcher) => {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
    () => stale,
  );
}

/** How long a hidden tab listens on. A browser has about six connections for all of its tabs. */
const HIDDEN_MS = 30_000;

/** Listen until the returned function is called, but for while the tab is hidden. */
export function listen(client: QueryClient): () => void {
  let stop: (() => void) | null = hear(client);
  let hiding: number | undefined;
  const look = () => {
    window.clearTimeout(hiding);
    if (document.visibilityState === "visible") {
      if (stop !== null) return;
      stop = hear(client);
      void client.invalidateQueries(); // what happened meanwhile
    } else {
      hiding = window.setTimeout(() => {
        stop?.();
        stop = null;
      }, HIDDEN_MS);
    }
  };
  document.addEventListener("visibilitychange", look);
  return () => {
    document.removeEventListener("visibilitychange", look);
    window.clearTimeout(hiding);
    stop?.();
  };
}

function hear(client: QueryClient): () => void {
  const source = new EventSource("/v1/events/stream");
  const due = new Set<string>();
  let heard = Date.now();
  let opened = false;
  let refreshing: number | undefined;

  const alive = () => {
    heard = Date.now();
    setStale(false);
  };
  const refresh = (key: readonly unknown[]) => {
    due.add(JSON.stringify(key));
    refreshing ??= window.setTimeout(() => {
      refreshing = undefined;
      for (const each of due) {
        void client.invalidateQueries({ queryKey: JSON.parse(each) as unknown[] });
      }
      due.clear();
    }, REFRESH_MS);
  };

  source.addEventListener("open", () => {
    alive();
    // What happened while nobody listened is asked for; the first answers are fresh.
    if (opened) void client.invalidateQueries();
    opened = true;
  });
  source.addEventListener("alive", alive);
  source.addEventListener("job", (message) => {
    alive();
    const event = JSON.parse(message.data) as JobEvent;
    patch(client, event.job_id, { state: event.after });
    for (const key of [["jobs"], ["job", event.job_id], ["events"], ["schedules"], ["queue"]]) refresh(key);
    if (event.before !== event.after) refresh(["cluster"]);
  });
  source.addEventListener("progress", (message) => {
    alive();
    const { job_id, ...progress } = JSON.parse(message.data) as JobProgress;
    patch(client, job_id, progress);
    refreshCurves(client, job_id, refresh);
  });
  source.addEventListener("error", () => {
    // A session that has ended is not taken up again by the browser.
    if (source.readyState === EventSource.CLOSED) {
      setStale(true);
      void client.invalidateQueries({ queryKey: ["session"] });
    }
  });
  const timer = window.setInterval(() => {
    if (Date.now() - heard > SILENT_MS) setStale(true);
  }, 1_000);
  return () => {
    source.close();
    window.clearInterval(timer);
    window.clearTimeout(refreshing);
  };
}

/** Change a job wherever it is shown. */
function patch(client: QueryClient, id: string, changes: Partial<Job>): void {
  client.setQueryData<Job>(["job", id], (job) => job && { ...job, ...changes });
  client.setQueriesData<Page>({ queryKey: ["jobs", "list"] }, (page) => {
    if (page === undefined || !page.items.some((job) => job.id === id)) return page;
    const items = page.items.map((job) => (job.id === id ? { ...job, ...changes } : job));
    return { ...page, items };
  });
}

function refreshCurves(
  client: QueryClient,
  id: string,
  refresh: (key: readonly unknown[]) => void,
): void {
  for (const query of client.getQueryCache().findAll({ queryKey: ["curves"], type: "active" })) {
    const [, ids] = query.queryKey as [string, string[]];
    if (ids.includes(id)) refresh(query.queryKey);
  }
  refresh(["job", id, "trials"]);
}
