// A job from its submission to its end, on one axis of time; in words below it.
import { Table, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import type { Job } from "../../api/client";
import * as queries from "../../api/queries";
import { Columns } from "../../components/Columns";
import { Failure } from "../../components/Failure";
import { Reason } from "../../components/Reason";
import { Time, useNow } from "../../components/Time";
import { course, type Span, ticks } from "../../compute/course";
import { duration } from "../../compute/format";

/** In pixels, of a job in its first attempt. */
const HEIGHT = 170;

export function Course({ job }: { job: Job }) {
  const { data: events, error } = useQuery(queries.jobEvents(job.id));
  const now = useNow();
  if (error) return <Failure error={error} />;
  // Its place is kept: what is below must not move when it is there.
  if (events === undefined) return <section className="card" style={{ minHeight: HEIGHT }} />;
  const spans = course(job, events, now);
  if (spans.length === 0) return null;
  const from = Math.min(...spans.map((span) => span.from));
  const whole = Math.max(1, ...spans.map((span) => span.until - from));
  const share = (milliseconds: number) => `${(100 * milliseconds) / whole}%`;
  return (
    <section className="card" style={{ minHeight: HEIGHT }}>
      <Title order={2}>Timeline</Title>
      <div className="course" aria-hidden>
        {spans.map((span, index) => (
          <div
            key={index}
            className={`span-${span.kind}`}
            style={{ left: share(span.from - from), width: share(span.until - span.from) }}
            title={[span.name, lasted(span), span.end].filter(Boolean).join(", ")}
          >
            {span.kind === "attempt" || span.kind === "failed" ? span.name : null}
          </div>
        ))}
      </div>
      <div className="course ticks" aria-hidden>
        {ticks(whole / 1000)
          // One at the right edge would be cut.
          .filter((seconds) => seconds === 0 || 1000 * seconds < 0.94 * whole)
          .map((seconds) => (
            <div key={seconds} style={{ left: share(1000 * seconds) }}>
              {duration(seconds)}
            </div>
          ))}
      </div>
      <div className="scroll" tabIndex={0} style={{ maxHeight: 260 }}>
        <Table withRowBorders={false} verticalSpacing={2}>
          <Columns names={["What", "Began", "For", "How it ended"]} />
          <Table.Tbody>
            {spans.map((span, index) => (
              <Table.Tr key={index}>
                <Table.Td className="wrap" miw={190}>
                  <span className={`swatch span-${span.kind}`} aria-hidden />
                  {span.name}
                </Table.Td>
                <Table.Td>
                  <Time at={new Date(span.from).toISOString()} />
                </Table.Td>
                <Table.Td style={{ whiteSpace: "nowrap" }}>{lasted(span)}</Table.Td>
                <Table.Td className="wrap" miw={190}>{span.open ? "until now" : <Reason text={span.end ?? ""} />}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </div>
    </section>
  );
}

function lasted({ kind, from, until }: Span): string {
  return kind === "moment" ? "" : duration((until - from) / 1000);
}
