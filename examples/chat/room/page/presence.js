// Who is on a channel, from the events presence_state and presence_diff that Phoenix's presence sends.

/** Keeps the list of a channel. Somebody stands there once, with the number of their connections: tabs, devices. */
export class Presence {
  onchange = () => {};
  #refs = new Map(); // by key: a Set of phx_ref, one for each connection
  #early = null; // diffs that came before the state that they change

  constructor(channel) {
    channel.on("presence_state", (state) => {
      this.#refs.clear();
      this.#add(state);
      this.#early?.forEach((diff) => this.#apply(diff));
      this.#early = null;
      this.onchange();
    });
    channel.on("presence_diff", (diff) => {
      if (this.#early) {
        this.#early.push(diff);
        return;
      }
      this.#apply(diff);
      this.onchange();
    });
    this.expect();
  }

  /** The channel was joined: a new state is on its way. */
  expect() {
    this.#early = [];
  }

  /** Returns [key, the refs of the connections] of everybody. */
  list() {
    return [...this.#refs].map(([key, refs]) => [key, [...refs]]);
  }

  #add(state) {
    for (const [key, { metas }] of Object.entries(state)) {
      if (!this.#refs.has(key)) this.#refs.set(key, new Set());
      for (const meta of metas) this.#refs.get(key).add(meta.phx_ref);
    }
  }

  #apply({ joins, leaves }) {
    this.#add(joins);
    for (const [key, { metas }] of Object.entries(leaves)) {
      const refs = this.#refs.get(key);
      for (const meta of metas) refs?.delete(meta.phx_ref);
      if (refs?.size === 0) this.#refs.delete(key);
    }
  }
}
