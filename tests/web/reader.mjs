// A client that prints what comes on a channel, a line of JSON for each event, and for each gap.
import { Client } from "../../src/wsbus/web/wsbus.js";

const [url, token, channel] = process.argv.slice(2);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const client = new Client(url, { token, retry: { base: 1, cap: 1, attempts: Infinity } });
client.addEventListener("gap", ({ detail }) => print({ gap: detail }));
await client.connect();
const events = client.events(channel);
await client.subscribe(channel);
print("reads");
for await (const { data } of events) print(data);
