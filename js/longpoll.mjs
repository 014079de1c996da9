// Long polling, with the interface of a WebSocket. It is the transport of pages whose network does
// not let a WebSocket through.

const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 3;
const MAX_LINES = 100; // messages in one request
const KEEPALIVE = 20000; // bytes; the browser allows at most 64 kB for all such requests

/** A connection by requests. Its address is that of the WebSocket. */
export class LongPoll {
  static AUTH_PREFIX = "base64url.bearer.phx."; // of the protocol that carries the token

  readyState = CONNECTING;
  bufferedAmount = 0;
  skipHeartbeat = true; // the requests fail if the server is gone
  timeout = 20000; // ms for a request
  onopen = () => {};
  onerror = () => {};
  onmessage = () => {};
  onclose = () => {};
  #polling = null; // the request for messages
  #auth = null;
  #token = null; // of the session
  #outbox = [];
  #sending = false;

  constructor(url, protocols) {
    const token = protocols?.find((protocol) => protocol.startsWith(LongPoll.AUTH_PREFIX));
    if (token) this.#auth = atob(token.slice(LongPoll.AUTH_PREFIX.length));
    this.url = url.replace(/^ws/, "http").replace(/\/websocket($|\?)/, "/longpoll$1");
    setTimeout(() => this.#poll());
  }

  /** Sends a frame, a string or an ArrayBuffer. The frames of one turn share a request. */
  send(frame) {
    this.#outbox.push(typeof frame === "string" ? frame : base64(frame));
    if (!this.#sending) this.#flush();
  }

  /** Closes the connection. Frames that were sent are still delivered, also if the page ends. */
  close(code = 1000, reason = "") {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSED;
    this.#polling?.abort();
    const wasClean = code === 1000;
    this.onclose(typeof CloseEvent === "undefined" ? { code, reason, wasClean } : new CloseEvent("close", { code, reason, wasClean }));
  }

  #fail(error, code, reason) {
    if (this.readyState === CLOSED) return;
    this.#outbox = [];
    this.onerror(error);
    this.close(code, reason);
  }

  async #poll() {
    while (this.readyState !== CLOSED) {
      const headers = { Accept: "application/json" };
      if (this.#auth !== null) headers["X-Phoenix-AuthToken"] = this.#auth;
      const { status, token, messages } = await this.#request("GET", headers);
      if (this.readyState === CLOSED) return;
      if (status === 410 && !this.#token) {
        this.#token = token;
        this.readyState = OPEN;
        this.onopen();
      } else if (status === 200) {
        for (const data of messages) this.#receive(data);
      } else if (status === 410) {
        this.#fail(status, 3410, "session_gone");
      } else if (status === 403) {
        this.#fail(status, 1008, "forbidden");
      } else if (status !== 204) {
        this.#failRequest(status);
      }
    }
  }

  /** Delivers a message in a task of its own, so that an error of the page ends only that task. */
  #receive(text) {
    const data = text.startsWith("[") || text.startsWith("{") ? text : fromBase64(text);
    queueMicrotask(() => this.readyState !== CLOSED && this.onmessage({ data }));
  }

  /** Sends one request at a time, to keep the order. Each line of a request is a frame. */
  async #flush() {
    this.#sending = true;
    await null;
    while (this.#outbox.length > 0) {
      const body = this.#outbox.splice(0, MAX_LINES).join("\n");
      const { status } = await this.#request("POST", { "Content-Type": "application/x-ndjson" }, body);
      if (status !== 200) this.#failRequest(status);
    }
    this.#sending = false;
  }

  #failRequest(status) {
    if (status === "timeout") this.#fail(status, 1005, "timeout");
    else this.#fail(status || 500, 1011, "internal server error");
  }

  /** Returns the server's answer. Its status is "timeout", or 0 if there is none. */
  async #request(method, headers, body) {
    const controller = new AbortController();
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      controller.abort();
    }, this.timeout);
    if (method === "GET") this.#polling = controller;
    if (this.#token) headers["X-Phoenix-Longpoll-Token"] = this.#token;
    try {
      const response = await fetch(this.url, {
        method,
        headers,
        body,
        cache: "no-store",
        keepalive: body?.length < KEEPALIVE,
        signal: controller.signal,
      });
      return (await response.json()) ?? { status: 0 };
    } catch {
      return { status: timedOut ? "timeout" : 0 };
    } finally {
      clearTimeout(timer);
    }
  }
}

function base64(buffer) {
  let text = "";
  for (const byte of new Uint8Array(buffer)) text += String.fromCharCode(byte);
  return btoa(text);
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
}
