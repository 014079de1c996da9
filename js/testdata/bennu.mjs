// Tests of bennu.mjs against a server of this project. They run unchanged in Node and in a browser,
// with any client that has the API of phoenix.js.

const PATIENCE = 8000;
const tests = {};

/** Runs the tests one by one, and reports a line of JSON for each: {"name", "error"?}. */
export async function run(env) {
  for (const [name, test] of Object.entries(tests)) {
    const t = new Tester(env, name);
    let error;
    try {
      await Promise.race([test(t), t.pause(2 * PATIENCE).then(() => { throw new Error("it does not end"); })]);
    } catch (e) {
      error = String(e?.stack ?? e);
    }
    t.end();
    env.report(JSON.stringify({ name, error }));
  }
  env.report(JSON.stringify({ end: true }));
}

class Tester {
  #sockets = [];
  static serial = 0;

  constructor(env, name) {
    Object.assign(this, env.bennu);
    this.env = env;
    this.name = name;
  }

  /** A connected client, with an id unless `named` is false. */
  client({ named = true, path = "socket", ...options } = {}) {
    const all = { ...this.env.options, reconnectAfterMs: () => 10, rejoinAfterMs: () => 10, ...options };
    const url = `${this.env.url.replace("http", "ws")}/${path}`;
    if (named) {
      const connection = this.connect(this.env.Socket, url, all);
      this.#sockets.push(connection.socket);
      this.last = connection;
      return connection.socket;
    }
    const socket = new this.env.Socket(url, all);
    socket.connect();
    this.#sockets.push(socket);
    return socket;
  }

  connection(options) {
    this.client(options);
    return this.last;
  }

  topic(kind) {
    return `${kind}:${++Tester.serial}`;
  }

  control(params) {
    return fetch(`${this.env.url}/control?${new URLSearchParams(params)}`, { method: "POST" });
  }

  /** Cuts all connections, and waits until each client has noticed it. */
  async cut() {
    const closed = this.#sockets.filter((s) => s.isConnected()).map((s) => new Promise((resolve) => s.onClose(resolve)));
    await this.control({ do: "cut" });
    await Promise.all(closed);
  }

  async until(condition, what) {
    for (const end = Date.now() + PATIENCE; !condition(); await this.pause(3)) {
      if (Date.now() > end) throw new Error(`waited for ${what ?? condition}`);
    }
  }

  pause(ms) {
    return new Promise((resolve) => setTimeout(resolve, ms));
  }

  equal(got, want, what = "value") {
    const [g, w] = [got, want].map((v) => JSON.stringify(v));
    if (g !== w) throw new Error(`${what}: got ${g}, want ${w}`);
  }

  async rejects(promise, reason) {
    const error = await promise.then(() => null, (e) => e);
    this.equal([error?.name, error?.reason], ["PushError", reason], "error");
    return error;
  }

