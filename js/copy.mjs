// The copy of a shared object, and the writes to it. Part of bennu.mjs; state.mjs has the API.

import { PushError, randomId } from "./push.mjs";

// A store remembers the ids of at least 1,000 writes of the last 10 minutes. A write is not
// repeated after this time, or if the object is so many revisions further.
const REPEAT_MS = 9 * 60 * 1000;
const REPEAT_REVS = 500;

const MAX_CRASHES = 3; // of the server's channel, by one write
const MIN_PAUSE = 50; // before a repetition, doubled up to MAX_PAUSE
const MAX_PAUSE = 2000;
const CONFLICT_PAUSE = 20; // bounds the random pause after a conflict

// Reasons of refused joins that phoenix.js should repeat. All others end a copy that is opened.
const TRANSIENT = new Set([
  "unavailable", "history unavailable", "join crashed", "token expired", "denied", "rate",
  "too many joins", "too many messages",
]);

const epoch = (position) => position?.split("-")[0];
const revision = (position) => Number(position?.split("-")[1] ?? 0);

/** Compares keys as the server does, which compares their bytes. */
export function compareKeys(a, b) {
  // Halves of characters beyond U+FFFF are greater than all other units.
  const rank = (unit) => (unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit);
  for (let i = 0; i < a.length && i < b.length; i++) {
    if (a[i] !== b[i]) return rank(a.charCodeAt(i)) - rank(b.charCodeAt(i));
  }
  return a.length - b.length;
}

const isObject = (v) => v !== null && typeof v === "object";

/** Applies a JSON Merge Patch (RFC 7396), without values that the server makes, such as $inc. */
function mergePatch(value, patch) {
  if (!isObject(patch) || Array.isArray(patch)) return patch;
  const result = isObject(value) && !Array.isArray(value) ? { ...value } : {};
  for (const [name, member] of Object.entries(patch)) {
    if (isServerValue(member)) continue;
    if (member === null) delete result[name];
    else result[name] = mergePatch(result[name], member);
  }
  return result;
}

/** The effect of putting a value. */
export const predicted = (value) => (isPredictable(value) ? () => value : (old) => old);

/** Whether the server makes no part of a value, so that the page can show it already. */
const isPredictable = (v) =>
  !isObject(v) || (!isServerValue(v) && Object.values(v).every(isPredictable));

const isServerValue = (v) => isObject(v) && Object.keys(v).some((name) => name.startsWith("$"));

/**
 * The copy of an object. The server has sent `items`. `pending` are the writes of this page that
 * `items` does not have yet, in order; `view` shows the items with their effect.
 *
 * A write is pushed while the copy is synced. If its reply was lost, it is repeated with the same
 * $id, so that the server applies it once. It is pending until the items have its revision. A write
 * that depends on the revision of an item waits for the earlier ones of that item.
 */
export class Copy {
  items = new Map(); // by key: {value, rev}
  pending = [];
  synced = false;
  ended = null;
  #kind;
  #object; // what the page has
  #onChange;
  #onEnd;
  #settle; // the functions that settle `opened`
  #socket;
  #range;
  #position;
  #live = false; // the last join was answered
  #joins = 0;
  #resets = 0;
  #part = false; // a window or a query: without positions
  #maxValue = 0;
  #ids = randomId().slice(0, 16);
  #nextId = 0;
  #changed = new Set(); // keys, since the last onChange
  #sorted = null; // the keys of the view

