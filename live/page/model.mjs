// The nodes as the page knows them: their last summaries, and the rates between the last two.

const FORGET = 60_000; // ms after which a silent node is removed
const MAX_NODES = 64;
const HISTORY = 60; // points of a chart

/** All nodes of the cluster. Times are those of the given clock, in milliseconds. */
export class Cluster {
  every = 2000;
  history = new Map(); // of numbers, by name
  #nodes = new Map(); // by id
  #now;

  constructor(now = () => performance.now()) {
    this.#now = now;
  }

  /** Adds the summary of a node. */
  add(summary) {
    const now = this.#now();
    for (const [id, n] of this.#nodes) if (now - n.seen > FORGET) this.#nodes.delete(id);
    const before = this.#nodes.get(summary.id);
    if (!before && this.#nodes.size >= MAX_NODES) return;
    let rates = before?.rates ?? {};
    if (before && summary.at > before.summary.at) rates = ratesOf(before.summary, summary);
    this.#nodes.set(summary.id, { summary, rates, seen: now, lag: Date.now() - summary.at });
  }

  /** The nodes by name. A node is silent if some of its summaries did not arrive. */
  nodes() {
    const now = this.#now();
    return [...this.#nodes.values()]
      .map((n) => ({ ...n, silent: now - n.seen > 3 * this.every + 1000 }))
      .sort((a, b) => a.summary.node.localeCompare(b.summary.node) || (a.summary.id < b.summary.id ? -1 : 1));
  }

  /** The sums over all nodes that are not silent. */
  totals() {
    const live = this.nodes().filter((n) => !n.silent);
    const sum = (f) => live.reduce((total, n) => total + (f(n) || 0), 0);
    return {
      connections: sum((n) => n.summary.websocket + n.summary.longpoll),
      channels: sum((n) => n.summary.channels),
      joins: sum((n) => n.rates.joined),
      events: sum((n) => n.rates.events),
      broadcasts: sum((n) => n.rates.broadcasts),
      delivered: sum((n) => n.rates.delivered),
      waiting: sum((n) => n.summary.queued + n.summary.mailbox),
      crashed: sum((n) => n.summary.counts.crashed),
    };
  }

  /** Adds the totals to the charts. */
  record() {
    for (const [name, value] of Object.entries(this.totals())) {
      const points = this.history.get(name) ?? [];
      points.push(value);
      if (points.length > HISTORY) points.shift();
      this.history.set(name, points);
    }
  }

  /** The largest topics of all nodes together. Each node lists its own largest ones. */
  topics() {
    const all = new Map();
    for (const { summary } of this.nodes()) {
      for (const { topic, subscribers } of summary.largest) {
        const row = all.get(topic) ?? { topic, subscribers: 0, nodes: 0 };
        row.subscribers += subscribers;
        row.nodes++;
        all.set(topic, row);
      }
    }
    return [...all.values()]
      .sort((a, b) => b.subscribers - a.subscribers || (a.topic < b.topic ? -1 : 1))
      .slice(0, 50);
  }

  /** The connections with the longest queues. */
  connections() {
    return this.#rows((s) => s.slowest)
      .sort((a, b) => b.queued + b.mailbox - a.queued - a.mailbox || b.begun - a.begun)
      .slice(0, 50);
  }

  times() {
    return this.#rows((s) => s.times)
      .sort((a, b) => b.p99 - a.p99 || b.count - a.count)
      .slice(0, 100);
  }

  crashes() {
    return this.#rows((s) => s.crashes)
      .sort((a, b) => b.at - a.at)
      .slice(0, 30);
  }

  /** A mistake in the program that the operator should mend, or an empty text. */
  advice() {
    for (const { summary: s } of this.nodes()) {
      if (s.watched === 0) return `${s.node} watches no socket.Handler: call Watch of the live.Handler.`;
      if (s.websocket + s.longpoll > 0 && s.counts.opened === 0) {
        return `${s.node} has no rates, times and crashes: add Hooks of the live.Handler to socket.Config.Hooks.`;
      }
    }
    return "";
  }

  #rows(of) {
    return this.nodes().flatMap(({ summary, lag }) =>
      of(summary).map((row) => ({ ...row, node: summary.node, nodeID: summary.id, lag })));
  }
}

// The counters of a node per second, between two summaries. A node that has started again counts
// from zero.
function ratesOf(before, after) {
  const seconds = (after.at - before.at) / 1000;
  const rates = {};
  for (const [name, n] of Object.entries(after.counts)) {
    rates[name] = Math.max(0, n - (before.counts[name] ?? 0)) / seconds;
  }
  return rates;
}
