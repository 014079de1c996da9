import { Timer } from "./timer.mjs";

/**
 * The client's end of one topic, made by Socket.channel. Its state is "closed", "joining",
 * "joined", "errored" (it joins again) or "leaving".
 */
export class Channel {
  state = "closed";
  joinedOnce = false;
  pushBuffer = []; // pushes that wait for the join
  #bindings = []; // { event, ref, callback }
  #bindingRef = 0;
  #replies = new Map(); // by ref: pushes without a reply
  #hooks; // of the socket

  constructor(topic, params, socket) {
    this.topic = topic;
    this.params = typeof params === "function" ? params : () => params ?? {};
    this.socket = socket;
    this.timeout = socket.timeout;
    this.rejoinTimer = new Timer(() => socket.isConnected() && this.#rejoin(), socket.rejoinAfterMs);
    this.joinPush = new Push(this, "phx_join", this.params, this.timeout);
    this.joinPush
      .receive("ok", () => this.#joined())
      .receive("error", () => this.#joinLater())
      .receive("timeout", () => this.#joinTimedOut());
    this.#hooks = [
      socket.onError(() => this.rejoinTimer.reset()),
      socket.onOpen(() => {
        this.rejoinTimer.reset();
        if (this.isErrored()) this.#rejoin();
      }),
    ];
  }

  /** Joins now, or when there is a connection. A channel can be joined once. */
  join(timeout = this.timeout) {
    if (this.joinedOnce) throw new Error("tried to join multiple times. 'join' can only be called once per channel");
    this.timeout = timeout;
    this.joinedOnce = true;
    this.#rejoin();
    return this.joinPush;
  }

  /** Leaves. The channel is closed at once, without waiting for the server. */
  leave(timeout = this.timeout) {
    this.rejoinTimer.reset();
    this.joinPush.cancelTimeout();
    this.state = "leaving";
    const leave = new Push(this, "phx_leave", () => ({}), timeout);
    leave.receive("ok", () => {
      this.socket.log("channel", `leave ${this.topic}`);
      this.trigger("phx_close", "leave");
    });
    leave.send();
    leave.trigger("ok", {});
    return leave;
  }

  /** Calls a function with each payload of an event. It returns a reference for off. */
  on(event, callback) {
    const ref = this.#bindingRef++;
    this.#bindings.push({ event, ref, callback });
    return ref;
  }

  /** Removes one function of an event, or all of them. */
  off(event, ref) {
    this.#bindings = this.#bindings.filter((b) => b.event !== event || (ref !== undefined && b.ref !== ref));
  }

  onClose(callback) {
    return this.on("phx_close", callback);
  }

  onError(callback) {
    return this.on("phx_error", (reason) => callback(reason));
  }

  /** May be replaced. It receives every message before the channel and returns the payload. */
  onMessage(_event, payload, _ref, _joinRef) {
    return payload;
  }

  /** Sends an event now, or when the channel has joined. */
  push(event, payload, timeout = this.timeout) {
    if (!this.joinedOnce) {
      throw new Error(`tried to push '${event}' to '${this.topic}' before joining. Use channel.join() before pushing events`);
    }
    const push = new Push(this, event, () => payload || {}, timeout);
    if (this.canPush()) {
      push.send();
    } else {
      push.startTimeout();
      this.pushBuffer.push(push);
    }
    return push;
  }

  canPush() {
    return this.socket.isConnected() && this.isJoined();
  }

  isClosed() {
    return this.state === "closed";
  }

  isErrored() {
    return this.state === "errored";
  }

  isJoined() {
    return this.state === "joined";
  }

  isJoining() {
    return this.state === "joining";
  }

  isLeaving() {
    return this.state === "leaving";
  }

  /** Returns the reference of the current join. */
  joinRef() {
    return this.joinPush.ref;
  }

  // The methods below are for the socket and for pushes.

  /** Reports whether a message is for this channel, and not for an earlier join of its topic. */
  isMember(topic, event, payload, joinRef) {
    if (this.topic !== topic) return false;
    if (!joinRef || joinRef === this.joinRef()) return true;
    this.socket.log("channel", "dropping outdated message", { topic, event, payload, joinRef });
    return false;
  }

  trigger(event, payload, ref, joinRef) {
    const handled = this.onMessage(event, payload, ref, joinRef);
    if (payload && !handled) {
      throw new Error("channel onMessage callbacks must return the payload, modified or unmodified");
    }
    if (event === "phx_reply") this.#reply(ref, handled);
    else if (event === "phx_close") this.#closed();
    else if (event === "phx_error") this.#failed(handled);
    for (const b of this.#bindings.filter((binding) => binding.event === event)) {
      b.callback(handled, ref, joinRef || this.joinRef());
    }
  }

  /** Registers a push for its reply. */
  expect(ref, push) {
    this.#replies.set(ref, push);
  }

  /** Forgets a push that no longer waits. */
  forget(push) {
    this.#replies.delete(push.ref);
    this.pushBuffer = this.pushBuffer.filter((p) => p !== push);
  }

  #reply(ref, { status, response }) {
    const push = this.#replies.get(ref);
    this.#replies.delete(ref);
    push?.trigger(status, response);
  }

  #rejoin() {
    if (this.isLeaving()) return;
    this.socket.leaveOpenTopic(this.topic);
    this.state = "joining";
    this.joinPush.resend(this.timeout);
  }

  #joined() {
    if (this.isLeaving()) return;
    this.state = "joined";
    this.rejoinTimer.reset();
    const pushes = this.pushBuffer;
    this.pushBuffer = [];
    for (const push of pushes) push.send();
  }

