// The page: it joins the topic "live", whose summaries it shows, and a topic of its own for the
// topic that is open.

import { Socket } from "./js/socket.mjs";
import { Cluster } from "./model.mjs";
import { TopicView } from "./topic.mjs";
import { confirmed } from "./confirm.mjs";
import { age, bytes, chart, count, fill, make, micros, newChart, rate, setText, time } from "./view.mjs";

const $ = (id) => document.getElementById(id);
const cluster = new Cluster();
let operate = false;
let paused = false;

// ---- The connection ----

const url = new URL("socket", document.baseURI);
url.protocol = url.protocol.replace("http", "ws");
const socket = new Socket(url.href, {
  longPollFallbackMs: 5000,
  reconnectAfterMs: (tries) => [100, 500, 1000, 2000, 5000][tries - 1] ?? 5000,
});
const live = socket.channel("live", {});
const topic = new TopicView(socket, act);

let failures = 0;
socket.onOpen(() => (failures = 0));
socket.onError(() => {
  setStatus("waiting", ++failures > 3 ? "Not connected. May you still see this page?" : "Reconnecting…");
});
socket.onClose(() => setStatus("waiting", "Reconnecting…"));
live.on("summary", (summary) => {
  cluster.add(summary);
  if (!paused) schedule();
});
live
  .join()
  .receive("ok", (greeting) => {
    operate = greeting.operate;
    cluster.every = greeting.every;
    document.body.classList.toggle("operator", operate);
    topic.allow(greeting);
    setText($("level"), operate ? "Operator" : "View only");
    $("level").hidden = false;
    setStatus(paused ? "paused" : "connected", paused ? "Paused" : "Connected");
  })
  .receive("error", ({ reason }) => setStatus("waiting", `Refused: ${reason}`));
socket.connect();

function setStatus(state, text) {
  $("status").dataset.state = state;
  setText($("status"), text);
}

/** Pushes an action. The promise fails with a readable error. */
function act(event, payload) {
  return new Promise((resolve, reject) => {
    if (!live.canPush()) return reject(new Error("not connected"));
    live
      .push(event, payload)
      .receive("ok", resolve)
      .receive("error", ({ reason }) => reject(new Error(reason)))
      .receive("timeout", () => reject(new Error("no answer")));
  });
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  topic.paused = paused;
  if (!paused) show();
  if (socket.isConnected()) setStatus(paused ? "paused" : "connected", paused ? "Paused" : "Connected");
});

$("open-topic").addEventListener("submit", (e) => {
  e.preventDefault();
  topic.open($("topic-name").value);
});

// ---- Showing ----

// The summaries of all nodes arrive together. They are shown together.
let scheduled = 0;
function schedule() {
  scheduled ||= setTimeout(() => {
    scheduled = 0;
    if (!paused) show();
  }, 100);
}

// Silent nodes are shown even if no summary arrives.
setInterval(() => {
  cluster.record();
  if (!paused) show();
}, 2000);

function show() {
  showTotals();
  showNodes();
  showTopics();
  showConnections();
  showTimes();
  showCrashes();
  const advice = cluster.advice();
  $("notice").hidden = !advice;
  setText($("notice"), advice);
}

const TOTALS = [
  ["connections", "Connections", count],
  ["channels", "Channels", count],
  ["joins", "Joins/s", rate],
  ["events", "Events/s", rate],
  ["broadcasts", "Broadcasts/s", rate],
  ["delivered", "Deliveries/s", rate],
  ["waiting", "Waiting", bytes],
  ["crashed", "Crashes", count],
];
const tiles = new Map();
for (const [name, label] of TOTALS) {
  const value = make("dd", { id: `total-${name}` }, "–");
  const svg = newChart();
  $("totals").append(make("div", {}, make("dt", {}, label), value, svg));
  tiles.set(name, { value, svg });
}

function showTotals() {
  const totals = cluster.totals();
  for (const [name, , format] of TOTALS) {
    const { value, svg } = tiles.get(name);
    setText(value, format(totals[name]));
    value.classList.toggle("bad", name === "crashed" && totals[name] > 0);
    chart(svg, cluster.history.get(name) ?? [totals[name]]);
  }
}

const number = (text) => ({ text, class: "number" });

