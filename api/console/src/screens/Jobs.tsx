// All jobs: filtered, sorted and paged by the API, everything in the address.
import {
  Autocomplete,
  Button,
  Checkbox,
  Group,
  Menu,
  MultiSelect,
  Select,
  Stack,
  Table,
  TagsInput,
  Text,
  TextInput,
  Title,
} from "@mantine/core";
import { useDebouncedCallback, useLocalStorage } from "@mantine/hooks";
import { useQueries, useQuery } from "@tanstack/react-query";
import { getRouteApi, Link, useNavigate } from "@tanstack/react-router";
import { type CellContext, type Column, type ColumnDef, flexRender, getCoreRowModel, useReactTable, type VisibilityState } from "@tanstack/react-table";
import { memo, useCallback, useEffect, useMemo, useState } from "react";
import type { Job, JobState } from "../api/client";
import * as queries from "../api/queries";
import type { Action } from "../components/actions";
import { ChosenJobs } from "../components/ChosenJobs";
import { Failure } from "../components/Failure";
import { JobProgressBar } from "../components/JobProgressBar";
import { useRowKeys } from "../components/keys";
import { RanFor } from "../components/RanFor";
import { StateBadge, STATES } from "../components/StateBadge";
import { Time } from "../components/Time";
import { metric, number, plural } from "../compute/format";
import { filters, nested, page } from "../compute/jobs";
import { SCORES } from "../compute/scores";
import type { JobsSearch } from "../router";

const ACTIONS: Action[] = ["pause", "resume", "cancel", "retry", "label"];
const route = getRouteApi("/jobs");
type Row = Job & { depth: number };

function score(job: Job): string {
  const name = [...SCORES, "train/loss"].find((each) => each in job.summary);
  return name === undefined ? "–" : `${name} ${metric(name, job.summary[name])}`;
}

const COLUMNS: ColumnDef<Row>[] = [
  { id: "state", header: "State", cell: ({ row }) => <StateBadge state={row.original.state} /> },
  {
    id: "name",
    header: "Name",
    meta: "name",
    cell: ({ row }) => (
      <Link
        to="/jobs/$id"
        params={{ id: row.original.id }}
        className="clip"
        style={{ display: "block", maxWidth: 240, paddingLeft: 16 * row.original.depth, fontWeight: 500 }}
        title={row.original.name}
      >
        {row.original.name}
      </Link>
    ),
  },
  { id: "kind", header: "Kind", cell: ({ row }) => row.original.kind },
  {
    id: "experiment",
    header: "Experiment",
    cell: ({ row }) => (
      <div className="clip" style={{ maxWidth: 130 }} title={row.original.experiment}>
        {row.original.experiment}
      </div>
    ),
  },
  { id: "progress", header: "Progress", cell: ({ row }) => <JobProgressBar job={row.original} /> },
  { id: "score", header: "Score", cell: ({ row }) => <span style={{ whiteSpace: "nowrap" }}>{score(row.original)}</span> },
  { id: "created", header: "Submitted", meta: "created", cell: ({ row }) => <Time at={row.original.created_at} /> },
  {
    id: "duration",
    header: "Ran for",
    cell: ({ row }) => <RanFor job={row.original} />,
  },
  { id: "finished", header: "Finished", meta: "finished", cell: ({ row }) => <Time at={row.original.finished_at} /> },
  { id: "owner", header: "Owner", cell: ({ row }) => row.original.owner ?? "–" },
  { id: "priority", header: "Priority", meta: "priority", cell: ({ row }) => number(row.original.priority) },
  {
    id: "labels",
    header: "Labels",
    cell: ({ row }) => (
      <div className="clip" style={{ maxWidth: 200 }}>
        {Object.entries(row.original.labels)
          .map(([key, value]) => `${key}=${value}`)
          .join(", ")}
      </div>
    ),
  },
  {
    id: "reason",
    header: "Reason",
    cell: ({ row }) => (
      <div className="clip" style={{ maxWidth: 170 }} title={row.original.reason ?? ""}>
        {row.original.reason}
      </div>
    ),
  },
  { id: "id", header: "Id", cell: ({ row }) => <code>{row.original.id}</code> },
];
const NONE: Record<string, boolean> = {};
const HIDDEN: VisibilityState = { finished: false, owner: false, priority: false, labels: false, id: false };