  #joinLater() {
    this.state = "errored";
    if (this.socket.isConnected()) this.rejoinTimer.scheduleTimeout();
  }

  #joinTimedOut() {
    this.socket.log("channel", `timeout ${this.topic} (${this.joinRef()})`, this.joinPush.timeout);
    // In case the server accepts the join later.
    const leave = new Push(this, "phx_leave", () => ({}), this.timeout);
    leave.send();
    leave.cancelTimeout();
    this.joinPush.reset();
    this.#joinLater();
  }

  #closed() {
    this.rejoinTimer.reset();
    this.socket.log("channel", `close ${this.topic} ${this.joinRef()}`);
    this.state = "closed";
    this.socket.off(this.#hooks);
    this.socket.remove(this);
  }

  #failed(reason) {
    this.socket.log("channel", `error ${this.topic}`, reason);
    if (this.isJoining()) this.joinPush.reset();
    this.#joinLater();
  }
}

/** A message to the server, made by Channel.push, join and leave, and the reply to it. */
export class Push {
  ref = null;
  sent = false;
  receivedResp = null; // { status, response }
  #hooks = []; // { status, callback }
  #timer;

  /** payload is a function that returns it. */
  constructor(channel, event, payload, timeout) {
    this.channel = channel;
    this.event = event;
    this.payload = payload ?? (() => ({}));
    this.timeout = timeout;
  }

  /** Calls a function when a reply with the status arrives, or when the status is "timeout". */
  receive(status, callback) {
    if (this.#has(status)) callback(this.receivedResp.response);
    this.#hooks.push({ status, callback });
    return this;
  }

  /** Sends the message again, as a new one. */
  resend(timeout) {
    this.timeout = timeout;
    this.reset();
    this.send();
  }

  send() {
    if (this.#has("timeout")) return;
    this.startTimeout();
    this.sent = true;
    const { topic, socket } = this.channel;
    const join_ref = this.channel.joinRef();
    socket.push({ topic, event: this.event, payload: this.payload(), ref: this.ref, join_ref });
  }

  // The methods below are for channels.

  /** Forgets the reply and everything that was sent. */
  reset() {
    this.cancelTimeout();
    this.channel.forget(this);
    this.ref = null;
    this.receivedResp = null;
    this.sent = false;
  }

  /** Takes a new reference, and waits for its reply. */
  startTimeout() {
    this.cancelTimeout();
    this.channel.forget(this);
    this.ref = this.channel.socket.makeRef();
    this.channel.expect(this.ref, this);
    this.#timer = setTimeout(() => this.trigger("timeout", {}), this.timeout);
  }

  cancelTimeout() {
    clearTimeout(this.#timer);
  }

  /** Ends the wait with a status. */
  trigger(status, response) {
    this.cancelTimeout();
    this.channel.forget(this);
    this.receivedResp = { status, response };
    for (const hook of this.#hooks.filter((h) => h.status === status)) hook.callback(response);
  }

  #has(status) {
    return this.receivedResp?.status === status;
  }
}
