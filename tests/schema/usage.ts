import { Client } from "./wsbus.js";
import type { AppClient } from "./bus";

const client = new Client("/ws") as AppClient;

client.on("grid.*.status", (event) => {
  const progress: number = event.data.progress;
  const name: "update" = event.event;
  return [progress, name];
});
client.on("grid.abc.status", ({ data }) => data.parents?.[0]?.step satisfies "cut" | "weld" | null | undefined);
client.on("shop.a", (event) => {
  if (event.event === "ordered") return event.data.side satisfies "buy" | "sell";
  return event.event === "told" ? event.data.length : event.data["x"];
});
client.on("other.*", (event) => event.data satisfies unknown);

export const stopped: Promise<Record<string, string>> = client.command("grid.stop", { id: "1" });
export const sum: Promise<number> = client.command("add", { a: 1 });
void client.command("untyped");
void client.publish("grid.abc.status", { progress: 1 }, { event: "update" });

// @ts-expect-error: params are needed
void client.command("grid.stop");
// @ts-expect-error: of another type
void client.command("grid.stop", { id: 1 });
// @ts-expect-error: no such command
void client.command("grid.stopp", { id: "1" });
// @ts-expect-error: data of another type
void client.publish("grid.abc.status", { progress: "x" }, { event: "update" });
// @ts-expect-error: no such event
void client.publish("grid.abc.status", { progress: 1 }, { event: "updaet" });
// @ts-expect-error: no such channel
void client.publish("grid.abc", { progress: 1 }, { event: "update" });
// @ts-expect-error: a number is no text
client.on("grid.*.status", (event) => event.data.progress satisfies string);

export async function follow(): Promise<number> {
  for await (const event of client.events("grid.+.status")) return event.data.progress;
  client.close();
  return 0;
}
