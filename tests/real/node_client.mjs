// Watches a channel in Node: `node watch.mjs ws|native URL TOKEN CHANNEL`. Prints every frame as a line of JSON;
// every line of its input is sent as it is. Ends when its input does.
import { createInterface } from "node:readline";

const [kind, url, token, ...channels] = process.argv.slice(2);
const client = {
  ws: async () => (await import("ws")).WebSocket,
  // Node has had its own since 22, and behind a flag since 20.10; it is undici's, which older ones can install.
  native: async () => globalThis.WebSocket ?? (await import("undici")).WebSocket,
}[kind];
const WebSocket = await client();
const socket = kind === "ws"
  ? new WebSocket(url, { headers: { authorization: `Bearer ${token}` } })
  : new WebSocket(url, ["wshub.v1", `wshub.bearer.${token}`]);

const print = (frame) => process.stdout.write(JSON.stringify(frame) + "\n");
socket.onopen = () => channels.forEach((channel) => socket.send(JSON.stringify({ action: "subscribe", channel })));
socket.onmessage = (event) => print(JSON.parse(event.data));
socket.onerror = (event) => print({ type: "client_error", message: String(event.message ?? event.error) });
socket.onclose = (event) => { print({ type: "client_closed", code: event.code }); process.exit(0); };
createInterface({ input: process.stdin }).on("line", (line) => socket.send(line)).on("close", () => socket.close(1000));
