// The addresses of the console. What a screen shows is in its address, so that it can be shared.
import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
} from "@tanstack/react-router";
import type { JobState } from "./api/client";
import * as queries from "./api/queries";
import { Failure } from "./components/Failure";
import { filters, page } from "./compute/jobs";
import { Home } from "./screens/Home";
import { Shell } from "./Shell";

type Raw = Record<string, unknown>;

const root = createRootRouteWithContext<{ client: QueryClient }>()({ component: Shell });

function text(raw: Raw, name: string): string | undefined {
  const value = raw[name];
  if (typeof value === "number") return String(value);
  return typeof value === "string" && value !== "" ? value : undefined;
}

function list(raw: Raw, name: string): string[] | undefined {
  const value = raw[name];
  const items = (Array.isArray(value) ? value : [value]).filter(
    (item): item is string | number => typeof item === "string" || typeof item === "number",
  );
  return items.length > 0 ? items.map(String) : undefined;
}

const homeRoute = createRoute({ getParentRoute: () => root, path: "/", component: Home });

export type JobsSearch = {
  state?: JobState[];
  kind?: string;
  experiment?: string;
  owner?: string;
  text?: string;
  label?: string[];
  created_from?: string;
  created_before?: string;
  sort?: "created" | "finished" | "name" | "priority";
  order?: "asc" | "desc";
  after?: string;
  before?: string;
};

export const jobsRoute = createRoute({
  getParentRoute: () => root,
  path: "/jobs",
  validateSearch: (raw: Raw): JobsSearch => ({
    state: list(raw, "state") as JobState[] | undefined,
    kind: text(raw, "kind"),
    experiment: text(raw, "experiment"),
    owner: text(raw, "owner"),
    text: text(raw, "text"),
    label: list(raw, "label"),
    created_from: text(raw, "created_from"),
    created_before: text(raw, "created_before"),
    sort: text(raw, "sort") as JobsSearch["sort"],
    order: text(raw, "order") as JobsSearch["order"],
    after: text(raw, "after"),
    before: text(raw, "before"),
  }),
  loaderDeps: ({ search }) => search,
  // Asked while the screen draws what was chosen, not when it has: that takes as long.
  loader: ({ context, deps }) => {
    void context.client.prefetchQuery(queries.jobs(page(deps)));
    void context.client.prefetchQuery(queries.counts(filters(deps)));
  },
  component: lazyRouteComponent(() => import("./screens/Jobs"), "Jobs"),
});

const queueRoute = createRoute({
  getParentRoute: () => root,
  path: "/queue",
  component: lazyRouteComponent(() => import("./screens/Queue"), "Queue"),
});

export const TABS = [
  "overview",
  "curves",
  "trials",
  "evaluations",
  "logs",
  "spec",
  "attempts",
  "files",
  "events",
  "json",
] as const;
export type Tab = (typeof TABS)[number];
export type JobSearch = {
  tab?: Tab;
  axis?: "step" | "epoch" | "time";
  smooth?: number;
  log?: boolean;
  attempt?: number;
  against?: string;
};

export const jobRoute = createRoute({
  getParentRoute: () => root,
  path: "/jobs/$id",
  validateSearch: (raw: Raw): JobSearch => ({
    tab: TABS.find((tab) => tab === raw.tab),
    axis: text(raw, "axis") as JobSearch["axis"],
    smooth: typeof raw.smooth === "number" ? raw.smooth : undefined,
    log: raw.log === true ? true : undefined,
    attempt: typeof raw.attempt === "number" ? raw.attempt : undefined,
    against: text(raw, "against"),
  }),
  component: lazyRouteComponent(() => import("./screens/Job"), "JobScreen"),
});

const trialRoute = createRoute({
  getParentRoute: () => root,
  path: "/jobs/$id/trials/$trial",
  validateSearch: (raw: Raw): Pick<JobSearch, "axis" | "smooth" | "log"> => ({
    axis: text(raw, "axis") as JobSearch["axis"],
    smooth: typeof raw.smooth === "number" ? raw.smooth : undefined,
    log: raw.log === true ? true : undefined,
  }),
  component: lazyRouteComponent(() => import("./screens/Trial"), "TrialScreen"),
});

export type CompareSearch = {
  job?: string[];
  metric?: string;
  x?: string;
  axis?: "step" | "epoch" | "time";
  smooth?: number;
  log?: boolean;
};

export const compareRoute = createRoute({
  getParentRoute: () => root,
  path: "/compare",
  validateSearch: (raw: Raw): CompareSearch => ({
    job: list(raw, "job"),
    metric: text(raw, "metric"),
    x: text(raw, "x"),
    axis: text(raw, "axis") as CompareSearch["axis"],
    smooth: typeof raw.smooth === "number" ? raw.smooth : undefined,
    log: raw.log === true ? true : undefined,
  }),
  component: lazyRouteComponent(() => import("./screens/Compare"), "Compare"),
});

export const newRoute = createRoute({
  getParentRoute: () => root,
  path: "/new",
  validateSearch: (raw: Raw): { recipe?: string; from?: string } => ({
    recipe: text(raw, "recipe"),
    from: text(raw, "from"),
  }),
  component: lazyRouteComponent(() => import("./screens/NewJob"), "NewJob"),
});

const schedulesRoute = createRoute({
  getParentRoute: () => root,
  path: "/schedules",
  component: lazyRouteComponent(() => import("./screens/Schedules"), "Schedules"),
});

export const newScheduleRoute = createRoute({
  getParentRoute: () => root,
  path: "/schedules/new",
  component: lazyRouteComponent(() => import("./screens/EditSchedule"), "NewSchedule"),
});

export const scheduleRoute = createRoute({
  getParentRoute: () => root,
  path: "/schedules/$id",
  component: lazyRouteComponent(() => import("./screens/Schedule"), "ScheduleScreen"),
});

const clusterRoute = createRoute({
  getParentRoute: () => root,
  path: "/cluster",
  component: lazyRouteComponent(() => import("./screens/Cluster"), "Cluster"),
});

export const modelsRoute = createRoute({
  getParentRoute: () => root,
  path: "/models",
  validateSearch: (raw: Raw): { text?: string; experiment?: string } => ({
    text: text(raw, "text"),
    experiment: text(raw, "experiment"),
  }),
  component: lazyRouteComponent(() => import("./screens/Models"), "Models"),
});

const keysRoute = createRoute({
  getParentRoute: () => root,
  path: "/keys",
  component: lazyRouteComponent(() => import("./screens/Keys"), "Keys"),
});

export function makeRouter(client: QueryClient) {
  return createRouter({
    routeTree: root.addChildren([
      homeRoute,
      jobsRoute,
      jobRoute,
      trialRoute,
      queueRoute,
      compareRoute,
      newRoute,
      schedulesRoute,
      newScheduleRoute,
      scheduleRoute,
      clusterRoute,
      modelsRoute,
      keysRoute,
    ]),
    context: { client },
    defaultPreload: "intent",
    scrollRestoration: true,
    defaultErrorComponent: ({ error }) => (
      <Failure error={error instanceof Error ? error : new Error(String(error))} />
    ),
    defaultNotFoundComponent: () => <Failure error={new Error("There is no such page.")} />,
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof makeRouter>;
  }
}
