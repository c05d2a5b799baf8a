import { Link } from "@tanstack/react-router";
import { pieces } from "../compute/reason";

/** Why something is so, with links to the jobs that it names. */
export function Reason({ text }: { text: string }) {
  return pieces(text).map(({ text: part, job }, index) =>
    job === null ? (
      part
    ) : (
      <Link key={`${job} ${index}`} to="/jobs/$id" params={{ id: job }} className="in-text">
        {part}
      </Link>
    ),
  );
}
