// A socket with an identity, tokens, and the server's time. Part of bennu.mjs.

import { call, PushError, randomId, valueOf } from "./push.mjs";

const SAMPLES = 8; // of the server's time; the best one counts
const FIRST_SAMPLES = 2; // a second apart, after the one of the join
const SAMPLE_MS = 10 * 60 * 1000; // between the later ones
const MAX_SAMPLE_AGE = 60 * 60 * 1000; // at a new connection
const MAX_ADVICE = 5 * 60 * 1000;
const TOKEN_RETRY = [1000, 2000, 5000, 10000]; // the last one repeats
const RECONNECT = [10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000]; // as phoenix.js does

// Error replies to a token that say nothing about the token.
const TOKEN_AGAIN = new Set(["unavailable", "rate", "timeout"]);

/** The local time, which steps of the machine's clock do not move. */
const localTime = () => performance.timeOrigin + performance.now();

/** A timer that does not keep a program alive. */
const later = (f, ms) => {
  const timer = setTimeout(f, ms);
  timer.unref?.();
  return timer;
};

const pause = (ms) => new Promise((resolve) => later(resolve, ms));

/**
 * Makes a socket of a class with the API of phoenix.js, connects it, and joins its topic $socket.
 * Options that this module does not use are passed to the class.
 */
export function connect(Socket, url, options = {}) {
  return new Connection(Socket, url, options);
}

class Connection {
  /** The socket, for channels. */
  socket;
  /** The id, client, version and limits that the server has sent; null before. */
  info = null;
  /** The state of the authentication: {state, expiresAt?, claims?, reason?}. */
  auth = { state: "unknown" };
  #me; // the channel $socket
  #joined = false;
  #alone = false; // the server has no $socket
  #fetchToken = null;
  #token;
  #loggedOut = false;
  #closed = false;
  #opened = false; // the connection was opened
  #renewing = null;
  #fetchedAt = -Infinity;
  #onAuth;
  #onDenied;
  #order = 0;
  #advice = 0;
  #samples = []; // {offset, error, at}
  #lastTime = 0;
  #sampler;
  #waiting = []; // for the next join of $socket: {resolve, reject}

