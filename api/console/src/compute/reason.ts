// Reasons name jobs by their ids.

export type Piece = { text: string; job: string | null };

/** The text, cut at the jobs that it names. */
export function pieces(text: string): Piece[] {
  // Every second part is what the parentheses match.
  return text
    .split(/\bjob ([0-9a-f]{20})\b/)
    .map((part, index) => (index % 2 === 0 ? { text: part, job: null } : { text: `job ${part}`, job: part }))
    .filter((piece) => piece.text !== "");
}
