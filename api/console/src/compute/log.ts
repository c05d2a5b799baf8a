// Logs as text: what a terminal would have taken for commands is left out.

// CSI and OSC sequences, other two-character escapes, and control characters but tab and newline.
const COMMANDS =
  /\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/g;

/** What a terminal would show of a log, without colours. */
export function plain(text: string): string {
  return text.replaceAll("\r\n", "\n").replaceAll("\r", "\n").replaceAll(COMMANDS, "");
}

/** Longest command whose pieces are kept together. */
const LONGEST = 256;

/**
 * `plain` for a text that comes in pieces, which may cut a command in two.
 *
 * @returns takes a piece, or null at the end, and gives what is certain so far.
 */
export function plainPieces(): (piece: string | null) => string {
  let kept = "";
  return (piece) => {
    const text = kept + (piece ?? "");
    const escape = text.lastIndexOf("\x1b");
    const open = escape !== -1 && text.length - escape < LONGEST ? escape : text.length;
    const cut = piece === null ? text.length : text.endsWith("\r") ? Math.min(open, text.length - 1) : open;
    kept = text.slice(cut);
    return plain(text.slice(0, cut));
  };
}

/** Where the first error of a log begins; null if it has none. */
export function firstError(text: string): number | null {
  const found = /^.*(?:Traceback \(most recent call last\)|\b(?:ERROR|CRITICAL|FATAL)\b|vicreg failure:|\b\w*(?:Error|Exception): )/m.exec(
    text,
  );
  return found === null ? null : found.index;
}