  constructor(Socket, url, options) {
    const { id = randomId(), token, onAuth, onDenied, params = {}, reconnectAfterMs, ...rest } = options;
    this.#onAuth = onAuth ?? (() => {});
    this.#onDenied = onDenied ?? (() => {});
    if (typeof token === "function") this.#fetchToken = token;
    else this.#token = token;
    // Without the option there is no token at all: some servers take no subprotocol.
    if (token !== undefined) rest.authToken = () => this.#token ?? "";
    this.socket = new Socket(url, {
      ...rest,
      params: () => ({ ...valueOf(params), $client: id, $order: this.#nextOrder() }),
      reconnectAfterMs: (tries) => {
        const advice = this.#advice;
        this.#advice = 0; // it is for one attempt
        return advice || (reconnectAfterMs ? reconnectAfterMs(tries) : (RECONNECT[tries - 1] ?? RECONNECT.at(-1)));
      },
    });
    let sent = 0;
    this.#me = this.socket.channel("$socket", () => {
      sent = localTime();
      return {};
    });
    this.#me.on("advice", ({ after_ms }) => { this.#advice = Math.min(after_ms, MAX_ADVICE); });
    this.#me.on("auth", (grant) => this.#granted(grant));
    this.#me.on("expiring", () => this.#expires("expiring"));
    this.#me.on("expired", () => this.#expires("expired"));
    this.#me.on("denied", ({ reason }) => this.#deny(reason));
    this.#me.onError(() => { this.#joined = false; });
    this.#me
      .join()
      .receive("ok", (reply) => this.#accepted(reply, sent))
      .receive("error", ({ reason } = {}) => {
        if (reason !== "unmatched topic") return;
        this.#me.leave(); // the server has no $socket
        this.#alone = true;
        this.#settle(new PushError("login", { reason }));
      });
    this.socket.onOpen(() => { this.#opened = true; });
    this.socket.onClose((event) => this.#lost(event?.code));
    this.#start();
  }

  /** The server's time in milliseconds since 1970. It never goes back. */
  now() {
    const { offset = 0 } = this.#best() ?? {};
    this.#lastTime = Math.max(this.#lastTime, localTime() + offset);
    return this.#lastTime;
  }

  /** How far the server's clock is ahead, and the maximum error; null if it is not known. */
  get timeOffset() {
    const best = this.#best();
    return best ? { offset: best.offset, error: best.error } : null;
  }

  /**
   * Logs in with a token, on the open connection or by the next one. The promise resolves to the
   * claims, and rejects with a PushError if the token is refused. Then nothing has changed.
   */
  async login(token) {
    this.#loggedOut = false;
    if (this.#joined) {
      this.#granted(await call(this.#me, "token", { token }));
      this.#token = token;
      return this.auth.claims;
    }
    this.#token = token;
    if (this.#alone) throw new PushError("login", { reason: "unmatched topic" });
    const denied = this.auth.state === "denied";
    this.auth = { state: "unknown" };
    const joined = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    // The connection that was denied may be closing.
    if (denied) this.socket.disconnect(() => this.socket.connect());
    else this.socket.connect();
    return joined;
  }

  /** Logs out. Channels that need the user end. No token is fetched until the next login. */
  async logout() {
    this.#loggedOut = true;
    this.#token = undefined;
    if (this.#joined) this.#granted(await call(this.#me, "token", { token: null }));
  }

  /**
   * Sets a last will: an event that the server broadcasts on a topic when this connection has ended
   * for `after` ms, unless the page is back. The topic must be joined. The promise resolves to the
   * will's id. A will belongs to one connection, so it is set again after each join of the topic:
   * room.join().receive("ok", () => connection.will(room.topic, "gone", {}))
   */
  async will(topic, event, payload = {}, { after, lostOnly } = {}) {
    const request = { topic, event, payload, after_ms: after, lost_only: lostOnly };
    const { will } = await call(this.#me, "will", request);
    return will;
  }

  /** Deletes a will, or all of this connection. The promise resolves to their number. */
  async unwill(id) {
    const { count } = await call(this.#me, "unwill", { will: id });
    return count;
  }

  /** Disconnects for good. */
  close() {
    this.#closed = true;
    clearTimeout(this.#sampler);
    this.socket.disconnect();
  }

  async #start() {
    if (this.#fetchToken) await this.#renew();
    if (!this.#closed) this.socket.connect();
  }

  #nextOrder() {
    this.#order = Math.max(this.#order + 1, Date.now());
    return this.#order;
  }

  #accepted({ auth, now, ...info }, sent) {
    this.#joined = true;
    this.info = info;
    const received = localTime();
    this.#samples = this.#samples.filter(({ at }) => received - at < MAX_SAMPLE_AGE);
    if (now !== undefined) this.#sample(sent, received, now);
    this.#sampleLater(FIRST_SAMPLES);
    if (auth?.state === "denied") this.#deny(auth.reason);
    else if (auth) this.#granted(auth);
    this.#settle(null);
  }

  #settle(error) {
    for (const { resolve, reject } of this.#waiting.splice(0)) {
      if (error) reject(error);
      else resolve(this.auth.claims);
    }
  }

  #sample(sent, received, now) {
    const error = (received - sent) / 2;
    this.#samples.push({ offset: now + error - received, error, at: received });
    this.#samples.splice(0, this.#samples.length - SAMPLES);
  }

  #best() {
    return this.#samples.reduce((best, s) => (best && best.error <= s.error ? best : s), undefined);
  }

  /** Compares the clocks `quickly` times in the next seconds, and then now and then. */
  #sampleLater(quickly) {
    clearTimeout(this.#sampler);
    this.#sampler = later(async () => {
      const sent = localTime();
      try {
        const { now } = await call(this.#me, "time");
        this.#sample(sent, localTime(), now);
      } catch {
        // Without a connection; the next join has a sample.
      }
      if (this.#joined && !this.#closed) this.#sampleLater(quickly - 1);
    }, quickly > 0 ? 1000 : SAMPLE_MS);
  }

  #granted({ state, expires_in: ms, claims, token }) {
    if (token) this.#token = token;
    this.auth = { state, claims, expiresAt: ms === undefined ? undefined : localTime() + ms };
    this.#onAuth(this.auth);
  }

  #expires(state) {
    this.auth = { ...this.auth, state };
    this.#onAuth(this.auth);
    this.#renew();
  }

  /** The connection was lost or could not be opened. phoenix.js tries again. */
  #lost(code) {
    const opened = this.#opened;
    this.#opened = this.#joined = false;
    if (code === 4403) this.#deny("denied");
    else if (code === 4401 && (this.#loggedOut || !this.#fetchToken)) this.#deny("token expired");
    // Without an open connection, the server may have refused the token.
    else if (code === 4401 || !opened || localTime() > this.auth.expiresAt) this.#renew();
  }

  /** The server refuses these credentials for good. phoenix.js would reconnect nevertheless. */
  #deny(reason) {
    if (this.auth.state === "denied") return;
    this.auth = { state: "denied", reason };
    this.#joined = false;
    this.socket.disconnect();
    this.#settle(new PushError("login", { reason })); // before the page logs in again
    this.#onAuth(this.auth);
    this.#onDenied(reason);
  }

  /** Fetches a token for the open connection, or for the next one. There is one call at a time. */
  #renew() {
    if (this.#fetchToken && !this.#loggedOut) {
      this.#renewing ??= this.#fetch().finally(() => { this.#renewing = null; });
    }
    return this.#renewing;
  }

  async #fetch() {
    for (let tries = 0; !this.#closed && !this.#loggedOut && this.auth.state !== "denied"; tries++) {
      try {
        // Attempts to connect may come quickly.
        const wait = this.#fetchedAt + TOKEN_RETRY[0] - performance.now();
        if (wait > 0) await pause(wait);
        this.#fetchedAt = performance.now();
        const token = await this.#fetchToken();
        if (this.#loggedOut) return;
        this.#token = token;
        if (!this.#joined) return; // the next connection has it
        this.#granted(await call(this.#me, "token", { token }));
        return;
      } catch (error) {
        if (error instanceof PushError && !TOKEN_AGAIN.has(error.reason)) {
          // The old grant stays until it expires.
          this.auth = { ...this.auth, reason: error.reason };
          this.#onAuth(this.auth);
          return;
        }
      }
      await pause(TOKEN_RETRY[tries] ?? TOKEN_RETRY.at(-1));
    }
  }
}
