// A client of Phoenix Channels, version 2.0.0 of the protocol, with the API of phoenix.js. It is
// for pages without a bundler, and has no dependencies.
//
//   import { Presence, Socket } from "./socket.mjs";
//
//   const socket = new Socket("/socket", { params: { token } });
//   socket.connect();
//   const room = socket.channel("room:tea", { user: "ann" });
//   room.on("new_msg", (message) => …);
//   room.join().receive("ok", (response) => …).receive("error", ({ reason }) => …);
//   room.push("new_msg", { body: "hello" }).receive("ok", () => …);
//
// If the connection is lost, the socket reconnects and its channels join again. README.md lists the
// API.

import { Channel } from "./channel.mjs";
import { Serializer } from "./codec.mjs";
import { LongPoll } from "./longpoll.mjs";
import { Timer } from "./timer.mjs";

export { Channel, Push } from "./channel.mjs";
export { Serializer } from "./codec.mjs";
export { LongPoll } from "./longpoll.mjs";
export { Presence } from "./presence.mjs";

// All times are in milliseconds.
const TIMEOUT = 10000; // for a reply
const HEARTBEAT = 30000; // between heartbeats, and for their replies
const LONG_POLL_TIMEOUT = 20000; // for a request
const RECONNECT = [10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000]; // the last one repeats
const REJOIN = [1000, 2000, 5000, 10000];
const CLOSE_STEP = 150; // waits for a connection to close grow by this
const CLOSE_STEPS = 4;

const STATES = ["connecting", "open", "closing", "closed"]; // by readyState
const FALLBACK = "phx:fallback:LongPoll"; // key of the session storage

/** A connection to a server, which reconnects until it is disconnected. */
export class Socket {
  channels = [];
  sendBuffer = []; // messages that wait for the connection
  conn = null;
  ref = 0;
  establishedConnections = 0;
  primaryPassedHealthCheck = false; // the transport before the fallback has worked
  #callbacks = { open: [], close: [], error: [], message: [] };
  #clean = true; // the page has closed the connection, or never opened one
  #closing = null; // the connection that disconnect() is closing
  #hidden = false; // the page
  #clock = 0; // counts the calls that connect or disconnect
  #reconnect;
  #heartbeat; // the timer for the next one, or for its reply
  #pendingHeartbeat = null; // its reference
  #fallback; // the timer

