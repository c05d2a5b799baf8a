// A colour for each job that stays its own, whatever it is compared with.

// Okabe and Ito's palette for all kinds of colour vision, darker yellow; then hues between.
const PALETTE = [
  "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900",
  "#56b4e9", "#7a4fbf", "#8c564b", "#5f8f00", "#e377c2",
];

/** The colours of a list of jobs: by place for the first ten, by the golden angle then. */
export function colorAt(index: number): string {
  return PALETTE[index] ?? `hsl(${Math.round(index * 137.508) % 360} 60% 45%)`;
}
