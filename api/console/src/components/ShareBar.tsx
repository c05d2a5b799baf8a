/** A part of a whole, in a cell of a table. */
export function ShareBar({ share, text }: { share: number; text: string }) {
  return (
    <div className="bar short">
      <div aria-hidden>
        <div style={{ width: `${Math.min(100, 100 * share)}%` }} />
      </div>
      <span>{text}</span>
    </div>
  );
}
