/**
 * The users of one channel, from the events presence_state and presence_diff. A state maps each key
 * to an entry { metas: [{ phx_ref, … }, …], … }, with one meta for each connection of the key.
 */
export class Presence {
  state = {};
  caller = { onJoin() {}, onLeave() {}, onSync() {} };
  pendingDiffs = []; // that arrived before the state to which they apply
  joinRef = null; // of the join to which the state belongs

  /** The names of the two events can be changed: { events: { state, diff } }. */
  constructor(channel, { events = {} } = {}) {
    this.channel = channel;
    channel.on(events.state ?? "presence_state", (state) => {
      const { onJoin, onLeave, onSync } = this.caller;
      this.joinRef = channel.joinRef();
      this.state = Presence.syncState(this.state, state, onJoin, onLeave);
      for (const diff of this.pendingDiffs) this.state = Presence.syncDiff(this.state, diff, onJoin, onLeave);
      this.pendingDiffs = [];
      onSync();
    });
    channel.on(events.diff ?? "presence_diff", (diff) => {
      const { onJoin, onLeave, onSync } = this.caller;
      if (this.inPendingSyncState()) {
        this.pendingDiffs.push(diff);
        return;
      }
      this.state = Presence.syncDiff(this.state, diff, onJoin, onLeave);
      onSync();
    });
  }

  /** callback(key, the entry before or undefined, the entry with the metas that joined) */
  onJoin(callback) {
    this.caller.onJoin = callback;
  }

  /** callback(key, the entry with the remaining metas, the entry with the metas that left) */
  onLeave(callback) {
    this.caller.onLeave = callback;
  }

  /** The callback is called after each change. */
  onSync(callback) {
    this.caller.onSync = callback;
  }

  list(by) {
    return Presence.list(this.state, by);
  }

  /** Reports whether the state of the current join has not arrived yet. */
  inPendingSyncState() {
    return !this.joinRef || this.joinRef !== this.channel.joinRef();
  }

  /** Returns the state that replaces current, and reports the difference. */
  static syncState(current, next, onJoin, onLeave) {
    return Presence.syncDiff(current, { joins: added(current, next), leaves: added(next, current) }, onJoin, onLeave);
  }

  /** Returns the state after a diff, and reports the diff. */
  static syncDiff(current, { joins, leaves }, onJoin = () => {}, onLeave = () => {}) {
    const state = {};
    for (const [key, entry] of Object.entries(current)) put(state, key, entry);
    for (const [key, joined] of Object.entries(joins)) {
      const present = get(state, key);
      const kept = without(present?.metas ?? [], joined.metas);
      put(state, key, { ...joined, metas: [...kept, ...joined.metas] });
      onJoin(key, present, joined);
    }
    for (const [key, left] of Object.entries(leaves)) {
      const present = get(state, key);
      if (!present) continue;
      const rest = { ...present, metas: without(present.metas, left.metas) };
      put(state, key, rest);
      onLeave(key, rest, left);
      if (rest.metas.length === 0) delete state[key];
    }
    return state;
  }

  /** Returns by(key, entry) for each key, or the entries. */
  static list(state, by = (_key, entry) => entry) {
    return Object.entries(state).map(([key, entry]) => by(key, entry));
  }
}

/** Returns the metas of a state that another one does not have. */
function added(before, after) {
  const state = {};
  for (const [key, entry] of Object.entries(after)) {
    const metas = without(entry.metas, get(before, key)?.metas ?? []);
    if (metas.length > 0 || !Object.hasOwn(before, key)) put(state, key, { ...entry, metas });
  }
  return state;
}

/** Returns the metas whose phx_ref is not among those of others. */
function without(metas, others) {
  const refs = new Set(others.map((meta) => meta.phx_ref));
  return metas.filter((meta) => !refs.has(meta.phx_ref));
}

// A key may be the name of a property of every object, such as "__proto__".

function get(state, key) {
  return Object.hasOwn(state, key) ? state[key] : undefined;
}

function put(state, key, value) {
  Object.defineProperty(state, key, { value, writable: true, enumerable: true, configurable: true });
}