function showNodes() {
  const rows = cluster.nodes().map((n) => ({ ...n, warn: n.silent || !n.summary.engine.connected }));
  fill($("nodes"), rows, (n) => n.summary.id, ({ summary: s, rates: r, silent }) => [
    { text: s.node, title: s.id },
    number(age(s.at - s.begun)),
    {
      text: count(s.websocket + s.longpoll), class: "number",
      title: `${s.websocket} WebSocket, ${s.longpoll} long poll`,
    },
    number(count(s.channels)),
    number(count(s.topics)),
    number(rate(r.joined)),
    number(rate(r.events)),
    number(rate(r.broadcasts)),
    number(rate(r.delivered)),
    number(bytes(s.queued)),
    number(bytes(s.mailbox)),
    number(count(s.counts.dropped)),
    number(bytes(s.memory)),
    number(count(s.goroutines)),
    silent ? { text: "silent", class: "bad" } : engine(s.engine),
  ], "No node has answered yet.");
}

function engine(e) {
  const title = `${bytes(e.queued)} queued, ${e.dropped} broadcasts dropped${e.err ? `: ${e.err}` : ""}`;
  return e.connected ? { text: "connected", class: "", title } : { text: "disconnected", class: "bad", title };
}

function topicButton(name) {
  const b = make("button", { type: "button", class: "link", onclick: () => topic.open(name) }, name || "(empty)");
  b.same = name;
  return b;
}

function showTopics() {
  fill($("topics"), cluster.topics(), (t) => t.topic, (t) => [
    topicButton(t.topic), number(count(t.subscribers)), number(count(t.nodes)),
  ], "Nobody has joined a topic.");
}

function disconnectButton(c) {
  if (!operate) return "";
  const label = `Disconnect ${c.id || c.connection}`;
  const b = make("button", { type: "button", class: "danger", "aria-label": label }, "Disconnect");
  b.addEventListener("click", () => confirmed({
    title: "Disconnect a client",
    text: `${c.id || "An anonymous client"}, connection ${c.connection} on ${c.node}. It may connect again.`,
    yes: "Disconnect",
    act: () => act("disconnect", { connection: c.connection }),
  }));
  b.same = "disconnect";
  return b;
}

function showConnections() {
  fill($("connections"), cluster.connections(), (c) => c.connection, (c) => [
    { text: c.connection, class: "id", title: `client ${c.client}` },
    c.id || "–",
    c.node,
    c.transport,
    number(age(Date.now() - c.lag - c.begun)),
    number(count(c.channels)),
    { text: bytes(c.queued), class: c.queued > 100_000 ? "number bad" : "number" },
    { text: bytes(c.mailbox), class: c.mailbox > 100_000 ? "number bad" : "number" },
    disconnectButton(c),
  ], "Nobody is connected.");
}

function showTimes() {
  fill($("times"), cluster.times(), (t) => JSON.stringify([t.nodeID, t.route, t.kind, t.name]), (t) => [
    t.route || "–",
    [t.kind, t.name].filter(Boolean).join(" "),
    t.node,
    number(count(t.count)),
    number(micros(t.median)),
    number(micros(t.p99)),
    number(micros(t.max)),
  ], "No callback has run in the last minute.");
}

function showCrashes() {
  const box = $("crashes");
  const list = cluster.crashes();
  const keyOf = (c) => JSON.stringify([c.nodeID, c.at, c.topic, c.err]);
  const old = new Map([...box.children].map((e) => [e.dataset.key, e]));
  const wanted = list.map((c) => old.get(keyOf(c)) ?? crash(c, keyOf(c)));
  if (wanted.length === 0) wanted.push(old.get("none") ?? crashNone());
  const changed = wanted.length !== box.children.length || wanted.some((e, i) => box.children[i] !== e);
  if (changed) box.replaceChildren(...wanted);
}

function crashNone() {
  const p = make("p", { class: "quiet" }, "None since the nodes have started.");
  p.dataset.key = "none";
  return p;
}

function crash(c, key) {
  const e = make("details", {},
    make("summary", {},
      make("time", {}, time(c.at)), " ", make("b", {}, c.route || c.topic), ` ${c.err || c.reason}`),
    make("p", { class: "quiet" }, `${c.reason}, topic ${c.topic}${c.event ? `, event ${c.event}` : ""}, node ${c.node}`),
    make("pre", { tabindex: "0" }, c.stack || "There is no stack: a bound or an error ended the channel."));
  e.dataset.key = key;
  return e;
}
