import { Select } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import * as queries from "../api/queries";

/** Finds a job by a part of its name, or by its id. */
export function FindJob({ label, but, choose }: { label: string; but: string[]; choose: (id: string) => void }) {
  const [text, setText] = useState("");
  const [settled] = useDebouncedValue(text.trim(), 250);
  const named = useQuery(queries.jobs({ text: settled || undefined, limit: 20 }));
  const byId = useQuery({ ...queries.job(settled), enabled: /^[0-9a-f]{20}$/.test(settled), retry: false });
  const found = [...(byId.data === undefined ? [] : [byId.data]), ...(named.data?.items ?? [])];
  const data = found
    .filter(({ id }, index) => !but.includes(id) && found.findIndex((other) => other.id === id) === index)
    .map(({ id, name, state }) => ({ value: id, label: `${name} · ${state} · ${id}` }));
  return (
    <Select
      aria-label={label}
      placeholder={label}
      w={320}
      searchable
      value={null}
      searchValue={text}
      onSearchChange={setText}
      data={data}
      filter={({ options }) => options}
      nothingFoundMessage="No job is found"
      onChange={(id) => {
        if (id === null) return;
        choose(id);
        setText("");
      }}
    />
  );
}
