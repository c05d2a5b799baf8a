import { NumberInput } from "@mantine/core";

/** A priority that is typed; an empty text while there is none. */
export function PriorityInput({ value, change }: { value: number | string; change: (value: number | string) => void }) {
  return (
    <NumberInput
      label="Priority"
      description="From −1000 to 1000: higher runs first."
      min={-1000}
      max={1000}
      allowDecimal={false}
      value={value}
      onChange={change}
      data-autofocus
    />
  );
}
