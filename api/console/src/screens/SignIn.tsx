import { Button, Center, Code, Paper, PasswordInput, Stack, Text, Title } from "@mantine/core";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { answered, api, rememberCsrf } from "../api/client";
import { session } from "../api/queries";

export function SignIn() {
  const client = useQueryClient();
  const [key, setKey] = useState("");
  const signIn = useMutation({
    mutationFn: () => answered(api.POST("/v1/session", { body: { key: key.trim() } })),
    onSuccess: (found) => {
      rememberCsrf(found);
      // What somebody else was shown before is not for this one.
      client.removeQueries({ predicate: ({ queryKey }) => queryKey[0] !== "session" });
      client.setQueryData(session.queryKey, found);
    },
  });
  return (
    <Center component="main" mih="100vh" p="md">
      <Paper
        component="form"
        withBorder
        p="lg"
        w={420}
        onSubmit={(event) => {
          event.preventDefault();
          signIn.mutate();
        }}
      >
        <Stack>
          <Title order={1}>VICReg platform</Title>
          <PasswordInput
            label="API key"
            description="This browser keeps a session for 7 days, not the key."
            value={key}
            onChange={(event) => setKey(event.currentTarget.value)}
            error={signIn.error?.message}
            autoComplete="current-password"
            autoFocus
            required
          />
          <Button type="submit" loading={signIn.isPending} disabled={key.trim() === ""}>
            Sign in
          </Button>
          <Text size="xs" c="dimmed">
            <Code>vicreg up</Code> prints the file that holds a key: <Code>api-key</Code> in its home.
            An administrator makes others.
          </Text>
        </Stack>
      </Paper>
    </Center>
  );
}
