import "@mantine/core/styles.css";
import "@mantine/notifications/styles.css";
import "./style.css";

import { MantineProvider } from "@mantine/core";
import { Notifications } from "@mantine/notifications";
import { QueryCache, QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { createRoot } from "react-dom/client";
import { ApiError } from "./api/client";
import { makeRouter } from "./router";
import { theme } from "./theme";

const client = new QueryClient({
  queryCache: new QueryCache({
    onError(error, query) {
      // The session has ended: every screen asks for it again, and shows the sign-in.
      if (error instanceof ApiError && error.status === 401 && query.queryKey[0] !== "session") {
        void client.invalidateQueries({ queryKey: ["session"] });
      }
    },
  }),
  defaultOptions: {
    queries: {
      staleTime: 5_000,
      retry: (failures, error) => failures < 2 && !(error instanceof ApiError && error.status > 0),
    },
  },
});
const router = makeRouter(client);

const root = document.getElementById("root");
if (root === null) throw new Error("the page has no root");
createRoot(root).render(
  <MantineProvider theme={theme} defaultColorScheme="auto">
    <QueryClientProvider client={client}>
      <Notifications position="bottom-right" autoClose={6000} />
      <RouterProvider router={router} />
    </QueryClientProvider>
  </MantineProvider>,
);
