import { useSyncExternalStore } from "react";
import { duration, relative } from "../compute/format";

// One clock for all: a table of times changes at once, and asks for one frame.
let now = Date.now();
const watchers = new Set<() => void>();
let timer: number | undefined;

function watch(watcher: () => void): () => void {
  watchers.add(watcher);
  timer ??= window.setInterval(() => {
    now = Date.now();
    for (const each of watchers) each();
  }, 1_000);
  return () => {
    watchers.delete(watcher);
    if (watchers.size === 0) {
      window.clearInterval(timer);
      timer = undefined;
    }
  };
}

export function useNow(): number {
  return useSyncExternalStore(watch, () => now);
}

const ABSOLUTE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

export function absolute(moment: string): string {
  return ABSOLUTE.format(new Date(moment));
}

/** A moment as time from now; the browser's own time on hover. */
export function Time({ at }: { at: string | null | undefined }) {
  const current = useNow();
  if (at === null || at === undefined) return <>–</>;
  return (
    <time dateTime={at} title={absolute(at)} style={{ whiteSpace: "nowrap" }}>
      {relative(at, Math.max(current, Date.now() - 1000))}
    </time>
  );
}

/** The time between two moments; until now if there is no second. */
export function Duration({ from, to }: { from: string | null; to: string | null }) {
  const current = useNow();
  if (from === null) return <>–</>;
  const end = to === null ? current : Date.parse(to);
  return <span style={{ whiteSpace: "nowrap" }}>{duration((end - Date.parse(from)) / 1000)}</span>;
}
