import { Group, SegmentedControl, Slider, Switch, Text } from "@mantine/core";
import { useNavigate } from "@tanstack/react-router";
import type { Axis } from "../compute/curve";
import type { JobSearch } from "../router";

/** The axis and the smoothing of curves, in the address of their screen. */
export function CurveControls({
  from,
  axis,
  smooth,
  log,
}: {
  from: "/jobs/$id" | "/jobs/$id/trials/$trial" | "/compare";
  axis: Axis;
  smooth: number;
  log?: boolean;
}) {
  const navigate = useNavigate({ from });
  const change = (changes: Partial<JobSearch>) =>
    void navigate({ search: ((now: object) => ({ ...now, ...changes })) as never, replace: true });
  return (
    <Group gap="lg">
      <SegmentedControl
        aria-label="Horizontal axis"
        data={["step", "epoch", "time"]}
        value={axis}
        onChange={(value) => change({ axis: value as Axis })}
      />
      <Group gap="xs">
        <Text size="xs">Smoothing</Text>
        <Slider
          w={120}
          min={0}
          max={0.98}
          step={0.02}
          value={smooth}
          onChange={(value) => change({ smooth: value })}
          thumbLabel="Smoothing"
          label={(value) => value.toFixed(2)}
        />
      </Group>
      {log !== undefined && (
        <Switch label="Logarithmic" checked={log} onChange={(event) => change({ log: event.currentTarget.checked || undefined })} />
      )}
    </Group>
  );
}
