// The two transports. A transport is a function (url, on) that connects and returns an object with
// send(text) and close(). It calls on.open() once, on.message(text) for each message in order, and
// on.close() when the connection has ended. Its path is the last part of the server's URL.

const POLL_TIMEOUT = 30000; // ms; the server answers after 10 s even without messages
const SEND_TIMEOUT = 10000; // ms

export function webSocket(url, on) {
  url.protocol = url.protocol.replace("http", "ws");
  const ws = new WebSocket(url);
  ws.onopen = on.open;
  ws.onmessage = ({ data }) => on.message(data);
  ws.onclose = on.close;
  return { send: (text) => ws.send(text), close: () => ws.close() };
}
webSocket.path = "websocket";
webSocket.heartbeat = true;

export function longPoll(url, on) {
  const polls = new AbortController();
  let token = null; // of the session
  let outbox = [];
  let sending = false;

  async function request(method, signal, body) {
    const headers = token ? { "X-Phoenix-Longpoll-Token": token } : {};
    if (body) headers["Content-Type"] = "application/x-ndjson";
    // The browser finishes the request even if the page is closed. It allows at most 64 kB.
    const keepalive = body?.length < 20000;
    const response = await fetch(url, { method, headers, body, signal, keepalive, cache: "no-store" });
    return response.json();
  }

  async function poll() {
    while (!polls.signal.aborted) {
      const timer = setTimeout(() => polls.abort(), POLL_TIMEOUT);
      const answer = await request("GET", polls.signal);
      clearTimeout(timer);
      if (answer.status === 410 && !token) {
        token = answer.token;
        on.open();
      } else if (answer.status === 200 || answer.status === 204) {
        for (const text of answer.messages) queueMicrotask(() => on.message(text));
      } else {
        throw new Error(`long poll: status ${answer.status}`);
      }
    }
  }

  // flush sends one request at a time to keep the order. Each line of a request is a message.
  async function flush() {
    sending = true;
    await null;
    while (outbox.length > 0) {
      const lines = outbox.splice(0, 100);
      const answer = await request("POST", AbortSignal.timeout(SEND_TIMEOUT), lines.join("\n"));
      if (answer.status !== 200) throw new Error(`long poll: status ${answer.status}`);
    }
    sending = false;
  }

  const end = () => {
    polls.abort();
    on.close();
  };
  poll().then(end, end);
  return {
    send(text) {
      outbox.push(text);
      if (!sending) flush().catch(end);
    },
    close: () => polls.abort(), // requests that send messages still finish
  };
}
longPoll.path = "longpoll";
longPoll.heartbeat = false;
