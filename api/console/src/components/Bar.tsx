import { Group, Progress, Text } from "@mantine/core";
import { number } from "../compute/format";

/** How much of something is used. */
export function Bar({ name, used, total }: { name: string; used: number; total: number }) {
  return (
    <div>
      <Group justify="space-between">
        <Text size="xs">{name}</Text>
        <Text size="xs" c="dimmed">
          {total === 0 ? "none" : `${number(used)} used, ${number(Math.max(0, total - used))} free`}
        </Text>
      </Group>
      <Progress value={total === 0 ? 0 : (100 * used) / total} size="md" aria-label={`${name} used`} transitionDuration={0} />
    </div>
  );
}
