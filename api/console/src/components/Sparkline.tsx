/** The course of a few dozen values, as wide as a word. */
export function Sparkline({ values, label }: { values: number[]; label: string }) {
  const finite = values.filter((value) => Number.isFinite(value));
  const low = Math.min(...finite);
  const span = Math.max(...finite) - low || 1;
  const points = finite
    .map((value, index) => {
      const x = (100 * index) / Math.max(1, finite.length - 1);
      return `${x.toFixed(1)},${(22 - (20 * (value - low)) / span).toFixed(1)}`;
    })
    .join(" ");
  return (
    <svg viewBox="0 0 100 24" width={100} height={24} role="img" aria-label={label}>
      {finite.length > 1 && (
        <polyline points={points} fill="none" stroke="var(--mantine-primary-color-filled)" strokeWidth={1.5} />
      )}
    </svg>
  );
}