  constructor(endPoint, options = {}) {
    const closure = (value) => (typeof value === "function" ? value : () => value);
    this.endPoint = `${endPoint}/websocket`;
    this.params = closure(options.params ?? {});
    this.authToken = options.authToken && closure(options.authToken);
    this.transport = options.transport ?? globalThis.WebSocket ?? LongPoll;
    this.timeout = options.timeout ?? TIMEOUT;
    this.longPollFallbackMs = options.longPollFallbackMs;
    this.longpollerTimeout = options.longpollerTimeout ?? LONG_POLL_TIMEOUT;
    this.heartbeatIntervalMs = options.heartbeatIntervalMs ?? HEARTBEAT;
    this.reconnectAfterMs = options.reconnectAfterMs ?? ((tries) => RECONNECT[tries - 1] ?? RECONNECT.at(-1));
    this.rejoinAfterMs = options.rejoinAfterMs ?? ((tries) => REJOIN[tries - 1] ?? REJOIN.at(-1));
    this.binaryType = options.binaryType ?? "arraybuffer";
    this.vsn = options.vsn ?? "2.0.0";
    this.logger = options.logger ?? null;
    if (!this.logger && options.debug) this.logger = (kind, text, data) => console.log(`${kind}: ${text}`, data);
    const custom = this.transport !== LongPoll;
    this.encode = (custom && options.encode) || Serializer.encode;
    this.decode = (custom && options.decode) || Serializer.decode;
    this.sessionStore = options.sessionStorage ?? sessionStore();
    this.#reconnect = new Timer(() => {
      if (this.#hidden) {
        this.log("transport", "Not reconnecting as page is hidden!");
        this.#teardown();
      } else {
        this.#replace();
      }
    }, this.reconnectAfterMs);
    this.#followPage();
  }

  // ---- Connecting ----

  /** Connects, unless there is a connection. The argument is deprecated and replaces the params. */
  connect(params) {
    if (params) this.params = typeof params === "function" ? params : () => params;
    if (this.conn && this.conn !== this.#closing) return;
    this.#clock++;
    if (this.conn) {
      this.conn = null;
      this.#failChannels("connection_closed");
    }
    if (this.longPollFallbackMs && this.transport !== LongPoll) this.#connectWithFallback();
    else this.#open();
  }

  /** Closes the connection. The callback is called when it is closed, or after 1.5 s. */
  disconnect(callback, code, reason) {
    this.#clock++;
    this.#clean = true;
    clearTimeout(this.#fallback);
    this.#reconnect.reset();
    this.#closing = this.conn;
    this.#teardown(callback, code, reason);
  }

  /** Closes the connection and changes the transport. A later connect() uses it. */
  replaceTransport(transport) {
    const conn = this.conn;
    this.#clock++;
    this.#clean = true;
    clearTimeout(this.#fallback);
    this.#reconnect.reset();
    this.#endHeartbeat();
    this.conn = null;
    this.transport = transport;
    conn?.close();
    this.#failChannels("connection_closed");
  }

  /** Returns the address of the connection, with the params and the version. */
  endPointURL() {
    const query = [...queryOf(this.params()), ...queryOf({ vsn: this.vsn })].join("&");
    const url = this.endPoint + (this.endPoint.includes("?") ? "&" : "?") + query;
    if (url[0] !== "/") return url;
    if (url[1] === "/") return `${this.protocol()}:${url}`;
    return `${this.protocol()}://${location.host}${url}`;
  }

  protocol() {
    return location.protocol.startsWith("https") ? "wss" : "ws";
  }

  isConnected() {
    return this.connectionState() === "open";
  }

  /** Returns "connecting", "open", "closing" or "closed". */
  connectionState() {
    return STATES[this.conn?.readyState] ?? "closed";
  }

  // ---- Callbacks ----

  onOpen(callback) {
    return this.#register("open", callback);
  }

  /** callback(event), with the code and the reason of the close */
  onClose(callback) {
    return this.#register("close", callback);
  }

  /** callback(error, transport, number of connections that were open so far) */
  onError(callback) {
    return this.#register("error", callback);
  }

  /** callback({ topic, event, payload, ref, join_ref }) */
  onMessage(callback) {
    return this.#register("message", callback);
  }

  /** Removes callbacks by the references that the functions above returned. */
  off(refs) {
    for (const [kind, list] of Object.entries(this.#callbacks)) {
      this.#callbacks[kind] = list.filter(({ ref }) => !refs.includes(ref));
    }
  }

  // ---- Channels and messages ----

  /** Returns a new channel. Its params are an object, or a function called for each join. */
  channel(topic, params = {}) {
    const channel = new Channel(topic, params, this);
    this.channels.push(channel);
    return channel;
  }

  /** Forgets a channel. */
  remove(channel) {
    this.channels = this.channels.filter((c) => c !== channel);
  }

  /** Sends { topic, event, payload, ref, join_ref } now, or when there is a connection. */
  push(message) {
    if (this.isConnected()) this.#send(message);
    else this.sendBuffer.push(message);
  }

  /** Returns a new reference. */
  makeRef() {
    this.ref = this.ref < Number.MAX_SAFE_INTEGER ? this.ref + 1 : 0;
    return String(this.ref);
  }

  /** Measures the time for a message and its reply. It returns false without a connection. */
  ping(callback) {
    if (!this.isConnected()) return false;
    const ref = this.makeRef();
    const start = Date.now();
    const registered = this.onMessage((message) => {
      if (message.ref !== ref) return;
      this.off([registered]);
      callback(Date.now() - start);
    });
    this.push({ topic: "phoenix", event: "heartbeat", payload: {}, ref });
    return true;
  }

  log(kind, text, data) {
    this.logger?.(kind, text, data);
  }

  hasLogger() {
    return this.logger !== null;
  }

  /** Leaves the channel that has joined a topic, before another one joins it. */
  leaveOpenTopic(topic) {
    const channel = this.channels.find((c) => c.topic === topic && (c.isJoined() || c.isJoining()));
    if (!channel) return;
    this.log("transport", `leaving duplicate topic "${topic}"`);
    channel.leave();
  }

  #register(kind, callback) {
    const ref = this.makeRef();
    this.#callbacks[kind].push({ ref, callback });
    return ref;
  }

  #call(kind, ...args) {
    for (const { callback } of [...this.#callbacks[kind]]) callback(...args);
  }

  // ---- One connection ----

  #open() {
    this.#clean = false;
    const token = this.authToken?.();
    const protocols = token ? ["phoenix", LongPoll.AUTH_PREFIX + btoa(token).replace(/=/g, "")] : undefined;
    const conn = new this.transport(this.endPointURL(), protocols);
    // A connection that was replaced may still report its end, and changes nothing then.
    const current = () => this.conn === conn;
    this.conn = conn;
    conn.binaryType = this.binaryType;
    conn.timeout = this.longpollerTimeout;
    conn.onopen = () => current() && this.#opened();
    conn.onerror = (error) => current() && this.#failed(conn, error);
    conn.onmessage = ({ data }) => current() && this.#received(data);
    conn.onclose = (event) => {
      if (current()) this.#closed(event);
      else this.#call("close", event);
    };
  }

  #opened() {
    this.log("transport", `${this.transport.name} connected to ${this.endPointURL()}`);
    this.#clean = false;
    this.establishedConnections++;
    const messages = this.sendBuffer;
    this.sendBuffer = [];
    for (const message of messages) if (this.#isCurrent(message)) this.#send(message);
    this.#reconnect.reset();
    this.#endHeartbeat();
    this.#nextHeartbeat();
    this.#call("open");
  }

  #failed(conn, error) {
    this.log("transport", "error", error);
    const established = this.establishedConnections;
    this.#call("error", error, this.transport, established);
    // A callback may have replaced the connection.
    if (this.conn === conn || established > 0) this.#failChannels("connection_error");
  }

  #closed(event) {
    this.log("transport", "close", event);
    this.conn.onclose = () => {};
    this.#failChannels("connection_closed");
    this.#endHeartbeat();
    if (!this.#clean && event.code !== 1000) this.#reconnect.scheduleTimeout();
    this.#call("close", event);
  }

  #received(data) {
    this.decode(data, (message) => {
      const { topic, event, payload, ref, join_ref } = message;
      if (ref && ref === this.#pendingHeartbeat) {
        this.#endHeartbeat();
        this.#nextHeartbeat();
      }
      this.log("receive", `${payload?.status ?? ""} ${topic} ${event} ${ref ? `(${ref})` : ""}`, payload);
      for (const channel of [...this.channels]) {
        if (channel.isMember(topic, event, payload, join_ref)) channel.trigger(event, payload, ref, join_ref);
      }
      this.#call("message", message);
    });
  }

  #send(message) {
    const { topic, event, payload, ref, join_ref } = message;
    this.log("push", `${topic} ${event} (${join_ref}, ${ref})`, payload);
    this.encode(message, (frame) => this.conn.send(frame));
  }

  /** Reports whether a message still makes sense: the join to which it belongs was not given up. */
  #isCurrent({ join_ref }) {
    return !join_ref || this.channels.some((channel) => channel.joinRef() === join_ref);
  }

  #failChannels(reason) {
    for (const channel of [...this.channels]) {
      if (channel.isErrored() || channel.isLeaving() || channel.isClosed()) continue;
      channel.trigger("phx_error", { source: "transport", reason });
    }
  }

  /** Closes the connection and connects, unless the page connects or disconnects meanwhile. */
  #replace() {
    const clock = this.#clock;
    this.#teardown(() => clock === this.#clock && this.connect());
  }

  /** Closes the connection, waits until that is done, and forgets the connection. */
  #teardown(callback = () => {}, code, reason = "") {
    const conn = this.conn;
    if (!conn) {
      this.#closing = null;
      callback();
      return;
    }
    until(() => !(conn.bufferedAmount > 0), () => {
      if (code) conn.close(code, reason);
      else conn.close();
      until(() => conn.readyState === STATES.indexOf("closed"), () => {
        conn.onopen = conn.onerror = conn.onmessage = conn.onclose = () => {};
        if (this.conn === conn) {
          this.conn = null;
          this.#failChannels("connection_closed");
          this.#endHeartbeat();
        }
        if (this.#closing === conn) this.#closing = null;
        callback();
      });
    });
  }

  // ---- Heartbeats ----

  #nextHeartbeat() {
    if (this.conn.skipHeartbeat) return;
    this.#heartbeat = setTimeout(() => {
      if (!this.isConnected()) return;
      this.#pendingHeartbeat = this.makeRef();
      this.push({ topic: "phoenix", event: "heartbeat", payload: {}, ref: this.#pendingHeartbeat });
      this.#heartbeat = setTimeout(() => this.#heartbeatTimedOut(), this.heartbeatIntervalMs);
    }, this.heartbeatIntervalMs);
  }

  #endHeartbeat() {
    clearTimeout(this.#heartbeat);
    this.#pendingHeartbeat = null;
  }

  #heartbeatTimedOut() {
    this.#endHeartbeat();
    this.log("transport", "heartbeat timeout. Attempting to re-establish connection");
    this.#failChannels("heartbeat_timeout");
    this.#clean = false;
    this.#teardown(() => this.#clean || this.#reconnect.scheduleTimeout(), 1000, "heartbeat timeout");
  }

  // ---- Fallback to long polling ----

  /**
   * Connects, and falls back to long polling if the transport fails, or has not answered a ping
   * within the time. The session storage remembers a transport that never worked.
   */
  #connectWithFallback() {
    let fallen = false;
    const fallBack = (reason) => {
      this.off(hooks);
      if (fallen) return;
      fallen = true;
      this.log("transport", "falling back to LongPoll...", reason);
      this.replaceTransport(LongPoll);
      const opened = this.onOpen(() => {
        this.off([opened]);
        if (!this.primaryPassedHealthCheck) this.sessionStore.setItem(FALLBACK, "true");
        this.log("transport", "established LongPoll fallback");
      });
      this.connect();
    };
    const hooks = [];
    if (this.sessionStore.getItem(FALLBACK)) return fallBack("memorized");
    const wait = () => {
      clearTimeout(this.#fallback);
      this.#fallback = setTimeout(fallBack, this.longPollFallbackMs, "timeout");
    };
    wait();
    hooks.push(
      this.onError((error, _transport, established) => {
        if (established === 0) fallBack(error);
      }),
      this.onOpen(() => {
        wait();
        this.ping((rtt) => {
          this.log("transport", "connected to primary after", rtt);
          this.primaryPassedHealthCheck = true;
          this.off(hooks);
          clearTimeout(this.#fallback);
        });
      }),
    );
    this.#open();
  }

  // ---- The page ----

  /** A page that is left or hidden does not reconnect. It does when it comes back. */
  #followPage() {
    let left; // the clock when the page was left
    globalThis.addEventListener?.("pagehide", () => {
      if (!this.conn) return;
      this.disconnect();
      left = this.#clock;
    });
    globalThis.addEventListener?.("pageshow", () => {
      if (left === this.#clock) this.connect();
      left = undefined;
    });
    globalThis.addEventListener?.("visibilitychange", () => {
      this.#hidden = document.visibilityState === "hidden";
      if (!this.#hidden && !this.isConnected() && !this.#clean) this.#replace();
    });
  }
}

/** Calls done when the condition is true, or after 1.5 s. */
function until(condition, done, step = 1) {
  if (step > CLOSE_STEPS || condition()) done();
  else setTimeout(until, CLOSE_STEP * step, condition, done, step + 1);
}

/** Encodes an object as the parts of a query. Objects in it become a[b]=c. */
function queryOf(object, parent) {
  return Object.entries(object ?? {}).flatMap(([key, value]) => {
    const name = parent ? `${parent}[${key}]` : key;
    if (typeof value === "object") return queryOf(value, name);
    return [`${encodeURIComponent(name)}=${encodeURIComponent(value)}`];
  });
}

/** Returns the session storage. A page may have none, or be forbidden to use it. */
function sessionStore() {
  try {
    if (globalThis.sessionStorage) return globalThis.sessionStorage;
  } catch {
    // forbidden
  }
  const items = new Map();
  return {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, value),
    removeItem: (key) => items.delete(key),
  };
}
