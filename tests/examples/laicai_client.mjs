// What the web front end does, in JavaScript and with shorter times: `connect` is the page's own,
// the heartbeat is as its team wrote it. Prints what happens, a line of JSON each.
const [url, interval, timeout, delay] = process.argv.slice(2);
let ws;
let heartbeatTimer;
let pongTimer;

const tell = (what, more = {}) =>
  console.log(JSON.stringify({ what, at: Date.now() / 1000, ...more }));

function connect() {
  ws = new WebSocket(url);
  ws.onopen = () => {
    tell("open", { protocol: ws.protocol });
    startHeartbeat();
  };
  ws.onmessage = onMessage;
  ws.onerror = () => {};
}

function stopHeartbeat() {
  clearInterval(heartbeatTimer);
  clearTimeout(pongTimer);
}

function startHeartbeat() {
  stopHeartbeat();
  heartbeatTimer = setInterval(() => {
    if (ws.readyState === WebSocket.OPEN) {
      ws.send(JSON.stringify({ type: "ping" }));
      pongTimer = setTimeout(() => {
        tell("timeout");
        ws.close();
        setTimeout(() => connect(), Number(delay));
      }, Number(timeout));
    }
  }, Number(interval));
}

function onMessage(event) {
  const data = JSON.parse(event.data);
  if (data.type === "ping") {
    ws.send(JSON.stringify({ type: "pong" }));
    return;
  }
  if (data.type === "pong") {
    tell("pong");
    if (pongTimer) {
      clearTimeout(pongTimer);
      pongTimer = null;
    }
    return;
  }
  tell("event", { data });
}

connect();
