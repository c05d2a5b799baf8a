// The jobs that are paused: they wait for their owner alone.
import { Checkbox, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import * as queries from "../../api/queries";
import { type Action, useMaySubmit } from "../../components/actions";
import { ChosenJobs } from "../../components/ChosenJobs";
import { Failure } from "../../components/Failure";
import { JobProgressBar } from "../../components/JobProgressBar";
import { useChoice } from "../../components/useChoice";
import { number } from "../../compute/format";

const ACTIONS: Action[] = ["resume", "cancel", "priority"];

export function Paused() {
  const { data, error } = useQuery(queries.jobs({ state: ["paused"], limit: 200 }));
  const items = data?.items ?? [];
  const { chosen, toggle, all, chooseAll, clear } = useChoice(items.map((job) => job.id));
  const maySubmit = useMaySubmit();
  return (
    <Stack gap="xs" component="section" aria-label="Paused">
      <Title order={2}>Paused</Title>
      {error && <Failure error={error} />}
      <ChosenJobs
        label="Chosen paused jobs"
        jobs={items.filter((job) => chosen.has(job.id))}
        actions={ACTIONS}
        clear={clear}
      />
      {data !== undefined && items.length === 0 && <Text c="dimmed">No job is paused.</Text>}
      {items.length > 0 && (
        <div className="scroll" tabIndex={0}>
          <Table className="jobs">
            <Table.Thead>
              <Table.Tr>
                {maySubmit && (
                  <Table.Th w={30}>
                    <Checkbox
                      aria-label="Choose all that are paused"
                      checked={all}
                      onChange={(event) => chooseAll(event.currentTarget.checked)}
                    />
                  </Table.Th>
                )}
                {["Job", "Kind", "Owner", "Priority", "Progress", "Reason"].map((name) => (
                  <Table.Th key={name}>{name}</Table.Th>
                ))}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {items.map((job) => (
                <tr key={job.id}>
                  {maySubmit && (
                    <td>
                      <input
                        type="checkbox"
                        aria-label={`Choose ${job.name}`}
                        checked={chosen.has(job.id)}
                        onChange={() => toggle(job.id)}
                      />
                    </td>
                  )}
                  <td>
                    <Link to="/jobs/$id" params={{ id: job.id }} className="clip" style={{ display: "block", maxWidth: 240, fontWeight: 500 }}>
                      {job.name}
                    </Link>
                  </td>
                  <td>{job.kind}</td>
                  <td>{job.owner ?? "–"}</td>
                  <td>{number(job.priority)}</td>
                  <td>
                    <JobProgressBar job={job} />
                  </td>
                  <td>
                    <div className="clip" style={{ maxWidth: 300 }} title={job.reason ?? ""}>
                      {job.reason}
                    </div>
                  </td>
                </tr>
              ))}
            </Table.Tbody>
          </Table>
        </div>
      )}
      {data?.next_cursor != null && (
        <Text size="sm" c="dimmed">
          The newest {number(items.length)} are shown; <Link to="/jobs" search={{ state: ["paused"] }} className="in-text">Jobs</Link> has all.
        </Text>
      )}
    </Stack>
  );
}
