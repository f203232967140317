// A page that uses every hook; it is mounted twice by StrictMode, and rendered on a server first.
import { StrictMode, useEffect, useState } from "react";
import { Client } from "wsbus";
import { useCommand, useConnection, useEvents, useLatest, usePresence } from "wsbus/react";

export const client = new Client("/ws", { retry: { base: 50, cap: 200, attempts: Infinity } });

function Room({ name }) {
  const { events } = useEvents(client, `chat.${name}`, { limit: 3 });
  const { event } = useLatest(client, "chat.*");
  const { roster } = usePresence(client, "here.hall");
  const { error } = useLatest(client, "secret.plan");
  useEffect(() => {
    globalThis.mounts = (globalThis.mounts ?? 0) + 1;
  }, []);
  return (
    <>
      <p id="events">{events.map(({ data }) => data).join(" ")}</p>
      <p id="latest">{event?.channel}</p>
      <p id="count">{roster?.count}</p>
      <p id="refused">{error?.code}</p>
    </>
  );
}

function Page() {
  const [name, setName] = useState("a");
  const [isShown, show] = useState(true);
  const state = useConnection(client);
  const [double, { data, error, isRunning }] = useCommand(client, "double");
  return (
    <>
      <p id="state">{state}</p>
      <p id="double">{isRunning ? "…" : (error?.code ?? data)}</p>
      <button id="ask" onClick={() => double({ number: 21 })}>ask</button>
      <button id="fail" onClick={() => double({ number: "x" })}>fail</button>
      <button id="other" onClick={() => setName("b")}>other room</button>
      <button id="hide" onClick={() => show(!isShown)}>hide</button>
      {isShown && <Room name={name} />}
    </>
  );
}

export const app = (
  <StrictMode>
    <Page />
  </StrictMode>
);