  constructor(socket, topic, kind, options = {}, Kind) {
    const { mode, value, ttl, prefix, from, to, first, last, query, args, onChange, onEnd } = options;
    const keys = { prefix, from, to, first, last };
    this.#kind = kind;
    this.#socket = socket;
    this.#range = keys;
    this.#onChange = onChange ?? (() => {});
    this.#onEnd = onEnd ?? (() => {});
    const params = {
      keys: Object.values(keys).some((v) => v !== undefined) ? keys : undefined,
      query: query === undefined ? undefined : { name: query, args },
    };
    this.channel = socket.channel(topic, () => {
      this.#live = false;
      // This page has made the object by its first join.
      const made = mode === "new" && this.#joins > 0;
      const how = made ? { mode: "existing" } : { mode, value, ttl };
      return { $state: { since: this.#position, ...how, ...params } };
    });
    this.opened = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
    this.opened.catch(() => {}); // a page that does not wait is notified by onEnd
    this.#object = new Kind(this);
    for (const event of ["put", "del", "batch", "items", "synced"]) {
      this.channel.on(event, (payload) => this.#receive(event, payload));
    }
    this.channel.onError(() => this.#lost());
    this.channel.onClose((payload) => this.#finish(this.#error(payload?.reason ?? "closed")));
    this.channel
      .join()
      .receive("ok", (reply) => this.#joined(reply?.$state))
      .receive("error", (response) => this.#refused(response));
  }

  /** The value of a key with the effect of pending writes, or undefined. */
  view(key) {
    let value = this.items.get(key)?.value;
    for (const w of this.pending) if (w.keys.includes(key)) value = w.apply(value, key);
    return value;
  }

  /** The keys of the view in order. */
  keys() {
    if (this.#sorted === null) {
      const all = new Set(this.items.keys());
      for (const w of this.pending) {
        for (const key of w.keys) {
          if (this.view(key) === undefined) all.delete(key);
          else all.add(key);
        }
      }
      this.#sorted = [...all].sort(compareKeys);
    }
    return [...this.#sorted];
  }

  put(key, value, options = {}) {
    return this.write("put", [key], { key, value, ...options }, { apply: predicted(value) });
  }

  delete(key, options = {}) {
    return this.write("del", [key], { key, ...options }, { apply: () => undefined });
  }

  merge(key, patch) {
    const apply = (value) => mergePatch(value, patch);
    return this.write("merge", [key], { key, value: patch }, { apply });
  }

  update(key, f) {
    const change = (value) => f(structuredClone(value));
    let sent; // the revision that the value sent was made from
    return this.write("put", [key], null, {
      conditional: true,
      make: (conflict) => {
        const item = this.items.get(key);
        const isNewer = conflict && !(item?.rev > conflict.rev);
        const { rev, value } = isNewer ? conflict : (item ?? { rev: 0 });
        sent = item?.rev ?? 0;
        return { key, if: rev, value: change(value) };
      },
      apply: (value) => {
        // If the item has changed since, this write, or a faster one, has done it.
        if (sent !== undefined && sent !== (this.items.get(key)?.rev ?? 0)) return value;
        try {
          return change(value);
        } catch {
          return value; // make throws, too, and the write rejects
        }
      },
    });
  }

  /** Enqueues a write. The promise resolves when the copy has it. */
  write(event, keys, payload, { make, apply, conditional = false } = {}) {
    if (this.ended) return Promise.reject(this.ended);
    return new Promise((resolve, reject) => {
      this.pending.push({
        event, keys, conditional, resolve, reject,
        make: make ?? (() => payload),
        apply: apply ?? ((value) => value),
        crashes: 0,
        pause: MIN_PAUSE,
      });
      this.#touch(keys);
      this.#send();
      this.#notify();
    });
  }

  /** Leaves the topic. The copy stays as it is. */
  end(error) {
    if (this.ended) return;
    this.#finish(error);
    this.channel.leave();
  }

  #finish(error) {
    if (this.ended) return;
    this.ended = error;
    this.synced = this.#live = false;
    const lost = this.pending;
    this.pending = [];
    for (const w of lost) {
      this.#touch(w.keys);
      w.reject(error);
    }
    this.#settle.reject(error);
    this.#notify();
    this.#onEnd(error, this.#object);
  }

  #joined(s) {
    if (this.ended) return;
    if (s?.kind !== this.#kind) {
      this.end(this.#error("invalid", { what: "kind" }));
      return;
    }
    this.#live = true;
    this.#joins++;
    this.synced = false;
    this.#part = s.why === "window";
    this.#maxValue = s.limits?.value ?? 0;
    if (s.recovered) {
      this.#position = s.pos ?? this.#position;
    } else {
      this.#resets++;
      this.#touch(this.items.keys());
      this.items.clear();
      if (s.rev > 0) this.#put(s);
      for (const item of s.items ?? []) this.#apply(item);
      this.#position = s.pos;
    }
    this.#notify();
  }

  #refused(response) {
    const reason = response?.reason;
    if (reason === "invalid position") this.#position = undefined; // the next join has none
    else if (reason === "not found" || (this.#joins === 0 && !TRANSIENT.has(reason))) {
      this.end(this.#error(reason, response));
    }
  }

  /** The channel has lost its connection, or has crashed on the server. phoenix.js joins again. */
  #lost() {
    const crashed = this.#socket.isConnected();
    this.#live = this.synced = false;
    for (const w of this.pending.filter((w) => crashed && w.attempt && !w.reply)) {
      if (++w.crashes === MAX_CRASHES) this.#drop(w, this.#error("uncertain"));
    }
    this.#notify();
  }

  #error(reason, response = {}) {
    return new PushError(this.channel.topic, { ...response, reason });
  }

  #receive(event, payload) {
    if (!this.#live || this.ended) return; // of an older join; it comes again
    if (event === "put") this.#put(payload);
    else if (event === "del") this.#del(payload);
    else for (const item of payload.items ?? []) this.#apply(item);
    if (payload.$pos) this.#position = payload.$pos;
    if (event === "synced" && !this.synced) {
      this.synced = true;
      for (const w of this.pending) if (!w.reply) w.attempt = null; // its reply was lost
    }
    this.#complete();
    this.#send();
    this.#notify();
    if (this.synced) this.#settle.resolve(this.#object);
  }

  #apply(item) {
    if ("value" in item) this.#put(item);
    else this.#del(item);
  }

  #put({ key = "", rev, value }) {
    if (this.items.get(key)?.rev >= rev) return;
    this.items.set(key, { rev, value });
    this.#touch([key]);
  }

  #del({ key = "", rev }) {
    if (!(this.items.get(key)?.rev <= rev)) return;
    this.items.delete(key);
    this.#touch([key]);
  }

  #touch(keys) {
    for (const key of keys) this.#changed.add(key);
    this.#sorted = null;
  }

  #notify() {
    const changed = this.#changed;
    this.#changed = new Set();
    this.#onChange(this.#object, changed);
  }

  /** Pushes the writes that wait for nothing. */
  #send() {
    if (!this.synced) return;
    const busy = new Map(); // by key: whether an earlier write depends on the item's revision
    for (const w of [...this.pending]) {
      const waits = w.keys.some((key) => busy.has(key) && (w.conditional || busy.get(key)));
      for (const key of w.keys) busy.set(key, w.conditional || busy.get(key) === true);
      if (!waits && !w.attempt && !w.paused) this.#push(w);
    }
  }

