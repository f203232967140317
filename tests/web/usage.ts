// What the types allow, and what they refuse; it is checked, and never run.
import { channel, Client, CommandError, ConnectionError, escapeSegment, matches } from "../../src/wsbus/web/wsbus.js";
import { watchPresence } from "../../src/wsbus/web/wsbus-presence.js";
import { overDataChannel } from "../../src/wsbus/web/wsbus-webrtc.js";
import type { BusEvent, ClientOptions, Gap, HistoryPage, Position, State } from "../../src/wsbus/web/wsbus.js";

interface Status {
  id: string;
  current_price: number;
}

export async function use(signal: AbortSignal): Promise<void> {
  const options: ClientOptions = {
    token: async ({ signal }) => (await fetch("/token", { signal })).text(),
    retry: { base: 500, attempts: 5, first: true },
    heartbeat: { interval: 10_000 },
    WebSocket,
    signal,
  };
  const client = new Client(new URL("wss://example.org/ws"), options);
  client.addEventListener("reconnecting", ({ detail }) => {
    const delay: number = detail.delay;
    const error: ConnectionError = detail.error;
    console.log(delay, error.code.toFixed(), error.reason.length);
  });
  client.addEventListener("gap", (event) => {
    const cause: "broker" | "server" | "reconnect" | "buffer" = event.detail.cause;
    console.log(cause, event.detail.lost?.toFixed(), event.detail.pattern);
    // @ts-expect-error: it may be unknown how many are missing
    console.log(event.detail.lost.toFixed());
  });
  client.addEventListener("state", ({ detail }) => {
    const state: "idle" | "connecting" | "connected" | "waiting" | "closed" = detail.state;
    console.log(state satisfies State);
  });
  // @ts-expect-error: there is no such event
  client.addEventListener("reconected", () => {});
  // @ts-expect-error: it is a word of a few
  new Client("/ws", { protocol: "wsbus.v2" });

  await client.connect({ signal });
  await client.subscribe(["grid.*", channel("room", escapeSegment("a b"))], { signal, timeout: 5000 });
  const off: () => void = client.on<Status>("grid.*.status", (event: BusEvent<Status>) => {
    console.log(event.data.current_price.toFixed(2));
  });
  for await (const event of client.events<Status>("grid.*.status", { buffer: 10 })) {
    const typed: BusEvent<Status> = event;
    const gap: Gap | undefined = typed.gap;
    console.log(gap?.lost, gap?.channels?.get("grid.1.status")?.position?.offset, event.data.id.length);
    console.log(event.position?.epoch.length);
    // @ts-expect-error: the data has a type
    console.log(event.data.nothing);
    break;
  }
  // @ts-expect-error: without a type nothing is known of an answer
  (await client.command("grid.start")).grid_id;
  const { grid_id } = await client.command<{ grid_id: string }>("grid.start", { pair: "BTC" });
  const { accepted }: { accepted: number } = await client.publish("chat", grid_id, { event: "said" });
  const receipt = await client.publish("chat", 1, { idempotencyKey: "order-17" });
  const since: Position | undefined = client.position("chat.*") ?? receipt.position;
  await client.subscribe("chat.*", { since, signal });
  for await (const { latest } of client.events("chat.*", { since })) console.log(latest satisfies true | undefined, receipt.repeated);
  const page: HistoryPage<Status> = await client.history<Status>("chat.room", { limit: 20, before: since, timeout: 100 });
  for (const { channel, data, position } of page.events) console.log(channel, data.current_price, position.offset, page.more, page.position.tag);
  await client.subscribe("prices.*", { maxRate: 10, signal });
  for await (const { data } of client.events<number>("book.*", { maxRate: "auto" })) console.log(data.toFixed());
  // @ts-expect-error: a rate is a number, or "auto"
  await client.subscribe("chat.*", { maxRate: "fast" });
  // @ts-expect-error: a position is no number
  await client.subscribe("chat.*", { since: 7 });
  // @ts-expect-error: there may be none
  console.log(client.position("chat.*").offset);
  const { subscriptions } = await client.status({ timeout: 1000 });
  console.log(accepted, subscriptions.join(), matches("a.*", "a.b") satisfies boolean, client.state);
  try {
    await client.command("no.such", {}, { idempotent: true });
  } catch (error) {
    if (error instanceof CommandError) console.log(error.code.toLowerCase());
  }
  client.addEventListener("presence", ({ detail }) => console.log(detail.joined?.[0].id, detail.watching satisfies false | undefined));
  for await (const { members, left } of watchPresence(client, "chat.lobby", { signal })) console.log(members[0].subject, left.length);
  // @ts-expect-error: it is one channel
  watchPresence(client, ["chat.lobby"]);
  const fast = new Client("/ws", { WebSocket: overDataChannel(client, { iceServers: [], timeout: 5_000 }), fallback: false });
  await fast.connect();
  // @ts-expect-error: a client asks for a data channel
  overDataChannel("/ws");
  off();
  client.close();
  const { error } = await client.closed;
  console.log(error?.message);
}
