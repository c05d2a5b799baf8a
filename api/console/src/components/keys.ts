// Keys of the keyboard: single letters, which a reader may turn off (WCAG 2.1.4).
import { type HotkeyItem, useHotkeys, useLocalStorage } from "@mantine/hooks";
import { useCallback, useEffect, useRef, useState } from "react";

/** Whether single letters do something, and how to change that. */
export function useSingleKeys() {
  return useLocalStorage({ key: "vicreg-keys", defaultValue: true, getInitialValueInEffect: false });
}

/** What letters do while no dialog is open. */
export function useKeys(keys: [key: string, act: () => void][]): void {
  const [on] = useSingleKeys();
  const items = keys.map(([key, act]): HotkeyItem => [
    key,
    (event) => {
      if (document.querySelector("[role=dialog]") !== null) return;
      if (key === "Enter" && onControl(event.target)) return;
      event.preventDefault();
      act();
    },
    { preventDefault: false },
  ]);
  useHotkeys(on ? items : []);
}

/** Whether Enter already does something there. */
function onControl(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest("a, button, [role=button], [role=option], summary") !== null;
}

/**
 * The row of a table at which the keyboard is: `j` and `k` move it, `Enter` opens it.
 *
 * @param ids - of the rows. The row is kept while it is listed, wherever; then it is the first.
 * @param open - what `Enter` does.
 * @param more - other keys, given the row's index.
 * @returns its index, and how to point at another. Rows have the ids `row-0`, `row-1`, ….
 */
export function useRowKeys(
  ids: string[],
  open: (index: number) => void,
  more: [key: string, act: (index: number) => void][] = [],
): [number, (index: number) => void] {
  const [pointed, setPointed] = useState<string | undefined>(undefined);
  const here = Math.max(0, ids.indexOf(pointed ?? ""));
  const listed = useRef(ids);
  listed.current = ids;
  const point = useCallback((index: number) => setPointed(listed.current[index]), []);
  const at = (act: (index: number) => void) => () => {
    if (here < ids.length) act(here);
  };
  useKeys([
    ["j", () => point(Math.min(ids.length - 1, here + 1))],
    ["k", () => point(Math.max(0, here - 1))],
    ["Enter", at(open)],
    ...more.map(([key, act]): [string, () => void] => [key, at(act)]),
  ]);
  useEffect(() => {
    document.getElementById(`row-${here}`)?.scrollIntoView({ block: "nearest" });
  }, [here]);
  return [here, point];
}