  #push(w) {
    if (w.begin && !this.#mayRepeat(w.begin)) {
      this.#drop(w, this.#error("uncertain"));
      return;
    }
    if (!w.begin) {
      try {
        w.payload = w.make(w.conflict);
      } catch (error) {
        this.#drop(w, error);
        return;
      }
      if (this.#isTooLarge(w.payload)) {
        this.#drop(w, this.#error("too large", { max: this.#maxValue }));
        return;
      }
      if (this.#kind === "document") w.payload = { ...w.payload, key: undefined };
      w.id = `${this.#ids}-${this.#nextId++}`;
      const [position, joins, resets] = [this.#position, this.#joins, this.#resets];
      w.begin = { at: Date.now(), position, joins, resets };
    } else {
      // With it the server finds out whether it may have forgotten the $id.
      w.payload = { ...w.payload, $pos: w.begin.position ?? null };
    }
    const attempt = (w.attempt = {});
    const current = (f) => (response) => {
      if (w.attempt !== attempt || !this.pending.includes(w)) return;
      f(response);
      this.#send();
      this.#notify();
    };
    this.channel
      .push(w.event, { $id: w.id, ...w.payload })
      .receive("ok", current((reply) => { w.reply = reply; this.#complete(); }))
      .receive("error", current((response) => this.#failed(w, response)))
      .receive("timeout", current(() => { w.attempt = null; }));
  }

  #failed(w, response) {
    if (response?.reason === "conflict" && w.conditional) {
      w.conflict = { rev: response.rev ?? 0, value: response.value };
      w.begin = null; // the next attempt is another write
      this.#pause(w, Math.random() * CONFLICT_PAUSE);
    } else if (response?.reason === "unavailable") {
      this.#pause(w, w.pause * (0.5 + Math.random()));
      w.pause = Math.min(2 * w.pause, MAX_PAUSE);
    } else {
      this.#drop(w, this.#error(response?.reason, response));
    }
  }

  #pause(w, ms) {
    w.attempt = null;
    w.paused = true;
    setTimeout(() => {
      w.paused = false;
      this.#send();
      this.#notify();
    }, ms);
  }

  #drop(w, error) {
    this.pending = this.pending.filter((other) => other !== w);
    this.#touch(w.keys);
    w.reject(error);
  }

  /** Whether the server still knows the id of a write whose reply was lost. */
  #mayRepeat({ at, position, joins }) {
    if (this.#part || Date.now() - at > REPEAT_MS) return false;
    // Without the connect parameter $client, an id belongs to one connection.
    const named = /[?&](\$|%24)client=/.test(this.#socket.endPointURL());
    if (joins !== this.#joins && !named) return false;
    const now = revision(this.#position);
    if (revision(position) === 0) return now <= REPEAT_REVS; // this write may have made the object
    return epoch(position) === epoch(this.#position) && now <= revision(position) + REPEAT_REVS;
  }

  /** Resolves the writes that the copy has. */
  #complete() {
    const done = this.pending.filter((w) => w.reply && this.#has(w));
    if (done.length === 0) return;
    this.pending = this.pending.filter((w) => !done.includes(w));
    for (const w of done) {
      this.#touch(w.keys);
      w.resolve(w.reply.keys ?? w.reply.key);
    }
  }

  #has({ reply, keys, begin }) {
    let rev = reply.rev ?? 0;
    let key = reply.key ?? keys[0] ?? "";
    for (const [i, r] of (reply.revs ?? []).entries()) {
      if (r > rev && this.#covers(reply.keys[i])) [rev, key] = [r, reply.keys[i]];
    }
    return (
      rev === 0 || this.#part || !this.#covers(key) || this.items.get(key)?.rev >= rev ||
      revision(this.#position) >= rev || (this.#resets !== begin.resets && this.synced)
    );
  }

  /** Whether a key belongs to the part of the object that the copy has. */
  #covers(key) {
    const { prefix = "", from = "", to } = this.#range;
    return key.startsWith(prefix) && compareKeys(key, from) >= 0 && (to === undefined || compareKeys(key, to) < 0);
  }

  #isTooLarge({ value, ops = [{ value }] }) {
    const size = (v) => (v === undefined ? 0 : new TextEncoder().encode(JSON.stringify(v)).length);
    return this.#maxValue > 0 && ops.some((op) => size(op.value) > this.#maxValue);
  }
}