export function Jobs() {
  const search = route.useSearch();
  const navigate = useNavigate({ from: "/jobs" });
  const list = useQuery(queries.jobs(page(search)));
  const totals = useQuery(queries.counts(filters(search)));
  const [open, setOpen] = useState<Record<string, boolean>>({});
  const [chosen, setChosen] = useState<Record<string, Job>>({});
  const [columnVisibility, setColumnVisibility] = useLocalStorage<VisibilityState>({
    key: "vicreg-columns",
    defaultValue: HIDDEN,
    getInitialValueInEffect: false,
  });

  const roots = useMemo(() => {
    const items = list.data?.items ?? [];
    return search.before === undefined ? items : items.toReversed();
  }, [list.data, search.before]);
  const rows = useChildren(roots, nested(search) ? open : NONE);
  const table = useReactTable({
    data: rows,
    columns: COLUMNS,
    state: { columnVisibility },
    onColumnVisibilityChange: (change) =>
      setColumnVisibility(typeof change === "function" ? change(columnVisibility) : change),
    getCoreRowModel: getCoreRowModel(),
    getRowId: (row) => row.id,
    autoResetAll: false,
  });

  const change = (changes: Partial<JobsSearch>) =>
    void navigate({ search: (now) => ({ ...now, after: undefined, before: undefined, ...changes }), replace: true });
  const toggle = useCallback(
    (job: Job) =>
      setChosen((now) => {
        const { [job.id]: was, ...others } = now;
        return was === undefined ? { ...now, [job.id]: job } : others;
      }),
    [],
  );
  const expand = useCallback((job: Job) => setOpen((now) => ({ ...now, [job.id]: now[job.id] !== true })), []);
  const columns = useMemo(
    () => table.getVisibleLeafColumns(),
    [columnVisibility],
  );
  const canOpen = (job: Row) => nested(search) && job.kind !== "evaluate" && job.depth < 2;

  const ids = useMemo(() => rows.map((job) => job.id), [rows]);
  const at = (act: (job: Row) => void) => (index: number) => {
    const job = rows[index];
    if (job !== undefined) act(job);
  };
  const [here, setHere] = useRowKeys(
    ids,
    at((job) => void navigate({ to: "/jobs/$id", params: { id: job.id } })),
    [["x", at(toggle)]],
  );

  const picked = Object.values(chosen);
  const more = list.data?.next_cursor != null;
  const first = search.after === undefined && search.before === undefined;
  const newer = first ? false : search.before === undefined || more;
  const older = search.before === undefined ? more : true;
  return (
    <Stack gap="xs">
      <Group justify="space-between" align="center">
        <Title order={1}>Jobs</Title>
        <Text size="sm" c="dimmed" role="status">
          {totals.data === undefined ? " " : plural(totals.data.total, "job")}
        </Text>
      </Group>
      <Filters search={search} change={change}>
        <Menu closeOnItemClick={false} position="bottom-end">
          <Menu.Target>
            <Button variant="default">Columns</Button>
          </Menu.Target>
          <Menu.Dropdown>
            {table.getAllLeafColumns().map((column) => (
              <Menu.Item key={column.id} component="div" p={4}>
                <Checkbox
                  label={String(column.columnDef.header)}
                  checked={column.getIsVisible()}
                  onChange={column.getToggleVisibilityHandler()}
                />
              </Menu.Item>
            ))}
          </Menu.Dropdown>
        </Menu>
      </Filters>
      <ChosenJobs jobs={picked} actions={ACTIONS} clear={() => setChosen({})}>
        <Button
          variant="default"
          disabled={picked.length < 2 || picked.length > 50}
          onClick={() => void navigate({ to: "/compare", search: { job: picked.map((job) => job.id) } })}
        >
          Compare
        </Button>
      </ChosenJobs>
      {list.error && <Failure error={list.error} retry={() => void list.refetch()} />}
      <div className="scroll" tabIndex={0} style={{ minHeight: 300 }}>
        <Table className="jobs" stickyHeader>
          <Table.Thead>
            <Table.Tr>
              <Table.Th w={30}>
                <Checkbox
                  aria-label="Choose all on this page"
                  disabled={rows.length === 0}
                  checked={rows.length > 0 && rows.every((job) => job.id in chosen)}
                  onChange={(event) => {
                    const here = Object.fromEntries(rows.map((job) => [job.id, job]));
                    const checked = event.currentTarget.checked;
                    setChosen((now) => {
                      if (checked) return { ...now, ...here };
                      return Object.fromEntries(Object.entries(now).filter(([id]) => !(id in here)));
                    });
                  }}
                />
              </Table.Th>
              <Table.Th w={26} />
              {table.getFlatHeaders().map((header) => {
                const sort = header.column.columnDef.meta as JobsSearch["sort"];
                const sorted = sort !== undefined && (search.sort ?? "created") === sort;
                const order = search.order ?? "desc";
                return (
                  <Table.Th
                    key={header.id}
                    aria-sort={sorted ? (order === "asc" ? "ascending" : "descending") : undefined}
                    style={{ whiteSpace: "nowrap" }}
                  >
                    {sort === undefined ? (
                      String(header.column.columnDef.header)
                    ) : (
                      <button
                        type="button"
                        className="sort"
                        onClick={() => change({ sort, order: sorted && order === "desc" ? "asc" : "desc" })}
                      >
                        {String(header.column.columnDef.header)} {sorted ? (order === "asc" ? "↑" : "↓") : "↕"}
                      </button>
                    )}
                  </Table.Th>
                );
              })}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {rows.map((job, index) => (
              <JobRow
                key={job.id}
                job={job}
                index={index}
                columns={columns}
                here={index === here}
                chosen={job.id in chosen}
                open={canOpen(job) ? open[job.id] === true : null}
                choose={toggle}
                expand={expand}
                point={setHere}
              />
            ))}
          </Table.Tbody>
        </Table>
        {list.isSuccess && rows.length === 0 && (
          <Text c="dimmed" p="md">
            No job is like that.
          </Text>
        )}
      </div>
      <Group justify="center">
        <Button
          variant="default"
          disabled={!newer}
          onClick={() => void navigate({ search: (now) => ({ ...now, after: undefined, before: roots[0]?.id }) })}
        >
          ← Previous page
        </Button>
        <Button variant="default" disabled={first} onClick={() => change({})}>
          First page
        </Button>
        <Button
          variant="default"
          disabled={!older}
          onClick={() => void navigate({ search: (now) => ({ ...now, before: undefined, after: roots.at(-1)?.id }) })}
        >
          Next page →
        </Button>
      </Group>
    </Stack>
  );
}

