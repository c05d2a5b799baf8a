// Parallel coordinates, scatter and bars, by ECharts.
import { useComputedColorScheme } from "@mantine/core";
import { BarChart, LineChart, ParallelChart, ScatterChart } from "echarts/charts";
import { GridComponent, ParallelComponent, TooltipComponent } from "echarts/components";
import { type EChartsCoreOption, type ECharts, format, init, use as register } from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";
import { useEffect, useMemo, useRef } from "react";
import { number } from "../compute/format";
import { named, scaleOf } from "../compute/scale";

register([ParallelChart, ScatterChart, LineChart, BarChart, GridComponent, ParallelComponent, TooltipComponent, CanvasRenderer]);

type Props = {
  title: string;
  option: EChartsCoreOption;
  height?: number;
  /** Called with the index of the point or line that is clicked. */
  choose?: (index: number) => void;
  /** Called with the indices of the lines within the brushes, also when the lines change; null without a brush. */
  brush?: (indices: number[] | null) => void;
};

export function Picture({ title, option, height = 280, choose, brush }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<ECharts | null>(null);
  const dark = useComputedColorScheme("light") === "dark";
  const handlers = useRef({ choose, brush });
  handlers.current = { choose, brush };
  useEffect(() => {
    if (place.current === null) return undefined;
    const made = init(place.current, dark ? "dark" : undefined);
    chart.current = made;
    made.on("click", (event) => handlers.current.choose?.(event.dataIndex ?? 0));
    made.on("axisareaselected", () => handlers.current.brush?.(brushed(made)));
    const watch = new ResizeObserver(() => made.resize());
    watch.observe(place.current);
    return () => {
      watch.disconnect();
      made.dispose();
      chart.current = null;
    };
  }, [dark]);
  useEffect(() => {
    chart.current?.setOption(
      { backgroundColor: "transparent", animation: false, textStyle: { fontFamily: "system-ui" }, ...option },
      { replaceMerge: ["series"] },
    );
    // The brushes stay where they are, and what they cover has changed.
    if (chart.current !== null) handlers.current.brush?.(brushed(chart.current));
  }, [option, dark]);
  return (
    <figure className="card" style={{ margin: 0 }} aria-label={title}>
      <h2 style={{ fontSize: 13 }}>{title}</h2>
      <div ref={place} style={{ height }} aria-hidden />
    </figure>
  );
}

/** The indices of the lines within the brushes; null without a brush. */
function brushed(chart: ECharts): number[] | null {
  const model = (chart as unknown as { getModel: () => { getSeriesByIndex: (index: number) => Parallel } }).getModel();
  const series = model.getSeriesByIndex(0);
  return series.coordinateSystem.hasAxisBrushed() ? series.getRawIndicesByActiveState("active") : null;
}

type Parallel = {
  coordinateSystem: { hasAxisBrushed: () => boolean };
  getRawIndicesByActiveState: (state: string) => number[];
};

export type Line = { label: string; color: string; values: Record<string, unknown> };

/** Each line a job or a trial, each axis a parameter or a metric; drag along an axis to choose. */
export function ParallelCoordinates({
  title,
  axes,
  lines,
  brush,
  choose,
}: {
  title: string;
  axes: string[];
  lines: Line[];
  brush?: (indices: number[] | null) => void;
  choose?: (index: number) => void;
}) {
  const option = useMemo(() => {
    const scales = axes.map((axis) => scaleOf(lines.map((line) => line.values[axis])));
    return {
      // What a formatter returns is HTML, and a job has any name.
      tooltip: { formatter: (point: { dataIndex: number }) => format.encodeHTML(lines[point.dataIndex]?.label ?? "") },
      parallel: { left: 70, right: 70, top: 36, bottom: 16, parallelAxisDefault: { nameTextStyle: { fontSize: 11 } } },
      parallelAxis: axes.map((name, dim) => {
        const scale = scales[dim];
        if (scale?.type === "category") return { dim, name, ...scale };
        return { dim, name, ...scale, scale: true, axisLabel: { formatter: (value: number) => number(value) } };
      }),
      series: [
        {
          type: "parallel",
          lineStyle: { width: 2, opacity: 0.7 },
          emphasis: { lineStyle: { width: 4, opacity: 1 } },
          inactiveOpacity: 0.06,
          data: lines.map((line) => ({
            value: axes.map((axis, dim) => {
              const value = line.values[axis];
              if (scales[dim]?.type === "category") return named(value);
              return typeof value === "number" && Number.isFinite(value) ? value : "-";
            }),
            lineStyle: { color: line.color },
          })),
        },
      ],
    };
  }, [axes, lines]);
  // Other axes make another picture: ECharts fails on lines that have not as many values as it has axes.
  return <Picture key={axes.join()} title={title} option={option} brush={brush} choose={choose} />;
}

export type Dot = { label: string; color: string; x: number | string; y: number };

export function Scatter({
  title,
  dots,
  xLabel,
  yLabel,
  line = false,
  choose,
}: {
  title: string;
  dots: Dot[];
  xLabel: string;
  yLabel: string;
  /** Also draw the best so far: larger or smaller is better. */
  line?: "max" | "min" | false;
  choose?: (index: number) => void;
}) {
  const option = useMemo(() => {
    const xs = dots.map((dot) => dot.x);
    const scale = scaleOf(xs);
    let best: number | null = null;
    const course = dots.toSorted((a, b) => Number(a.x) - Number(b.x)).map((dot) => {
      if (best === null || (line === "max" ? dot.y > best : dot.y < best)) best = dot.y;
      return [dot.x, best];
    });
    return {
      tooltip: {
        formatter: (point: { seriesIndex: number; dataIndex: number }) => {
          const dot = dots[point.dataIndex];
          if (dot === undefined || point.seriesIndex > 0) return "";
          const x = typeof dot.x === "number" ? number(dot.x) : dot.x;
          return `${format.encodeHTML(dot.label)}<br>${format.encodeHTML(x)}, ${number(dot.y)}`;
        },
      },
      grid: { left: 60, right: 20, top: 12, bottom: 40 },
      xAxis: {
        name: xLabel,
        nameLocation: "middle",
        nameGap: 24,
        ...scale,
        scale: true,
        minInterval: xs.every(Number.isInteger) ? 1 : 0,
      },
      yAxis: { name: yLabel, nameLocation: "middle", nameGap: 44, scale: true, axisLabel: { formatter: (value: number) => number(value) } },
      series: [
        { type: "scatter", symbolSize: 9, data: dots.map((dot) => ({ value: [scale.type === "category" ? named(dot.x) : dot.x, dot.y], itemStyle: { color: dot.color } })) },
        ...(line === false ? [] : [{ type: "line", step: "end", symbol: "none", silent: true, lineStyle: { opacity: 0.5 }, data: course }]),
      ],
    };
  }, [dots, xLabel, yLabel, line]);
  return <Picture title={title} option={option} choose={choose} />;
}

export function Bars({ title, bars }: { title: string; bars: [string, number][] }) {
  const option = useMemo(() => {
    const sorted = bars.toSorted((a, b) => a[1] - b[1]);
    return {
      tooltip: {},
      grid: { left: 8, right: 24, top: 4, bottom: 20, containLabel: true },
      xAxis: { type: "value", max: 1 },
      yAxis: { type: "category", data: sorted.map(([name]) => name) },
      series: [{ type: "bar", data: sorted.map(([, value]) => value), itemStyle: { color: "#3b5bdb" } }],
    };
  }, [bars]);
  return <Picture title={title} option={option} height={Math.max(120, 32 * bars.length + 40)} />;
}