  end() {
    for (const s of this.#sockets) s.disconnect();
  }
}

tests["a push as a promise"] = async (t) => {
  const room = t.client().channel(t.topic("room"));
  room.join();
  t.equal(await t.call(room, "say", { text: "a" }), {}, "response");
  const error = await t.rejects(t.call(room, "fail"), "no");
  t.equal([error.response, error.message], [{ reason: "no" }, `fail to ${room.topic}: no`], "error");
  await t.cut();
  t.equal(await t.call(room, "say", { text: "b" }), {}, "after a cut");
};

tests["a page answers calls"] = async (t) => {
  const room = t.client().channel(t.topic("ask"));
  const ask = (event, payload = {}) => t.call(room, "ask", { event, payload });
  t.handle(room, "confirm", async ({ amount, ...rest }) => ({ yes: amount < 100, rest }));
  const off = t.handle(room, "bytes", () => new Uint8Array([1, 2, 3]).buffer);
  t.handle(room, "fail", () => { throw new Error("a secret"); });
  t.handle(room, "refuse", () => { throw { reason: "busy" }; });
  room.join();
  t.equal(await ask("confirm", { amount: 30 }), { answer: { yes: true, rest: {} } }, "an object");
  t.equal(await ask("bytes"), { bytes: 3 }, "bytes");
  await t.rejects(ask("fail"), "failed");
  await t.rejects(ask("refuse"), "busy");
  await t.rejects(ask("other"), "no handler");
  off();
  await t.rejects(ask("bytes"), "no handler");
  t.handle(room, "confirm", () => 7);
  await t.cut();
  t.equal(await ask("confirm"), { answer: 7 }, "after a cut");
};

// The lines of docs/channels.md, without bennu.mjs.
tests["a channel of the stock client answers calls"] = async (t) => {
  const ask = (m) => ({ yes: m.amount < 100 });
  const ch = t.client().channel(t.topic("ask"), { $calls: ["confirm"] });
  ch.on("confirm", (m) => ch.push("$reply", { $call: m.$call, status: "ok", response: ask(m) }));
  ch.join();
  for (const when of ["first", "after a cut"]) {
    const reply = await t.call(ch, "ask", { event: "confirm", payload: { amount: 300 } });
    t.equal(reply, { answer: { yes: false } }, when);
    await t.cut();
  }
};

// The lines of docs/channels.md.
tests["a channel of the stock client gives credit"] = async (t) => {
  const seen = [];
  let k = 0;
  const ch = t.client().channel(t.topic("ask"), { $credit: 64 });
  ch.on("token", (m) => { seen.push(m.n); if (++k % 32 === 0) ch.push("$credit", { add: 32 }); });
  const end = new Promise((ended) => ch.on("$end", ended));
  const closed = new Promise((ended) => ch.onClose(() => ended("closed")));
  ch.join();
  ch.push("stream", { n: 1000 });
  t.equal(await end, {}, "the end");
  t.equal(await closed, "closed", "the channel");
  t.equal(seen, Array.from({ length: 1000 }, (_, n) => n), "the events");

  const slow = t.client().channel(t.topic("ask"), { $credit: 3 });
  let events = 0;
  slow.on("token", () => { events++; });
  slow.join();
  t.equal(await t.call(slow, "burst", {}), { left: 0, sent: 3 }, "without more credit");
  t.equal(events, 3, "the events before the reply");
  t.equal(await t.call(slow, "burst", {}), { left: 0, sent: 0 }, "still without");
  slow.push("$credit", { add: 2 });
  t.equal(await t.call(slow, "burst", {}), { left: 0, sent: 2 }, "with more");
  await t.cut();
  t.equal(await t.call(slow, "burst", {}), { left: 0, sent: 3 }, "after a cut");
};

tests["a write is shown at once"] = async (t) => {
  const topic = t.topic("doc"), seen = [];
  const d = await t.openDocument(t.client(), topic, { onChange: (d, keys) => seen.push([d.value, d.pending, [...keys]]) });
  t.equal([d.value, d.rev, d.synced, d.pending], [undefined, 0, true, 0], "an absent document");
  seen.length = 0;
  const done = d.set({ n: 1 });
  t.equal([d.value, d.rev, d.pending], [{ n: 1 }, 0, 1], "before the reply");
  t.equal(seen, [[{ n: 1 }, 1, [""]]], "changes");
  t.equal(await done, undefined, "result");
  t.equal([d.value, d.rev, d.pending], [{ n: 1 }, 1, 0], "after the reply");
  const other = await t.openDocument(t.client(), topic);
  t.equal(other.value, { n: 1 }, "another client");
  await d.merge({ m: 2, n: null });
  await t.until(() => other.rev === 2);
  t.equal([d.value, other.value], [{ m: 2 }, { m: 2 }], "after a merge");
  await other.delete();
  await t.until(() => d.value === undefined);
};

tests["a rejected write is taken back"] = async (t) => {
  const m = await t.openMap(t.client(), t.topic("map"));
  await m.set("a", 1);
  const refused = m.set("locked", 2), batch = m.batch([{ key: "a", value: 5 }, { key: "locked", value: 5 }]);
  t.equal([m.entries(), m.pending], [[["a", 5], ["locked", 5]], 2], "before the replies");
  await t.rejects(refused, "forbidden");
  await t.rejects(batch, "forbidden");
  t.equal([m.entries(), m.pending, m.has("locked")], [[["a", 1]], 0, false], "after the replies");
  await t.rejects(m.set("b", "x".repeat(2000)), "too large");
  const { response } = await t.rejects(m.set("a", 3, { if: 7 }), "conflict");
  t.equal(response.value, 1, "the item of a conflict");
  await t.rejects(m.update("a", () => "x".repeat(2000)), "too large");
  await m.update("a", () => { throw new TypeError("mine"); }).then(() => t.equal(1, 0), (e) => t.equal(e.message, "mine"));
  t.equal([m.entries(), m.pending], [[["a", 1]], 0], "at the end");
};

tests["updates of two clients"] = async (t) => {
  const topic = t.topic("map"), copies = [];
  for (let i = 0; i < 2; i++) copies.push(await t.openMap(t.client(), topic));
  const add = (v) => (v ?? 0) + 1, shown = [];
  const all = copies.flatMap((m) => Array.from({ length: 10 }, () => m.update("n", add)));
  shown.push(copies[0].get("n"));
  await Promise.all(all);
  t.equal([shown, copies.map((m) => m.pending)], [[10], [0, 0]], "what is shown");
  await t.until(() => copies.every((m) => m.get("n") === 20), "the sum");
};

tests["an update is shown once"] = async (t) => {
  const seen = [];
  const d = await t.openDocument(t.client(), t.topic("doc"), { onChange: (d) => seen.push(d.value) });
  for (let i = 0; i < 5; i++) await d.update((v) => (v ?? 0) + 1);
  t.equal(seen.filter((v, i) => v !== seen[i - 1] && v !== undefined), [1, 2, 3, 4, 5], "values");
};

tests["values that the server makes"] = async (t) => {
  const d = await t.openDocument(t.client(), t.topic("doc"), { value: { n: 1 } });
  t.equal(d.value, { n: 1 }, "the initial value");
  const done = d.merge({ n: { $inc: 2 }, m: 1 });
  t.equal(d.value, { n: 1, m: 1 }, "before the reply");
  await done;
  t.equal(d.value, { m: 1, n: 3 }, "after the reply");
  const put = d.set({ at: { $now: true } });
  t.equal(d.value, { m: 1, n: 3 }, "before the reply");
  await put;
  t.equal(typeof d.value.at, "number", "the time");
};

tests["writes without a connection"] = async (t) => {
  const m = await t.openMap(t.client(), t.topic("map"));
  await m.set("a", 1);
  await t.cut();
  const all = [m.set("b", 2), m.delete("a"), m.add(3)];
  t.equal([m.entries(), m.pending], [[["b", 2]], 3], "without a connection");
  const [, , key] = await Promise.all(all);
  t.equal([m.get(key), m.size, m.has("a"), m.ended], [3, 2, false, null], "afterwards");
};

tests["a lost reply"] = async (t) => {
  const m = await t.openMap(t.client(), t.topic("map")), value = `cut ${++Tester.serial}`;
  const key = await m.add(value);
  t.equal(m.entries(), [[key, value]], "the item, once");
  const unnamed = await t.openMap(t.client({ named: false }), t.topic("map"));
  await t.rejects(unnamed.add(`${value} again`), "uncertain");
  await t.until(() => unnamed.synced);
  t.equal(unnamed.values(), [`${value} again`], "the write that was applied");
};

tests["modes"] = async (t) => {
  const topic = t.topic("doc"), s = t.client(), joins = [];
  await t.rejects(t.openDocument(t.client(), topic, { mode: "existing" }), "not found");
  const { channel } = s;
  s.channel = (topic, params) => channel.call(s, topic, () => (joins.push(params()), joins.at(-1)));
  const d = await t.openDocument(s, topic, { mode: "new", value: 1, ttl: 60 });
  t.equal(d.value, 1, "the initial value");
  await t.rejects(t.openDocument(t.client(), topic, { mode: "new" }), "exists");
  await t.rejects(t.openMap(t.client(), topic), "invalid");
  await t.rejects(t.openDocument(t.client(), "doc:secret"), "forbidden");
  await t.cut();
  await t.until(() => d.synced);
  const [first, second] = joins.map(({ $state: { since, ...how } }) => [typeof since, JSON.parse(JSON.stringify(how))]);
  t.equal([first, second], [["undefined", { mode: "new", value: 1, ttl: 60 }], ["string", { mode: "existing" }]], "joins");
};

tests["an object that was made again"] = async (t) => {
  const topic = t.topic("map"), changes = [];
  const m = await t.openMap(t.client(), topic, { onChange: (_, keys) => changes.push(...keys) });
  await m.batch([{ key: "a", value: 1 }, { key: "b", value: 2 }]);
  changes.length = 0;
  await t.control({ do: "replace", topic, key: "c" });
  await t.until(() => m.ended || (m.synced && m.has("c")));
  if (m.ended) {
    t.equal(m.ended.reason, "removed", "the end"); // its channel had not noticed the cut
    return;
  }
  t.equal([m.entries(), [...new Set(changes)].sort()], [[["c", "new"]], ["a", "b", "c"]], "the copy");
};

tests["the end of an object"] = async (t) => {
  const topic = t.topic("doc"), ends = [];
  const d = await t.openDocument(t.client(), topic, { value: 1, onEnd: (error, d) => ends.push([error.reason, d.value]) });
  const other = await t.openDocument(t.client(), topic);
  await other.remove();
  await t.until(() => d.ended && other.ended);
  t.equal([ends, d.synced, other.ended?.reason], [[["removed", 1]], false, "removed"], "the end");
  await t.rejects(d.set(2), "removed");
  const closed = await t.openDocument(t.client(), t.topic("doc"));
  const lost = closed.set(1);
  closed.close();
  await t.rejects(lost, "closed");
};

tests["keys in the server's order"] = async (t) => {
  const topic = t.topic("map"), m = await t.openMap(t.client(), topic);
  const keys = ["a", "B", "ab", "\u{1f600}", "\uffee", "\ud7ff", "é", "z"];
  await m.batch(keys.map((key) => ({ key, value: 1 })));
  const window = await t.openMap(t.client(), topic, { last: 3 });
  t.equal(m.keys(), ["B", "a", "ab", "z", "é", "\ud7ff", "\uffee", "\u{1f600}"], "keys");
  t.equal(window.keys(), m.keys().slice(-3), "the last ones by the server");
  t.equal([...m].map(([key]) => key), m.keys(), "iteration");
};

tests["parts of a map"] = async (t) => {
  const topic = t.topic("map"), m = await t.openMap(t.client(), topic);
  await m.batch(["a/1", "a/2", "b/1"].map((key, i) => ({ key, value: i })));
  const part = await t.openMap(t.client(), topic, { prefix: "a/" });
  const range = await t.openMap(t.client(), topic, { from: "a/2", to: "b/1" });
  const query = await t.openMap(t.client(), topic, { query: "least", args: 1 });
  const first = await t.openMap(t.client(), topic, { first: 2 });
  t.equal([part, range, query, first].map((p) => p.keys()), [["a/1", "a/2"], ["a/2"], ["a/2", "b/1"], ["a/1", "a/2"]], "parts");
  await part.set("b/2", 5); // is not in its part
  await first.delete("a/1");
  await t.until(() => query.has("b/2") && part.size === 1 && first.keys()[1] === "b/1");
  await t.cut();
  await t.until(() => query.synced && first.synced);
  t.equal([query.keys(), first.keys()], [["a/2", "b/1", "b/2"], ["a/2", "b/1"]], "after a cut");
};

tests["lists"] = async (t) => {
  const topic = t.topic("list"), l = await t.openList(t.client(), topic), other = await t.openList(t.client(), topic);
  const b = await l.append("b");
  await l.insert(null, "a");
  const d = await l.append("d");
  await l.insert(b, "c");
  t.equal([l.values(), l.size, l.at(0), l.at(-1), l.keyAt(1), l.at(9)], [["a", "b", "c", "d"], 4, "a", "d", b, null ?? undefined], "values");
  const moved = await l.move(d, null);
  t.equal([l.values(), l.get(moved)], [["d", "a", "b", "c"], "d"], "after a move");
  await l.set(b, "B");
  await l.delete(moved);
  await t.rejects(l.set(moved, 1), "not found");
  await t.until(() => other.values().join("") === "aBc");
};

tests["recovery"] = async (t) => {
  const topic = t.topic("room"), s = t.client(), texts = [], hooked = [], resets = [];
  const options = { onReset: ({ messages }, why) => resets.push([messages, why]) };
  const room = t.recover(s, topic, () => ({ user: "ann" }), options);
  room.onMessage = (event, payload) => {
    if (payload?.$pos) hooked.push(event);
    return payload;
  };
  room.on("new_msg", ({ text }) => texts.push(text));
  const blobs = [];
  room.on("blob", (data) => blobs.push(data.byteLength));
  const never = room.on("new_msg", () => texts.push("removed"));
  room.off("new_msg", never);
  await t.rejects(room.catchUp(), "not joined");
  room.join();
  await t.until(() => resets.length === 1, "the first reply");
  const writer = t.client().channel(topic);
  writer.join();
  await t.call(writer, "say", { text: "a" });
  await t.until(() => texts.length === 1);
  t.equal(resets, [[[], "new"]], "the first join");
  await t.call(writer, "blob");
  await t.until(() => hooked.length === 2);
  t.equal([hooked, blobs], [["new_msg", "$history"], [2]], "a binary event");
  await t.cut();
  await t.call(writer, "say", { text: "b", also: "c" });
  await t.until(() => texts.length === 3);
  t.equal([texts, resets.length], [["a", "b", "c"], 1], "after a cut");
  t.equal(await room.catchUp(), room.position, "the top");
  const { items, more } = await room.before(room.position, 1);
  t.equal([items.map(({ payload }) => payload.text), more], [["b"], true], "a page");
  const since = room.position;
  await t.call(writer, "say", { text: "d" });
  const later = t.recover(t.client(), topic, {}, { since, onReset: () => resets.push("again") });
  later.on("new_msg", ({ text }) => texts.push(text));
  later.join();
  await t.until(() => texts.length === 5); // both have received it
  t.equal(resets.length, 1, "a page that continues");
  const invalid = t.recover(t.client(), topic, {}, { since: "nonsense", onReset: (_, why) => resets.push(why) });
  invalid.join();
  await t.until(() => resets.length === 2);
  t.equal(resets[1], "new", "after an invalid position");
  const plain = t.recover(t.client(), t.topic("plain"), {}, { onReset: (_, why) => resets.push(why) });
  plain.join();
  await t.until(() => resets.length === 3);
  t.equal([resets[2], plain.position], ["off", undefined], "a topic without history");
  await t.rejects(plain.catchUp(), "off");
};

/** A socket with one channel and without a server: the test decides what it receives. */
class FakeSocket {
  #callbacks = [];
  #hooks = [];
  #params;

