import { useCallback, useState } from "react";

/** Which of the rows of a table are chosen, by their ids. */
export function useChoice(ids: string[]) {
  const [picked, setPicked] = useState<ReadonlySet<string>>(new Set());
  const toggle = useCallback(
    (id: string) =>
      setPicked((now) => {
        const next = new Set(now);
        if (!next.delete(id)) next.add(id);
        return next;
      }),
    [],
  );
  // A row that has left the table is not meant any more.
  const chosen = new Set(ids.filter((id) => picked.has(id)));
  return {
    chosen,
    toggle,
    all: ids.length > 0 && chosen.size === ids.length,
    chooseAll: (every: boolean) => setPicked(new Set(every ? ids : [])),
    clear: () => setPicked(new Set()),
  };
}
