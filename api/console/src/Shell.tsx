// What surrounds every screen: where one can go, who one is, and whether what is shown is current.
import { Badge, Box, Button, Group, Kbd, Menu, Modal, Table, Text, Tooltip } from "@mantine/core";
import { useDisclosure, useDocumentTitle, useHotkeys } from "@mantine/hooks";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useLocation, useNavigate } from "@tanstack/react-router";
import { useEffect } from "react";
import { answered, ApiError, api, rememberCsrf } from "./api/client";
import { listen, useStale } from "./api/live";
import { session as sessionQuery } from "./api/queries";
import { useMaySubmit } from "./components/actions";
import { Failure } from "./components/Failure";
import { useKeys, useSingleKeys } from "./components/keys";
import { LinkButton } from "./components/links";
import { SignIn } from "./screens/SignIn";

const PLACES = [
  ["/", "Home", "h"],
  ["/jobs", "Jobs", "o"],
  ["/queue", "Queue", "q"],
  ["/models", "Models", "m"],
  ["/schedules", "Schedules", "s"],
  ["/cluster", "Cluster", "c"],
] as const;

const SHORTCUTS: [string[], string][] = [
  [["/"], "search jobs"],
  [["j", "k"], "next, previous row"],
  [["Enter"], "open the row"],
  [["x"], "choose the row"],
  [["n"], "new job"],
  ...PLACES.map(([, name, key]): [string[], string] => [["g", key], `go to ${name}`]),
  [["?"], "this list"],
];

let chord = 0;

export function Shell() {
  const session = useQuery(sessionQuery);
  if (session.isPending) return null;
  if (session.error instanceof ApiError && session.error.status === 401) return <SignIn />;
  if (session.error !== null) {
    return (
      <Box p="md">
        <Failure error={session.error} retry={() => void session.refetch()} />
      </Box>
    );
  }
  return <SignedIn />;
}

function SignedIn() {
  const client = useQueryClient();
  const navigate = useNavigate();
  const stale = useStale();
  const [helping, help] = useDisclosure(false);
  useEffect(() => listen(client), [client]);
  const maySubmit = useMaySubmit();
  useDocumentTitle(useScreenTitle());
  useHotkeys([["shift+?", help.open]]);
  useKeys([
    ...(maySubmit ? [["n", () => void navigate({ to: "/new" })] as [string, () => void]] : []),
    ["/", () => void searchJobs(navigate)],
    ["shift+/", () => void searchJobs(navigate)], // where the keyboard has it so
    ["g", () => void (chord = Date.now())],
    ...PLACES.map(([to, , key]): [string, () => void] => [
      key,
      () => {
        if (Date.now() - chord < 1500) void navigate({ to });
      },
    ]),
  ]);
  return (
    <>
      <a className="skip" href="#screen">
        Skip to the content
      </a>
      <Group
        component="header"
        gap="xs"
        px="md"
        py={6}
        wrap="wrap"
        style={{ borderBottom: "1px solid var(--mantine-color-default-border)" }}
      >
        <Text fw={700} mr="xs">
          VICReg
        </Text>
        <Group component="nav" gap={2} aria-label="Screens" wrap="wrap">
          {PLACES.map(([to, name]) => (
            <Link key={to} to={to} className="nav-link" activeOptions={{ exact: to === "/" }}>
              {name}
            </Link>
          ))}
          <Administration />
        </Group>
        <Group gap="xs" ml="auto">
          <Box w={72} ta="right" role="status">
            {stale ? (
              <Tooltip label="The API has not been heard for a while: what you see may be out of date. It is asked again by itself.">
                <Badge color="orange" variant="filled" autoContrast tt="none">
                  stale
                </Badge>
              </Tooltip>
            ) : (
              <Badge color="green" variant="dot" tt="none">
                live
              </Badge>
            )}
          </Box>
          <NewJobButton />
          <Account help={help.open} />
        </Group>
      </Group>
      <Box component="main" id="screen" tabIndex={-1} px="md" py="sm" style={{ outline: "none" }}>
        <Outlet />
      </Box>
      <Modal opened={helping} onClose={help.close} title="Keys" size="sm">
        <Table withRowBorders={false}>
          <Table.Tbody>
            {SHORTCUTS.map(([keys, what]) => (
              <Table.Tr key={what}>
                <Table.Td w={90}>
                  <Group gap={4}>
                    {keys.map((key) => (
                      <Kbd key={key}>{key}</Kbd>
                    ))}
                  </Group>
                </Table.Td>
                <Table.Td>{what}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Modal>
    </>
  );
}

async function searchJobs(navigate: ReturnType<typeof useNavigate>): Promise<void> {
  if (document.getElementById("search-jobs") === null) await navigate({ to: "/jobs" });
  for (let tries = 0; tries < 50; tries += 1) {
    const field = document.getElementById("search-jobs");
    if (field !== null) {
      field.focus();
      return;
    }
    await new Promise((resume) => requestAnimationFrame(resume));
  }
}

function Administration() {
  const { data } = useQuery(sessionQuery);
  if (data?.role !== "admin" || data.name === null) return null;
  return (
    <Link to="/keys" className="nav-link">
      Keys
    </Link>
  );
}

function NewJobButton() {
  return useMaySubmit() ? <LinkButton to="/new">New job</LinkButton> : null;
}

const TITLES: Record<string, string> = {
  ...Object.fromEntries(PLACES.map(([to, name]) => [to, name])),
  "/compare": "Compare",
  "/new": "New job",
  "/schedules/new": "New schedule",
  "/keys": "Keys",
};

/** What the browser's tab is called; empty where the screen knows a name of its own. */
function useScreenTitle(): string {
  const title = TITLES[useLocation().pathname];
  return title === undefined ? "" : `${title} · VICReg`;
}

function Account({ help }: { help: () => void }) {
  const [single, setSingle] = useSingleKeys();
  const client = useQueryClient();
  const { data } = useQuery(sessionQuery);
  const signOut = async () => {
    await answered(api.DELETE("/v1/session"));
    rememberCsrf(null);
    client.clear();
    window.location.assign("/");
  };
  return (
    <Menu position="bottom-end" width={230}>
      <Menu.Target>
        <Button variant="default" aria-label="Account and help">
          {data?.name ?? "open"}
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>
          {data?.name === null ? "No keys exist: anyone on this machine may do everything" : data?.role}
        </Menu.Label>
        <Menu.Item onClick={help}>Keyboard</Menu.Item>
        <Menu.Item onClick={() => setSingle(!single)}>Turn {single ? "off" : "on"} single letters</Menu.Item>
        <Menu.Item component="a" href="/docs">
          HTTP API
        </Menu.Item>
        {data?.csrf != null && <Menu.Item onClick={() => void signOut()}>Sign out</Menu.Item>}
      </Menu.Dropdown>
    </Menu>
  );
}
