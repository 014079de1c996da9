// The list of users on a channel, from the events presence_state and presence_diff of Phoenix.

/** The users of one channel. A user with several connections is listed once. */
export class Presence {
  onchange = () => {};
  #refs = new Map(); // by key: a Set of phx_ref, one for each connection
  #early = null; // diffs that arrived before the state to which they apply

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

  /** Must be called when the channel is joined: the server sends a new state then. */
  expect() {
    this.#early = [];
  }

  /** Returns [key, refs of the connections] for every user. */
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
