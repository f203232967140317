// Servers for the tests, each a process of its own, and what several tests ask for.
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";

const SECRET = "for the tests: at least 32 bytes";

/** Start a Python module that prints a line of JSON; `stop` ends it and waits, `kill` is abrupt. */
export async function start(module, ...options) {
  const child = spawn(process.env.PYTHON ?? "python3", ["-m", module, ...options], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  const lines = createInterface({ input: child.stdout });
  const [line] = await Promise.race([
    once(lines, "line"),
    exited.then(([code]) => Promise.reject(new Error(`${module} ended with ${code}`))),
  ]);
  const end = (how) => async () => {
    how();
    await exited;
  };
  return {
    ...JSON.parse(line),
    stop: end(() => child.stdin.end()),
    kill: end(() => child.kill("SIGKILL")),
  };
}

/** A token that the private door takes: `claims`, for so many seconds. */
export function tokenFor(claims, seconds = 60) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Date.now() / 1000;
  const head = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub: "u1", exp: now + seconds, ...claims })}`;
  return `${head}.${createHmac("sha256", SECRET).update(head).digest("base64url")}`;
}

/** The next `type` event of a client that fits. */
export const heard = (client, type, fits = () => true) =>
  new Promise((resolve) => {
    const listener = (event) => {
      if (!fits(event.detail)) return;
      client.removeEventListener(type, listener);
      resolve(event.detail);
    };
    client.addEventListener(type, listener);
  });

/** Read so many values of an iterator. */
export async function take(events, count) {
  const values = [];
  while (values.length < count) values.push((await events.next()).value);
  return values;
}

/** Errors that the client tells, kept from the console. */
export function complaints(client) {
  const told = [];
  client.addEventListener("error", (event) => {
    event.preventDefault();
    told.push(event.detail);
  });
  return told;
}
