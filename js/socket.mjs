// A small client for Phoenix Channels, version 2.0.0 of the protocol. It has no dependencies. It is
// meant to be copied and adapted.
//
//   const socket = new Socket("/socket", { transport: webSocket });    // or longPoll
//   socket.onchange = () => show(socket.state, socket.retryAt);
//   const room = socket.channel("room:tea", () => ({ user: "ann" }));  // called for every join
//   room.on("new_msg", (message) => …);
//   room.onjoin = (response) => …;              // called for every join, also after a reconnect
//   room.onrefuse = ({ reason }) => …;          // the join was rejected; return true to try again
//   room.join();
//   socket.connect();
//   await room.push("new_msg", { body: "hello" });                     // throws a PushError
//
// If the connection is lost, the socket reconnects and its channels join again.

import { webSocket } from "./transports.mjs";

export { Presence } from "./presence.mjs";
export { longPoll, webSocket } from "./transports.mjs";

// All times are in milliseconds.
const BACKOFF = [100, 500, 1000, 2000, 5000, 10000]; // delays before attempts; the last one repeats
const STABLE = 5000; // a connection that lasted longer resets the delay
const HEARTBEAT = 20000;
const TIMEOUT = 10000; // for the connection to open, and for a reply

/**
 * The error of a failed push. Its status is "error" (the server rejected it), "timeout" (no reply
 * arrived) or "closed" (the connection is closed).
 */
export class PushError extends Error {
  constructor(status, response = {}) {
    super(response?.reason ?? { timeout: "no reply", closed: "not connected" }[status] ?? "refused");
    this.status = status;
    this.response = response;
  }
}

/**
 * A connection to a server, which reconnects until disconnect() is called. Its state is "closed",
 * "connecting", "connected", or "waiting" until retryAt.
 */
export class Socket {
  state = "closed";
  retryAt = 0;
  onchange = () => {};
  #path;
  #transport;
  #params;
  #connection = null;
  #channels = new Set();
  #pending = new Map(); // by ref: requests without a reply
  #ref = 0;
  #failures = 0;
  #retry;
  #beat;

