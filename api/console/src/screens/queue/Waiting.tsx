// The jobs that wait for room.
import { Checkbox, Stack, Table, Text, Title } from "@mantine/core";
import { Link, useNavigate } from "@tanstack/react-router";
import { memo, useState } from "react";
import type { Queue, QueueEntry } from "../../api/client";
import { type Action, useMayChange, useMaySubmit } from "../../components/actions";
import { ChangeJob } from "../../components/ChangeJob";
import { ChosenJobs } from "../../components/ChosenJobs";
import { useRowKeys } from "../../components/keys";
import { Reason } from "../../components/Reason";
import { Start } from "../../components/Start";
import { useChoice } from "../../components/useChoice";
import { number } from "../../compute/format";
import { needsText } from "../../compute/queue";

const ACTIONS: Action[] = ["pause", "cancel", "priority"];
const NAMES = ["Position", "Job", "Owner", "Priority", "Needs", "Expected start", "Reason", "Made room for"];
const POLICIES: Record<string, string> = {
  backfill: "A job starts before those ahead of it only if that delays none of them.",
  strict: "The first job that does not fit holds up all others.",
};

export function Waiting({ queue }: { queue: Queue }) {
  const { items, total, holders, policy } = queue;
  const [changed, setChanged] = useState<string | null>(null);
  const ids = items.map((entry) => entry.job_id);
  const { chosen, toggle, all, chooseAll, clear } = useChoice(ids);
  const navigate = useNavigate();
  const at = (act: (id: string) => void) => (index: number) => act(ids[index] ?? "");
  const [here] = useRowKeys(ids, at((id) => void navigate({ to: "/jobs/$id", params: { id } })), [["x", at(toggle)]]);
  const mayChange = useMayChange();
  const maySubmit = useMaySubmit();
  const names = new Map([...items, ...holders].map((job) => [job.job_id, job.name]));
  return (
    <Stack gap="xs" component="section" aria-label="Waits for room">
      <Title order={2}>Waits for room</Title>
      <Text size="xs" c="dimmed">
        {POLICIES[policy]}
        {items.length < total && ` The first ${number(items.length)} of ${number(total)} are shown.`}
      </Text>
      <ChosenJobs
        jobs={items.filter((entry) => chosen.has(entry.job_id)).map(({ job_id, name }) => ({ id: job_id, name }))}
        actions={ACTIONS}
        clear={clear}
      />
      {items.length === 0 ? (
        <Text c="dimmed">No job waits.</Text>
      ) : (
        <div className="scroll" tabIndex={0}>
          <Table className="jobs" stickyHeader>
            <Table.Thead>
              <Table.Tr>
                {maySubmit && (
                  <Table.Th w={30}>
                    <Checkbox
                      aria-label="Choose all that wait"
                      checked={all}
                      onChange={(event) => chooseAll(event.currentTarget.checked)}
                    />
                  </Table.Th>
                )}
                {NAMES.map((name) => (
                  <Table.Th key={name} style={{ whiteSpace: "nowrap" }}>
                    {name}
                  </Table.Th>
                ))}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {items.map((entry, index) => (
                <EntryRow
                  key={entry.job_id}
                  row={`row-${index}`}
                  here={index === here}
                  entry={entry}
                  displacer={entry.made_room_for === null ? undefined : names.get(entry.made_room_for)}
                  chosen={chosen.has(entry.job_id)}
                  choose={maySubmit ? toggle : null}
                  change={mayChange(entry.owner) ? setChanged : null}
                />
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
      <ChangeJob id={changed} close={() => setChanged(null)} />
    </Stack>
  );
}

/** A row, drawn again only when what it shows has changed: a queue may have a thousand. */
const EntryRow = memo(function EntryRow({
  row,
  here,
  entry,
  displacer,
  chosen,
  choose,
  change,
}: {
  row: string;
  /** Whether the keyboard is here. */
  here: boolean;
  entry: QueueEntry;
  /** The name of the job for which it made room, if that is in the queue or on the cluster. */
  displacer: string | undefined;
  chosen: boolean;
  /** Null if the reader may do nothing with it. */
  choose: ((id: string) => void) | null;
  change: ((id: string) => void) | null;
}) {
  const { job_id, name, position, owner, priority, reason, made_room_for } = entry;
  const needs = needsText(entry);
  return (
    <tr id={row} className={here ? "row-here" : undefined}>
      {choose !== null && (
        <td>
          <input type="checkbox" aria-label={`Choose ${name}`} checked={chosen} onChange={() => choose(job_id)} />
        </td>
      )}
      <td>{position ?? "–"}</td>
      <td>
        <Link to="/jobs/$id" params={{ id: job_id }} className="clip" style={{ display: "block", maxWidth: 200, fontWeight: 500 }} title={name}>
          {name}
        </Link>
      </td>
      <td>{owner ?? "–"}</td>
      <td>
        {change === null ? (
          priority
        ) : (
          <button type="button" className="edit" aria-label={`${priority}: change the priority of ${name}`} onClick={() => change(job_id)}>
            {priority} <span aria-hidden>✎</span>
          </button>
        )}
      </td>
      <td>
        <div className="clip" style={{ maxWidth: 160 }} title={needs}>
          {needs}
        </div>
      </td>
      <td>
        <Start place={entry} />
      </td>
      <td>
        <div className="clip" style={{ maxWidth: 250 }} title={reason ?? ""}>
          <Reason text={reason ?? ""} />
        </div>
      </td>
      <td>
        {made_room_for !== null && (
          <Link to="/jobs/$id" params={{ id: made_room_for }} className="clip" style={{ display: "block", maxWidth: 140 }}>
            {displacer ?? made_room_for}
          </Link>
        )}
      </td>
    </tr>
  );
});