/** A row, drawn again only when what it shows has changed: a page has fifty. */
const JobRow = memo(function JobRow({
  job,
  index,
  columns,
  here,
  chosen,
  open,
  choose,
  expand,
  point,
}: {
  job: Row;
  index: number;
  columns: Column<Row>[];
  here: boolean;
  chosen: boolean;
  /** Whether what follows from it is shown; null if nothing can. */
  open: boolean | null;
  choose: (job: Job) => void;
  expand: (job: Job) => void;
  point: (index: number) => void;
}) {
  const context = { row: { original: job } } as CellContext<Row, unknown>;
  return (
    <tr id={`row-${index}`} className={here ? "row-here" : undefined} onClick={() => point(index)}>
      <td>
        <input type="checkbox" aria-label={`Choose ${job.name}`} checked={chosen} onChange={() => choose(job)} />
      </td>
      <td className="tight">
        {open !== null && (
          <button type="button" className="open" aria-label={`What follows from ${job.name}`} aria-expanded={open} onClick={() => expand(job)}>
            {open ? "▾" : "▸"}
          </button>
        )}
      </td>
      {columns.map(({ id, columnDef }) => (
        <td key={id}>{flexRender(columnDef.cell, context)}</td>
      ))}
    </tr>
  );
});

/** The jobs of a page, each followed by those that follow from it if it is open. */
function useChildren(roots: Job[], open: Record<string, boolean>): Row[] {
  const opened = Object.keys(open).filter((id) => open[id] === true);
  const found = useQueries({
    queries: opened.map((id) => queries.jobs({ parent: id, order: "asc", limit: 200 })),
    combine: (answers) => answers.map((answer) => answer.data?.items ?? []),
  });
  // The table takes other rows for other data: they must stay the same while nothing changes.
  return useMemo(() => {
    const under = new Map(opened.map((id, index) => [id, found[index] ?? []]));
    const listed = (jobs: Job[], depth: number): Row[] =>
      jobs.flatMap((job) => [{ ...job, depth }, ...listed(under.get(job.id) ?? [], depth + 1)]);
    return listed(roots, 0);
  }, [roots, found, opened.join()]);
}

