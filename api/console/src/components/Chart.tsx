// Curves on one pair of axes, drawn by uPlot.
import "uplot/dist/uPlot.min.css";
import { Text, useComputedColorScheme } from "@mantine/core";
import { useElementSize } from "@mantine/hooks";
import { useEffect, useMemo, useRef } from "react";
import uPlot from "uplot";
import { faint } from "../compute/colors";
import { joined, zoomed } from "../compute/curve";
import { number, ticks } from "../compute/format";

export type Curve = { label: string; color: string; x: number[]; y: number[]; faint?: number[] };

type Props = {
  title: string;
  /** What it shows, for who does not know. */
  note?: string;
  curves: Curve[];
  xLabel: string;
  log?: boolean;
  height?: number;
  /** Charts of one group show the same moment under the pointer. */
  group?: string;
};

/** Whether each point of a curve is marked: a line through few says too little. */
function few(values: ArrayLike<number | null | undefined> = []): boolean {
  return Array.from(values).filter((value) => value != null).length < 30;
}

export function Chart({ title, note, curves, xLabel, log = false, height = 200, group }: Props) {
  const { ref: measured, width } = useElementSize();
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const dark = useComputedColorScheme("light") === "dark";
  const data = useMemo(
    () =>
      joined(
        curves.flatMap(({ x, y, faint }) => (faint === undefined ? [{ x, y }] : [{ x, y: faint }, { x, y }])),
      ) as uPlot.AlignedData,
    [curves],
  );
  const look = curves.map((curve) => [curve.label, curve.color, curve.faint !== undefined].join()).join(";");

  useEffect(() => {
    if (place.current === null || width === 0) return undefined;
    const ink = dark ? "#a3adbb" : "#5a6472";
    const grid = { stroke: dark ? "#ffffff18" : "#00000014", width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font: "11px system-ui", labelFont: "11px system-ui" };
    const made = new uPlot(
      {
        width,
        height,
        scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
        axes: [
          { ...axis, label: xLabel, labelSize: 16, size: 28 },
          {
            ...axis,
            size: 56,
            // The marks of a logarithmic axis are of all sizes.
            values: (_, marks, __, ___, step) =>
              log ? marks.map((mark) => (mark === null ? "" : number(mark))) : ticks(marks, step),
          },
        ],
        series: [
          { label: xLabel, value: (_, value) => number(value) },
          ...curves.flatMap((curve): uPlot.Series[] => {
            const main: uPlot.Series = {
              label: curve.label,
              stroke: curve.color,
              width: 1.6,
              spanGaps: true,
              points: { show: (self, place) => few(self.data[place]), size: 4 },
              value: (_, value) => number(value),
            };
            if (curve.faint === undefined) return [main];
            return [{ ...main, label: `${curve.label} (raw)`, stroke: faint(curve.color), points: { show: false } }, main];
          }),
        ],
        cursor: group === undefined ? {} : { sync: { key: group } },
        legend: { live: true, show: curves.length <= 12 },
      },
      data,
      place.current,
    );
    plot.current = made;
    return () => {
      plot.current = null;
      made.destroy();
    };
    // Data alone does not make a new plot: see below.
  }, [look, width, height, log, dark, xLabel, group]);

  useEffect(() => {
    const made = plot.current;
    if (made === null) return;
    // What comes in does not move what is looked at.
    const stays = zoomed(made.data[0], made.scales.x ?? {});
    made.setData(data, !stays);
    if (stays) made.redraw();
  }, [data]);

  const last = curves.map((curve) => `${curve.label} ${number(curve.y.at(-1))}`).slice(0, 6).join(", ");
  const empty = curves.every((curve) => curve.x.length === 0);
  return (
    <figure className="card" style={{ margin: 0 }} aria-label={empty ? `${title}: no points yet` : `${title}, latest: ${last}`}>
      <h2 style={{ fontSize: 13 }}>{title}</h2>
      <div ref={measured} style={{ minHeight: height + 30 }}>
        <div ref={place} aria-hidden />
      </div>
      {note !== undefined && (
        <Text size="xs" c="dimmed">
          {note}
        </Text>
      )}
    </figure>
  );
}
