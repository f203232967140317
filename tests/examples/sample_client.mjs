// What the page's sample client does, in JavaScript: no subprotocol, the token in the query,
// `timestamp` added to every message, `*` taken for `[^.]+`. Prints what it saw, as JSON.
const [url, token] = process.argv.slice(2);
const socket = new WebSocket(`${url}?token=${token}`);
const listeners = [];
const waiting = new Map();
const seen = { protocol: null, status: 0, tail: 0, health: 0, types: {} };

const transmit = (message) =>
  socket.send(JSON.stringify({ ...message, timestamp: Date.now() }));

const listen = (pattern, listener) =>
  listeners.push([pattern, new RegExp(`^${pattern.replace(/\*/g, "[^.]+")}$`), listener]);

const command = (action, params) =>
  new Promise((resolve, reject) => {
    const id = `cmd_${Date.now()}_${Math.random().toString(36).slice(2)}`;
    waiting.set(id, { resolve, reject });
    transmit({ type: "command", id, action, params });
  });

socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  seen.types[message.type] = (seen.types[message.type] ?? 0) + 1;
  if (message.type === "event") {
    for (const [pattern, regex, listener] of listeners) {
      if (pattern === message.channel) listener(message.data); // and once more below
      if (regex.test(message.channel)) listener(message.data);
    }
  } else if (message.type === "response") {
    const { resolve, reject } = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.success) resolve(message.data);
    else reject(message.error);
  } else if (message.type === "ping") {
    transmit({ type: "pong" });
  }
};
socket.onerror = () => process.exit(2);
await new Promise((resolve) => (socket.onopen = resolve));
seen.protocol = socket.protocol;

listen("grid.*", () => (seen.tail += 1)); // the sample's fault: it does not match grid.a.status
transmit({ type: "subscribe", channels: ["grid.*", "system.health"] });
const health = new Promise((resolve) =>
  listen("system.health", () => (seen.health += 1) === 1 && resolve()),
);
const status = new Promise((resolve) =>
  listen("grid.*.status", (data) => {
    seen.status += 1;
    if (data.id === seen.started?.grid_id) resolve(data);
  }),
);
const grid = { pair: "BTC-USDC", upper_price: 100000, lower_price: 90000, grid_count: 10 };
seen.started = await command("grid.start", grid);
seen.of_started = await status;
seen.refused = await command("grid.start", { ...grid, upper_price: 1 }).catch((error) => error);
seen.unknown = await command("no.such", undefined).catch((error) => error);
transmit({ type: "ping" });
await health;
transmit({ type: "unsubscribe", channels: ["grid.*", "system.health"] });
console.log(JSON.stringify(seen));
process.exit(0);