  constructor(path, { transport = webSocket, params = {} } = {}) {
    this.#path = path;
    this.#transport = transport;
    this.#params = params;
    // When the network or the page comes back, check the connection immediately.
    for (const event of ["online", "offline"]) addEventListener(event, () => this.#check());
    addEventListener("visibilitychange", () => document.hidden || this.#check());
  }

  /** Connects. If the socket is waiting, it connects now instead of at retryAt. */
  connect() {
    if (this.#connection) return;
    clearTimeout(this.#retry);
    const query = new URLSearchParams({ ...this.#params, vsn: "2.0.0" });
    const url = new URL(`${this.#path}/${this.#transport.path}?${query}`, location.href);
    const connection = this.#transport(url, {
      open: () => connection === this.#connection && this.#opened(),
      message: (text) => connection === this.#connection && this.#receive(JSON.parse(text)),
      close: () => this.#lost(connection),
    });
    this.#connection = connection;
    this.#beat = setTimeout(() => this.#lost(connection), TIMEOUT);
    this.#setState("connecting");
  }

  /** Leaves the channels and closes the connection. A later connect() joins them again. */
  disconnect() {
    clearTimeout(this.#retry);
    for (const channel of this.#channels) channel.sendLeave();
    this.#drop();
    this.#failures = 0;
    this.#setState("closed");
  }

  /** Reconnects with another transport. */
  use(transport) {
    this.disconnect();
    this.#transport = transport;
    this.connect();
  }

  /** Returns a channel for a topic. Its params are an object, or a function that returns one. */
  channel(topic, params = {}) {
    const channel = new Channel(this, topic, params, () => this.#channels.delete(channel));
    this.#channels.add(channel);
    return channel;
  }

  nextRef() {
    return String(++this.#ref);
  }

  send(joinRef, ref, topic, event, payload) {
    if (this.state === "connected") this.#connection.send(JSON.stringify([joinRef, ref, topic, event, payload]));
  }

  /**
   * Sends a message. It calls done(status, response) exactly once: with the reply, or with the
   * status "timeout" or "closed".
   */
  request(joinRef, ref, topic, event, payload, done, timeout = TIMEOUT) {
    if (this.state !== "connected") return done("closed", {});
    const settle = (status, response) => {
      clearTimeout(timer);
      this.#pending.delete(ref);
      done(status, response);
    };
    const timer = setTimeout(() => {
      settle("timeout", {});
      this.#heartbeat(); // checks the connection
    }, timeout);
    this.#pending.set(ref, { topic, settle });
    this.send(joinRef, ref, topic, event, payload);
  }

  /** Ends the requests without a reply, on one topic or on all. */
  fail(topic) {
    for (const p of [...this.#pending.values()]) {
      if (topic === undefined || p.topic === topic) p.settle("closed", {});
    }
  }

  #setState(state) {
    this.state = state;
    this.onchange();
  }

  #opened() {
    this.#connection.since = Date.now();
    this.#setState("connected");
    this.#nextHeartbeat();
    for (const channel of this.#channels) channel.opened();
  }

  #receive([joinRef, ref, topic, event, payload]) {
    if (event === "phx_reply") {
      this.#pending.get(ref)?.settle(payload.status, payload.response);
      return;
    }
    for (const channel of [...this.#channels]) {
      const current = joinRef === null || joinRef === channel.joinRef;
      if (channel.topic === topic && current) channel.receive(event, payload);
    }
  }

  /** Drops a connection that has ended, and schedules the next one. */
  #lost(connection) {
    if (connection !== this.#connection) return;
    if (Date.now() - connection.since > STABLE) this.#failures = 0;
    this.#drop();
    const delay = backoff(this.#failures++);
    this.retryAt = Date.now() + delay;
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#setState("waiting");
  }

  #drop() {
    const connection = this.#connection;
    this.#connection = null;
    this.state = "closed";
    clearTimeout(this.#beat);
    connection?.close();
    this.fail();
    for (const channel of this.#channels) channel.lost();
  }

  #nextHeartbeat() {
    clearTimeout(this.#beat);
    this.#beat = setTimeout(() => this.#heartbeat(), HEARTBEAT);
  }

  /** Sends a heartbeat. Long polling needs none: its requests fail if the server is gone. */
  #heartbeat() {
    if (!this.#transport.heartbeat) return;
    const connection = this.#connection;
    this.request(null, this.nextRef(), "phoenix", "heartbeat", {}, (status) => {
      if (status === "timeout") this.#lost(connection);
      else if (status === "ok") this.#nextHeartbeat();
    });
  }

  #check() {
    if (this.state === "waiting") this.connect();
    else if (this.state === "connected") this.#heartbeat();
  }
}

/**
 * The client's end of one topic, made by Socket.channel. Its state is "closed", "waiting" (to join
 * again), "joining" or "joined".
 */
class Channel {
  state = "closed";
  joinRef = null;
  onjoin = () => {};
  onrefuse = () => {};
  onclose = () => {};
  #socket;
  #params;
  #forget;
  #handlers = new Map();
  #failures = 0;
  #retry;

  constructor(socket, topic, params, forget) {
    this.topic = topic;
    this.#socket = socket;
    this.#params = params;
    this.#forget = forget;
  }

  on(event, handler) {
    this.#handlers.set(event, handler);
    return this;
  }

  /** Joins now, or as soon as there is a connection. */
  join() {
    clearTimeout(this.#retry);
    this.#setState("waiting");
    if (this.#socket.state !== "connected") return;
    const ref = (this.joinRef = this.#socket.nextRef());
    const params = typeof this.#params === "function" ? this.#params() : this.#params;
    this.#setState("joining");
    this.#socket.request(ref, ref, this.topic, "phx_join", params, (status, response) => {
      if (ref !== this.joinRef) return;
      if (status === "ok") {
        this.#failures = 0;
        this.#setState("joined");
        this.onjoin(response);
      } else if (status === "error") {
        this.joinRef = null;
        if (this.onrefuse(response)) this.#joinLater();
        else this.#end();
      } else if (status === "timeout") {
        this.sendLeave(); // in case the server accepts the join later
        this.#joinLater();
      }
    });
  }

  /** Sends an event. The promise resolves to the reply's response or rejects with a PushError. */
  push(event, payload = {}, timeout = TIMEOUT) {
    return new Promise((resolve, reject) => {
      const done = (status, response) => {
        if (status === "ok") resolve(response);
        else reject(new PushError(status, response));
      };
      if (this.state !== "joined") return done("closed", {});
      const ref = this.#socket.nextRef();
      this.#socket.request(this.joinRef, ref, this.topic, event, payload, done, timeout);
    });
  }

  /** Sends an event without a reply. The event is lost if the channel is not joined. */
  notify(event, payload = {}) {
    if (this.state !== "joined") return;
    this.#socket.send(this.joinRef, this.#socket.nextRef(), this.topic, event, payload);
  }

  leave() {
    this.sendLeave();
    this.#end();
    this.#socket.fail(this.topic);
  }

  // The methods below are called by Socket.

  opened() {
    if (this.state !== "closed") this.join();
  }

  lost() {
    clearTimeout(this.#retry);
    this.joinRef = null;
    if (this.state !== "closed") this.#setState("waiting");
  }

  sendLeave() {
    if (!this.joinRef) return;
    this.#socket.send(this.joinRef, this.#socket.nextRef(), this.topic, "phx_leave", {});
  }

  receive(event, payload) {
    if (event === "phx_error") {
      this.#socket.fail(this.topic);
      this.#joinLater();
    } else if (event === "phx_close") {
      this.#end();
      this.#socket.fail(this.topic);
      this.onclose();
    } else if (this.state === "joined") {
      this.#handlers.get(event)?.(payload);
    }
  }

  #joinLater() {
    this.joinRef = null;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.join(), backoff(2 + this.#failures++)); // first after 1 s
    this.#setState("waiting");
  }

  #end() {
    clearTimeout(this.#retry);
    this.joinRef = null;
    this.#forget();
    this.#setState("closed");
  }

  #setState(state) {
    this.state = state;
    this.#socket.onchange();
  }
}

/** Returns the delay after n failures, with jitter so that clients do not reconnect at once. */
function backoff(n) {
  return BACKOFF[Math.min(n, BACKOFF.length - 1)] * (0.8 + 0.4 * Math.random());
}
