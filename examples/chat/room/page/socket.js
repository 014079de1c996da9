// A client for Phoenix channels (version 2.0.0 of their wire) without dependencies, to copy and to change.
//
//   const socket = new Socket("/socket", { transport: webSocket });        // or longPoll
//   socket.onchange = () => show(socket.state, socket.retryAt);
//   const room = socket.channel("room:tea", () => ({ user: "ann" }));       // asked again at every join
//   room.on("new_msg", (message) => …);
//   room.onjoin = (response) => …;                                          // at first, and after every interruption
//   room.onrefuse = ({ reason }) => …;                                      // the server said no; it is not asked again
//   room.join();
//   socket.connect();
//   await room.push("new_msg", { body: "hello" });                          // throws a PushError
//
// When the connection is lost the socket connects again by itself, and its channels join again.

import { webSocket } from "./transports.js";

const BACKOFF = [100, 500, 1000, 2000, 5000, 10000]; // ms before each attempt to connect or to join again; the last one stays
const STABLE = 5000; // a connection that held for so long starts the table anew
const HEARTBEAT = 20000;
const TIMEOUT = 10000; // for the connection to open, and for a reply

/** Why a push failed. Its status is "error" (the server refused), "timeout" (no reply came), or "closed" (there is no connection). */
export class PushError extends Error {
  constructor(status, response = {}) {
    super(response?.reason ?? { timeout: "no answer", closed: "not connected" }[status] ?? "refused");
    this.status = status;
    this.response = response;
  }
}

/** A connection to a server, kept up until disconnect(). Its state is "closed", "connecting", "connected", or "waiting" until retryAt. */
export class Socket {
  state = "closed";
  retryAt = 0;
  onchange = () => {};
  #path;
  #transport;
  #params;
  #connection = null;
  #channels = new Set();
  #pending = new Map(); // by ref: what waits for a reply
  #ref = 0;
  #failures = 0;
  #retry;
  #beat;

  constructor(path, { transport = webSocket, params = {} } = {}) {
    this.#path = path;
    this.#transport = transport;
    this.#params = params;
    // Whenever the network or the page comes back, do not wait for timers.
    for (const event of ["online", "offline"]) addEventListener(event, () => this.#check());
    addEventListener("visibilitychange", () => document.hidden || this.#check());
  }

  /** Connects, or does so now instead of at retryAt. */
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
    this.#become("connecting");
  }

  /** Leaves the channels and closes. A later connect() joins them again. */
  disconnect() {
    clearTimeout(this.#retry);
    for (const channel of this.#channels) channel.farewell();
    this.#drop();
    this.#failures = 0;
    this.#become("closed");
  }

  /** Goes on by another transport. */
  use(transport) {
    this.disconnect();
    this.#transport = transport;
    this.connect();
  }

  /** A channel for a topic. Its params are an object, or a function that returns it. */
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

  /** Sends, and calls done(status, response) exactly once: with the reply, or with "timeout" or "closed". */
  request(joinRef, ref, topic, event, payload, done, timeout = TIMEOUT) {
    if (this.state !== "connected") return done("closed", {});
    const settle = (status, response) => {
      clearTimeout(timer);
      this.#pending.delete(ref);
      done(status, response);
    };
    const timer = setTimeout(() => {
      settle("timeout", {});
      this.#heartbeat(); // is anybody there?
    }, timeout);
    this.#pending.set(ref, { topic, settle });
    this.send(joinRef, ref, topic, event, payload);
  }

  /** Fails what waits for a reply, on one topic or on all. */
  fail(topic) {
    for (const p of [...this.#pending.values()]) if (topic === undefined || p.topic === topic) p.settle("closed", {});
  }

  #become(state) {
    this.state = state;
    this.onchange();
  }

  #opened() {
    this.#connection.since = Date.now();
    this.#become("connected");
    this.#nextHeartbeat();
    for (const channel of this.#channels) channel.opened();
  }

  #receive([joinRef, ref, topic, event, payload]) {
    if (event === "phx_reply") {
      this.#pending.get(ref)?.settle(payload.status, payload.response);
      return;
    }
    for (const channel of [...this.#channels]) {
      if (channel.topic === topic && (joinRef === null || joinRef === channel.joinRef)) channel.receive(event, payload);
    }
  }

  /** Takes note that a connection is over, and plans the next one. */
  #lost(connection) {
    if (connection !== this.#connection) return;
    if (Date.now() - connection.since > STABLE) this.#failures = 0;
    this.#drop();
    const delay = backoff(this.#failures++);
    this.retryAt = Date.now() + delay;
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#become("waiting");
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

  /** Asks the server for a sign of life. Long polling needs none: its requests fail by themselves. */
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

/** A conversation on one topic. Its state is "closed", "waiting" (to join again), "joining", or "joined". Made by Socket.channel. */
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
    this.#become("waiting");
    if (this.#socket.state !== "connected") return;
    const ref = (this.joinRef = this.#socket.nextRef());
    const params = typeof this.#params === "function" ? this.#params() : this.#params;
    this.#become("joining");
    this.#socket.request(ref, ref, this.topic, "phx_join", params, (status, response) => {
      if (ref !== this.joinRef) return;
      if (status === "ok") {
        this.#failures = 0;
        this.#become("joined");
        this.onjoin(response);
      } else if (status === "error") {
        this.#end();
        this.onrefuse(response);
      } else if (status === "timeout") {
        this.farewell(); // should the server still let us in
        this.#joinLater();
      }
    });
  }

  /** Sends an event. The promise is of the reply's response; it fails with a PushError. */
  push(event, payload = {}, timeout = TIMEOUT) {
    return new Promise((resolve, reject) => {
      const done = (status, response) => (status === "ok" ? resolve(response) : reject(new PushError(status, response)));
      if (this.state !== "joined") return done("closed", {});
      this.#socket.request(this.joinRef, this.#socket.nextRef(), this.topic, event, payload, done, timeout);
    });
  }

  /** Sends an event that is not answered. It is lost if there is no connection. */
  notify(event, payload = {}) {
    if (this.state === "joined") this.#socket.send(this.joinRef, this.#socket.nextRef(), this.topic, event, payload);
  }

  leave() {
    this.farewell();
    this.#end();
    this.#socket.fail(this.topic);
  }

  // What follows is for Socket.

  opened() {
    if (this.state !== "closed") this.join();
  }

  lost() {
    clearTimeout(this.#retry);
    this.joinRef = null;
    if (this.state !== "closed") this.#become("waiting");
  }

  farewell() {
    if (this.joinRef) this.#socket.send(this.joinRef, this.#socket.nextRef(), this.topic, "phx_leave", {});
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
    this.#retry = setTimeout(() => this.join(), backoff(2 + this.#failures++)); // 1 s at first
    this.#become("waiting");
  }

  #end() {
    clearTimeout(this.#retry);
    this.joinRef = null;
    this.#forget();
    this.#become("closed");
  }

  #become(state) {
    this.state = state;
    this.#socket.onchange();
  }
}

/** ms until the next attempt after n failures, a little different for every client, so that they do not all come at once. */
function backoff(n) {
  return BACKOFF[Math.min(n, BACKOFF.length - 1)] * (0.8 + 0.4 * Math.random());
}
