// What the list of jobs asks the API, from its address.
import type { CountsQuery, JobsQuery } from "../api/queries";
import type { JobsSearch } from "../router";

const PAGE = 50;

/** Whether jobs stand under the one that they follow from: a search looks at each by itself. */
export function nested({ state, kind, text, label, created_from, created_before }: JobsSearch): boolean {
  return [state, kind, text, label, created_from, created_before].every((each) => each === undefined);
}

/** A page before the job `before` is the page after it in the opposite order, turned around. */
export function page(search: JobsSearch): JobsQuery {
  const { after, before, ...rest } = search;
  const order = search.order ?? "desc";
  const opposite = order === "desc" ? "asc" : "desc";
  return {
    ...rest,
    top_level: nested(search) ? true : undefined,
    order: before === undefined ? order : opposite,
    cursor: before ?? after,
    limit: PAGE,
  };
}

/** Which jobs are listed, on whichever page and in whichever order. */
export function filters(search: JobsSearch): CountsQuery {
  const { after: _after, before: _before, sort: _sort, order: _order, ...wanted } = search;
  return wanted;
}
