// A colour for each job that stays its own while others are added and left out.

// Okabe and Ito's palette for all kinds of colour vision, darker yellow; then hues between.
const PALETTE = [
  "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900",
  "#56b4e9", "#7a4fbf", "#8c564b", "#5f8f00", "#e377c2",
];

/** The colours of a list: by place for the first ten, by the golden angle then. */
export function colorAt(index: number): string {
  // With commas: ECharts reads no others.
  return PALETTE[index] ?? `hsl(${Math.round(index * 137.508) % 360}, 60%, 45%)`;
}

/** The same colour at a third of its strength. */
export function faint(color: string): string {
  return color.startsWith("#") ? `${color}55` : color.replace("hsl(", "hsla(").replace(")", ", 0.33)");
}

// Jobs have the colours of their places in the address, where "" is a place that is free.

/** The places with a job more: at the first that is free. */
export function placed(places: string[], id: string): string[] {
  const free = places.indexOf("");
  return free === -1 ? [...places, id] : places.with(free, id);
}

/** The places without a job: its own is free then, so that all others keep theirs. */
export function leftOut(places: string[], id: string): string[] {
  const rest = places.map((each) => (each === id ? "" : each));
  return rest.slice(0, rest.findLastIndex((each) => each !== "") + 1);
}
