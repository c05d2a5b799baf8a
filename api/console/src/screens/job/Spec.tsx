// A job's spec: as written, resolved, and where it differs from another job's.
import { SegmentedControl, Stack, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { getRouteApi, useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { stringify } from "yaml";
import type { Job } from "../../api/client";
import * as queries from "../../api/queries";
import { Editor } from "../../components/Editor";
import { Failure } from "../../components/Failure";

const route = getRouteApi("/jobs/$id");

export default function Spec({ job }: { job: Job }) {
  const { against } = route.useSearch();
  const navigate = useNavigate({ from: "/jobs/$id" });
  const [shown, setShown] = useState(against === undefined ? "written" : "diff");
  const written = useQuery(queries.request(job.id));
  const other = useQuery({ ...queries.job(against ?? ""), enabled: against !== undefined && against.length >= 20 });
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
          <TextInput
            label="Id of the other job"
            w={260}
            value={against ?? ""}
            onChange={(event) => {
              const value = event.currentTarget.value.trim();
              void navigate({ search: (now) => ({ ...now, against: value || undefined }), replace: true });
            }}
          />
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