  channel(topic, params) {
    this.#params = params;
    const push = { receive: (status, callback) => (this.#hooks.push({ status, callback }), push) };
    this.made = {
      topic,
      onMessage: (event, payload) => payload,
      on: (event, callback) => this.#callbacks.push({ event, callback }),
      onError() {},
      onClose() {},
      join: () => push,
    };
    return this.made;
  }

  /** Begins a join, and returns its params. */
  begin() {
    return this.#params();
  }

  answer(response) {
    for (const { status, callback } of this.#hooks) if (status === "ok") callback(response);
  }

  receive(event, payload) {
    const handled = this.made.onMessage(event, payload);
    for (const c of this.#callbacks) if (c.event === event) c.callback(handled);
  }
}

tests["frames of an older join are ignored"] = async (t) => {
  const s = new FakeSocket(), texts = [], room = t.recover(s, "room");
  room.on("new_msg", ({ text }) => texts.push(text));
  room.on("blob", () => texts.push("blob"));
  room.join();
  t.equal(s.begin(), { $history: {} }, "the first params");
  s.receive("new_msg", { $pos: "e-8-a", text: "too early" });
  s.answer({ $history: { pos: "e-1-a", recovered: false, why: "new" } });
  s.receive("new_msg", { $pos: "e-2-b", text: "a" });
  t.equal(s.begin(), { $history: { since: "e-2-b" } }, "the params after an event");
  s.receive("new_msg", { $pos: "e-3-c", text: "b" });
  s.receive("blob", new ArrayBuffer(1));
  s.receive("typing", {});
  t.equal([texts, room.position], [["a"], "e-2-b"], "before the reply");
  s.answer({ $history: { pos: "e-2-b", recovered: true, missed: 1 } });
  s.receive("new_msg", { $pos: "e-3-c", text: "b" });
  s.receive("blob", new ArrayBuffer(1));
  s.receive("$history", { $pos: "e-4-d" });
  t.equal([texts, room.position], [["a", "b", "blob"], "e-4-d"], "after the reply");

  const o = new FakeSocket(), opened = t.openMap(o, "map");
  t.equal(o.begin(), { $state: {} }, "the first params");
  o.answer({ $state: { kind: "map", recovered: false, pos: "e-1-a", items: [{ key: "k", rev: 1, value: 1 }] } });
  o.receive("synced", { $pos: "e-1-a" });
  const m = await opened;
  t.equal(o.begin(), { $state: { since: "e-1-a" } }, "the params of a rejoin");
  o.receive("put", { $pos: "e-5-e", key: "k", rev: 5, value: 5 });
  t.equal(m.entries(), [["k", 1]], "before the reply");
  o.answer({ $state: { kind: "map", recovered: true, pos: "e-1-a", more: true } });
  o.receive("put", { $pos: "e-5-e", key: "k", rev: 5, value: 5 });
  o.receive("put", { key: "k", rev: 4, value: 4 }); // older than the item
  o.receive("del", { key: "k", rev: 3, reason: "deleted" });
  t.equal([m.entries(), o.begin().$state.since], [[["k", 5]], "e-5-e"], "after the reply");
};

tests["tokens are refreshed"] = async (t) => {
  let tokens = 0;
  const states = [];
  const c = t.connection({ token: async () => { tokens++; return "ann.1500"; }, onAuth: ({ state }) => states.push(state) });
  let opens = 0;
  c.socket.onOpen(() => opens++);
  await t.until(() => tokens >= 3);
  await t.until(() => states.length >= 5);
  t.equal([opens, c.auth.claims], [1, { user: "ann" }], "one connection");
  t.equal(states.slice(0, 3), ["authenticated", "expiring", "authenticated"], "states");
  if (!(c.auth.expiresAt > Date.now())) throw new Error(`it expires at ${c.auth.expiresAt}`);
};

tests["a page that comes back with an old token"] = async (t) => {
  let tokens = 0;
  const c = t.connection({ token: async () => (++tokens === 1 ? "nobody" : "ann.60000") });
  await t.until(() => c.auth.state === "authenticated");
  // An attempt that was under way with the first token may have failed, too.
  t.equal([tokens >= 2, c.auth.claims], [true, { user: "ann" }], "tokens");
};

tests["login and logout"] = async (t) => {
  const c = t.connection({ token: null });
  await t.until(() => c.auth.state === "anonymous");
  await t.rejects(c.login("nobody"), "bad token");
  t.equal(c.auth.state, "anonymous", "state");
  t.equal(await c.login("ann.60000"), { user: "ann" }, "claims");
  await t.cut();
  await t.until(() => c.socket.isConnected() && c.info);
  t.equal(c.auth.state, "authenticated", "after a cut");
  await t.pause(1100); // three tokens are accepted at once
  await c.logout();
  t.equal([c.auth.state, c.auth.claims], ["anonymous", undefined], "after the logout");
};

tests["a client that is denied"] = async (t) => {
  const denied = [], user = `bob${++Tester.serial}`, other = `eve${user}.60000`, token = async () => `${user}.60000`;
  const c = t.connection({ token, onDenied: (reason) => denied.push(reason) });
  let login;
  const back = t.connection({ token, onDenied: () => { login = back.login(other); } });
  await t.until(() => [c, back].every(({ auth }) => auth.state === "authenticated"));
  await t.control({ do: "revoke", user, reason: "be nice" });
  await t.until(() => denied.length > 0 && login && !c.socket.isConnected());
  t.equal(await login, { user: `eve${user}` }, "a login while the connection is closing");
  await t.pause(50); // longer than the delay of an attempt
  t.equal([denied, c.auth, c.socket.isConnected()], [["be nice"], { state: "denied", reason: "be nice" }, false], "the end");
  t.equal(await c.login(other), { user: `eve${user}` }, "a login later");
};

tests["the server's time"] = async (t) => {
  const c = t.connection();
  const before = c.now();
  await t.until(() => c.timeOffset);
  const { offset, error } = c.timeOffset, now = c.now();
  if (Math.abs(offset) > 1 + error || error > 1000 || now < before) throw new Error(JSON.stringify({ offset, error, now, before }));
  t.equal([typeof c.info.id, c.info.limits.channels > 0], ["string", true], "info");
};

tests["advice"] = async (t) => {
  const attempts = [];
  const c = t.connection({ reconnectAfterMs: (tries) => { attempts.push(tries); return 10; } });
  await t.until(() => c.info);
  const first = c.info.id, room = c.socket.channel(t.topic("room")), delays = [];
  room.join();
  const { setTimeout: timer } = globalThis;
  globalThis.setTimeout = (f, ms, ...rest) => { delays.push(ms); return timer(f, ms, ...rest); };
  const me = new Promise((resolve) => c.socket.onMessage(({ event, payload }) => { if (event === "advice") resolve(payload); }));
  const closed = new Promise((resolve) => c.socket.onClose(resolve));
  await t.control({ do: "advise" });
  const { after_ms } = await me;
  await closed;
  globalThis.setTimeout = timer;
  if (after_ms > 0 && !delays.includes(after_ms)) throw new Error(`it waits ${delays}, advice ${after_ms}`);
  await t.until(() => c.info.id !== first);
  t.equal(attempts.length, after_ms > 0 ? 0 : 1, "the page's own delays");
};

tests["wills"] = async (t) => {
  const c = t.connection(), topic = t.topic("room"), gone = [];
  const other = t.client().channel(topic);
  other.on("gone", ({ user }) => gone.push(user));
  other.join();
  const room = c.socket.channel(topic), set = [];
  room.join().receive("ok", async () => set.push(await c.will(topic, "gone", { user: "ann" }, { after: 20 })));
  await t.until(() => set.length === 1);
  t.equal(await c.unwill(set[0]), 1, "deleted wills");
  await c.will(topic, "gone", { user: "bob" }, { after: 20 });
  c.close();
  await t.until(() => gone.length > 0);
  t.equal(gone, ["bob"], "wills");
};

tests["a server without $socket"] = async (t) => {
  const c = t.connection({ path: "bare", token: null });
  const room = c.socket.channel(t.topic("plain"));
  room.join();
  await t.call(room, "say", { text: "a" });
  await t.rejects(c.login("ann.1"), "unmatched topic");
  t.equal([c.info, c.auth.state, c.timeOffset, Math.abs(c.now() - Date.now()) < 1000], [null, "unknown", null, true], "what is known");
};
