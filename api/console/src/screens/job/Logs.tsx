// What a job prints, as it prints it.
import type { EditorView } from "@codemirror/view";
import { SearchQuery, setSearchQuery, openSearchPanel } from "@codemirror/search";
import { Button, Group, Select, Stack, Text } from "@mantine/core";
import { getRouteApi, useNavigate } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";
import { ApiError, type Job, type Problem } from "../../api/client";
import { Editor } from "../../components/Editor";
import { Failure } from "../../components/Failure";
import { ended } from "../../components/StateBadge";
import { bytes } from "../../compute/format";
import { firstError, plainPieces } from "../../compute/log";

const route = getRouteApi("/jobs/$id");
/** More than this a browser shows slowly: what came first is left out, and can be downloaded. */
const MOST = 16 * 1024 * 1024;
const SHOW_MS = 250;
const AGAIN_MS = 2_000;

export default function Logs({ job }: { job: Job }) {
  const { attempt } = route.useSearch();
  const navigate = useNavigate({ from: "/jobs/$id" });
  const view = useRef<EditorView | null>(null);
  // What was live when it was opened is followed to the job's end; an attempt that has ended prints
  // nothing more.
  const [wasLive] = useState(!ended(job.state));
  const last = job.attempts.at(-1)?.number;
  const live = wasLive && (attempt === undefined || attempt === last);
  const asked = new URLSearchParams();
  if (live) asked.set("follow", "true");
  if (attempt !== undefined) asked.set("attempt", String(attempt));
  const address = `/v1/jobs/${job.id}/logs`;
  const { text, error, left, reading } = useStream(`${address}?${asked}`, live);
  const error_at = firstError(text);
  return (
    <Stack gap="xs">
      <Group gap="xs">
        <Select
          aria-label="Attempt"
          w={150}
          data={job.attempts.map((each) => ({ value: String(each.number), label: `Attempt ${each.number}` }))}
          placeholder={ended(job.state) ? "Last attempt" : "Live"}
          value={attempt === undefined ? null : String(attempt)}
          onChange={(value) =>
            void navigate({ search: (now) => ({ ...now, attempt: value === null ? undefined : Number(value) }), replace: true })
          }
          clearable
        />
        <Button
          variant="default"
          onClick={() => {
            if (view.current === null) return;
            openSearchPanel(view.current);
            const query = new SearchQuery({ search: "", regexp: true });
            view.current.dispatch({ effects: setSearchQuery.of(query) });
          }}
        >
          Search by regular expression
        </Button>
        <Button
          variant="default"
          disabled={error_at === null}
          onClick={() => {
            if (view.current === null || error_at === null) return;
            const line = view.current.state.doc.lineAt(error_at);
            view.current.dispatch({ selection: { anchor: line.from, head: line.to }, scrollIntoView: true });
            view.current.focus();
          }}
        >
          First error
        </Button>
        <Button component="a" href={attempt === undefined ? address : `${address}?attempt=${attempt}`} download={`${job.id}.log`} variant="default">
          Download
        </Button>
        <Text size="xs" c="dimmed" role="status">
          {bytes(text.length + left)}
          {left > 0 && `, the first ${bytes(left)} are left out`}
          {reading && (live ? ", live" : ", reading")}
        </Text>
      </Group>
      {error !== null && <Failure error={error} />}
      <Editor label="Log" text={text} language="log" height="65vh" view={view} atEnd={live} />
      {!reading && text === "" && error === null && <Text c="dimmed">Nothing has been printed.</Text>}
    </Stack>
  );
}

type Stream = { text: string; error: Error | null; left: number; reading: boolean };
const NOTHING: Stream = { text: "", error: null, left: 0, reading: true };

/** What an address streams; a live one that breaks off is read again, from its beginning. */
function useStream(url: string, live: boolean): Stream {
  const [stream, setStream] = useState(NOTHING);
  const [tries, setTries] = useState(0);
  useEffect(() => setStream(NOTHING), [url]);
  useEffect(() => {
    const stop = new AbortController();
    let text = "";
    let left = 0;
    let shown = 0;
    let again: number | undefined;
    let finished = false;
    const readable = plainPieces();
    const show = (reading: boolean, error: Error | null = null) => setStream({ text, error, left, reading });
    const read = async () => {
      const answer = await fetch(url, { signal: stop.signal });
      if (!answer.ok || answer.body === null) {
        throw new ApiError(answer.status, (await answer.json().catch(() => null)) as Problem | null);
      }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += readable(value);
        if (text.length > 1.25 * MOST) {
          const cut = text.indexOf("\n", text.length - MOST) + 1 || text.length - MOST;
          left += cut;
          text = text.slice(cut);
        }
        if (Date.now() - shown > SHOW_MS) {
          shown = Date.now();
          show(true);
        } else {
          window.setTimeout(() => {
            if (!finished && !stop.signal.aborted && Date.now() - shown > SHOW_MS) show(true);
          }, SHOW_MS + 20);
        }
      }
      finished = true;
      text += readable(null);
      show(false);
    };
    read().catch((error: unknown) => {
      finished = true;
      if (stop.signal.aborted) return;
      if (live && !(error instanceof ApiError)) again = window.setTimeout(() => setTries((now) => now + 1), AGAIN_MS);
      else show(false, error instanceof Error ? error : new Error(String(error)));
    });
    return () => {
      window.clearTimeout(again);
      stop.abort();
    };
  }, [url, live, tries]);
  return stream;
}
