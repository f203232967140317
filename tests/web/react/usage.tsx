// What the types of the hooks allow, and what they refuse; it is checked, and never run.
import { Client } from "wsbus";
import { useCommand, useConnection, useEvents, useLatest, usePresence } from "wsbus/react";
import type { AppClient } from "./bus";

const client = new Client("/ws");
const typed = client as AppClient;

export function Plain() {
  const state: "idle" | "connecting" | "connected" | "waiting" | "closed" = useConnection(client);
  const { events, error } = useEvents<{ price: number }>(client, "prices.*", { limit: 5, maxRate: "auto" });
  const { event } = useLatest(client, "other.*");
  const { roster } = usePresence(client, "chat.lobby");
  const [add, { data, isRunning }] = useCommand<number>(client, "add");
  // @ts-expect-error: nothing is known of it
  event?.data.price;
  // @ts-expect-error: it is no number
  useEvents(client, "prices.*", { limit: "5" });
  return (
    <button onClick={() => void add({ a: 1 })} disabled={isRunning}>
      {state} {events[0]?.data.price.toFixed()} {error?.message} {roster?.members[0]?.subject} {data?.toFixed()}
    </button>
  );
}

export function Typed() {
  const { event } = useLatest(typed, "grid.*.status");
  const { events } = useEvents(typed, "grid.abc.status");
  const [stop, { data }] = useCommand(typed, "grid.stop");
  const [add] = useCommand(typed, "add");
  useConnection(typed) satisfies string;
  usePresence(typed, "chat.lobby").roster?.count satisfies number | undefined;
  event?.data.progress satisfies number | undefined;
  events[0]?.event satisfies "update" | undefined;
  data satisfies Record<string, string> | undefined;
  add({ a: 1 }) satisfies Promise<number>;
  useLatest(typed, "other.*").event?.data satisfies unknown;
  // @ts-expect-error: a number is no text
  event?.data.progress satisfies string | undefined;
  // @ts-expect-error: params are needed
  void stop();
  // @ts-expect-error: no such command
  useCommand(typed, "grid.stopp");
  return <p />;
}
