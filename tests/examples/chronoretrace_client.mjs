// Does what the JavaScript sample of the ChronoRetrace page does, with the WebSocket that is
// there; prints what it logs, a line each.
const socket = new WebSocket(process.argv[2]);

socket.addEventListener("open", () => console.log("open"));
socket.addEventListener("error", () => console.log("error"));
socket.addEventListener("message", (event) => {
  const message = JSON.parse(event.data);
  console.log(JSON.stringify(message));
  if (message.type === "connection_ack") {
    socket.send(JSON.stringify({ type: "subscribe", topic: "stock.AAPL.1m" }));
  }
});
socket.addEventListener("close", ({ code }) => {
  console.log(`closed ${code}`);
  process.exit(0);
});
