// A job's spec: as written, resolved, and where it differs from another job's.
import { Group, SegmentedControl, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { getRouteApi, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { stringify } from "yaml";
import type { Job } from "../../api/client";
import * as queries from "../../api/queries";
import { Editor } from "../../components/Editor";
import { Failure } from "../../components/Failure";
import { FindJob } from "../../components/FindJob";
import { JobRef } from "../../components/JobRef";

const route = getRouteApi("/jobs/$id");

export default function Spec({ job }: { job: Job }) {
  const { against } = route.useSearch();
  const navigate = useNavigate({ from: "/jobs/$id" });
  const [shown, setShown] = useState(against === undefined ? "written" : "diff");
  const written = useQuery(queries.request(job.id));
  const other = useQuery({ ...queries.job(against ?? ""), enabled: against !== undefined });
  const resolved = stringify(job.spec);
  return (
    <Stack gap="xs">
      <SegmentedControl
        w="fit-content"
        aria-label="Which spec"
        value={shown}
        onChange={setShown}
        data={[
          { value: "written", label: "As written" },
          { value: "resolved", label: "Resolved" },
          { value: "diff", label: "Against another job" },
        ]}
      />
      {shown === "written" && written.error && <Failure error={written.error} />}
      {shown === "written" && written.data !== undefined && (
        <Editor label="The spec as written" text={stringify(written.data)} language="yaml" height="65vh" />
      )}
      {shown === "resolved" && <Editor label="The resolved spec" text={resolved} language="yaml" height="65vh" />}
      {shown === "diff" && (
        <>
          <Group gap="sm">
            <FindJob
              label="The other job, by its name or id"
              but={[job.id]}
              choose={(id) => void navigate({ search: (now) => ({ ...now, against: id }), replace: true })}
            />
            {other.data !== undefined && (
              <Text size="sm">
                Changes from <JobRef id={other.data.id} /> to this job
              </Text>
            )}
          </Group>
          {other.error && <Failure error={other.error} />}
          {other.data !== undefined && (
            <Editor
              key={other.data.id}
              label={`The spec, compared with that of ${other.data.name}`}
              text={resolved}
              original={stringify(other.data.spec)}
              language="yaml"
              height="65vh"
            />
          )}
        </>
      )}
    </Stack>
  );
}