function Filters({
  search,
  change,
  children,
}: {
  search: JobsSearch;
  change: (changes: Partial<JobsSearch>) => void;
  children: React.ReactNode;
}) {
  const experiments = useQuery(queries.counts({ by: "experiment" }));
  const owners = useQuery(queries.counts({ by: "owner" }));
  const values = (found: typeof experiments.data) =>
    (found?.items ?? []).flatMap((item) => (item.value == null ? [] : [item.value]));
  const [text, setText] = useState(search.text ?? "");
  const look = useDebouncedCallback((value: string) => change({ text: value || undefined }), 250);
  useEffect(() => setText(search.text ?? ""), [search.text]);
  return (
    <Group gap="xs" align="end">
      <TextInput
        id="search-jobs"
        type="search"
        aria-label="Search by name, experiment or id"
        placeholder="Search  /"
        value={text}
        w={190}
        onChange={(event) => {
          setText(event.currentTarget.value);
          look(event.currentTarget.value);
        }}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          event.preventDefault(); // which would empty it
          event.currentTarget.blur();
        }}
      />
      <MultiSelect
        aria-label="State"
        placeholder={search.state === undefined ? "Any state" : undefined}
        size="xs"
        miw={130}
        data={STATES}
        value={search.state ?? []}
        onChange={(state) => change({ state: state.length > 0 ? (state as JobState[]) : undefined })}
        clearable
      />
      <Select
        aria-label="Kind"
        placeholder="Any kind"
        w={110}
        data={["pretrain", "evaluate", "sweep"]}
        value={search.kind ?? null}
        onChange={(kind) => change({ kind: kind ?? undefined })}
        clearable
      />
      <Exact
        label="Experiment"
        placeholder="Any experiment"
        width={150}
        data={values(experiments.data)}
        value={search.experiment}
        change={(experiment) => change({ experiment })}
      />
      <Exact
        label="Owner"
        placeholder="Any owner"
        width={110}
        data={values(owners.data)}
        value={search.owner}
        change={(owner) => change({ owner })}
      />
      <TagsInput
        aria-label="Labels"
        placeholder={search.label === undefined ? "key=value" : undefined}
        size="xs"
        miw={110}
        maxTags={10}
        value={search.label ?? []}
        onChange={(label) => {
          const pairs = label.filter((pair) => pair.includes("="));
          change({ label: pairs.length > 0 ? pairs : undefined });
        }}
      />
      <Day label="From" value={search.created_from} change={(created_from) => change({ created_from })} />
      <Day label="Before" value={search.created_before} change={(created_before) => change({ created_before })} />
      {children}
    </Group>
  );
}

/** A whole name: it is looked for when it is chosen, or has been written. */
function Exact({
  label,
  placeholder,
  width,
  data,
  value,
  change,
}: {
  label: string;
  placeholder: string;
  width: number;
  data: string[];
  value: string | undefined;
  change: (value: string | undefined) => void;
}) {
  const [text, setText] = useState(value ?? "");
  useEffect(() => setText(value ?? ""), [value]);
  const take = (next: string) => {
    if ((next || undefined) !== value) change(next || undefined);
  };
  return (
    <Autocomplete
      aria-label={label}
      placeholder={placeholder}
      size="xs"
      w={width}
      data={data}
      value={text}
      onChange={(next) => {
        setText(next);
        if (next === "") take(next);
      }}
      onOptionSubmit={take}
      onBlur={() => take(text)}
      onKeyDown={(event) => {
        if (event.key === "Enter") take(text);
      }}
    />
  );
}

/** A day of the browser's zone; the address has its first moment. */
function Day({
  label,
  value,
  change,
}: {
  label: string;
  value: string | undefined;
  change: (value: string | undefined) => void;
}) {
  const local = value === undefined ? "" : new Date(value).toLocaleDateString("sv");
  return (
    <TextInput
      type="date"
      aria-label={`${label}: submitted`}
      w={125}
      value={local}
      onChange={(event) => {
        const day = event.currentTarget.value;
        change(day === "" ? undefined : new Date(`${day}T00:00`).toISOString());
      }}
    />
  );
}
