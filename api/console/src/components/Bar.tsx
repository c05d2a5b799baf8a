import { Group, Progress, Text } from "@mantine/core";
import { number } from "../compute/format";

/** How much of something is used, and how much more is waited for. */
export function Bar({ name, used, total, waitedFor = 0 }: { name: string; used: number; total: number; waitedFor?: number }) {
  return (
    <div>
      <Group justify="space-between">
        <Text size="xs">{name}</Text>
        <Text size="xs" c="dimmed">
          {total === 0 ? "none" : `${number(used)} used, ${number(Math.max(0, total - used))} free`}
          {waitedFor > 0 && `, ${number(waitedFor)} waited for`}
        </Text>
      </Group>
      <Progress value={total === 0 ? 0 : (100 * used) / total} size="md" aria-label={`${name} used`} transitionDuration={0} />
    </div>
  );
}
