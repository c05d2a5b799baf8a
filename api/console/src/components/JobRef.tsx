import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import * as queries from "../api/queries";

/** A link to a job of which only the id is known. */
export function JobRef({ id }: { id: string }) {
  const { data } = useQuery(queries.job(id));
  return (
    <Link to="/jobs/$id" params={{ id }} className="clip" style={{ display: "inline-block" }}>
      {data?.name ?? id}
    </Link>
  );
}
