// The page's contents and controls. It is written against the API of phoenix.js. The import map of
// index.html names the module: js/socket.mjs, or the stock package.

import { LongPoll, Presence, Socket } from "phoenix";
import { dayOf, people, showAvatar, showText, timeOf } from "./view.js";

const TRANSPORTS = { websocket: WebSocket, longpoll: LongPoll };
const BACKOFF = [100, 500, 1000, 2000, 5000, 10000]; // ms before attempts; the last one repeats
const NO_SERVER = "The server does not answer. Try again later.";
const PING = 4000; // ms in which a connection must answer when the network has changed
const MAX_MESSAGES = 500; // on the page
const MAX_REFS = 50; // own presence refs that survive a reload
const GROUP = 5 * 60 * 1000; // ms; later messages of the same user show the name and time again
const NEAR = 100; // characters before the limit of a message, from where on they are counted
const MEASURE = 2000; // ms between measurements of the round trip
const TYPING = 4000; // ms for which a typing notice is shown; one is sent every TYPING / 2

const $ = (id) => document.getElementById(id);
const page = new URL(location.href); // ?room=tea&transport=longpoll

if (!TRANSPORTS[page.searchParams.get("transport")]) page.searchParams.set("transport", "websocket");
$("transport").value = page.searchParams.get("transport");
$("name").value = page.searchParams.get("room") ?? $("name").value;
$("user").value = sessionStorage.getItem("user") ?? localStorage.getItem("user") ?? "";

// The page leaves the room when the user navigates away, because a long-poll session would
// otherwise stay until its timeout. It comes back if the browser restores it. This is before the
// socket's own listener, which closes the connection.
addEventListener("pagehide", () => {
  store();
  part();
});
addEventListener("pageshow", (event) => event.persisted && topic && join());

let retryAt = 0; // time of the next attempt to connect, or 0
const socket = new Socket("/socket", {
  transport: TRANSPORTS[$("transport").value],
  params: () => {
    retryAt = 0; // an attempt begins
    queueMicrotask(showConnection);
    return {};
  },
  reconnectAfterMs: (tries) => {
    const jitter = 0.8 + 0.4 * Math.random(); // clients do not come back at once
    const delay = jitter * (BACKOFF[tries - 1] ?? BACKOFF.at(-1));
    retryAt = Date.now() + delay;
    return delay;
  },
});
let topic = ""; // from enter to leave
let room = null; // the channel of the topic
let entering = false; // from the form until the first answer of the server
let me = "";
// The presence refs of this tab, latest last. They identify the tab's own messages, because other
// users may have the same name.
const mine = new Set(JSON.parse(sessionStorage.getItem("refs") ?? "[]"));
// The position of the last message in the room's history, and its offset.
let at;
let seen = 0;

// ---- Entering and leaving ----

/** Enters the room. After the form, the page shows the room when the server has answered. */
function enter(byForm) {
  me = $("user").value.trim();
  const name = $("name").value.trim();
  if (!me || !name || topic) return;
  localStorage.setItem("user", me);
  sessionStorage.setItem("user", me); // a reload enters the same room
  page.searchParams.set("room", name);
  history.replaceState(null, "", page);

  $("title").textContent = $("title").title = name;
  $("second").href = page;
  $("problem").textContent = "";
  topic = `room:${name}`;
  entering = byForm;
  restore();
  join();
  if (entering) $("go").textContent = "Connecting…";
  else showRoom();
}

function showRoom() {
  entering = false;
  $("go").textContent = "Enter";
  $("entry").hidden = true;
  $("room").hidden = false;
  $("body").focus();
  showTitle();
}

/** Joins the room. If the connection is lost, the channel joins again by itself. */
function join() {
  const channel = socket.channel(topic, () => ({ user: me, $history: { since: at } }));
  room = channel;
  const presence = new Presence(room);
  presence.onSync(() => showUsers(presence.list((user, { metas }) => [user, metas.map((meta) => meta.phx_ref)])));
  room.on("you", remember);
  room.on("new_msg", receive);
  room.on("typing", ({ user }) => showTyping(user));
  room.onError(() => {
    for (const id of unsent.keys()) wait(id);
    showConnection();
  });
  room.onClose(() => channel === room && leave("The server closed the room."));
  room
    .join()
    .receive("ok", ({ user, node, messages, $history: past }) => {
      me = user;
      setText("node", node ?? "the only one");
      if (entering) showRoom();
      if (!past.recovered) {
        moveTo(past.pos);
        showRecent(messages);
      }
      showConnection();
      sendAgain();
    })
    .receive("error", ({ reason }) => {
      if (reason === "invalid position") moveTo();
      else if (!reason.startsWith("history ")) leave(`Cannot join: ${reason}.`);
    })
    .receive("timeout", () => entering && leave(NO_SERVER));
  socket.connect();
}

/** Stores the own presence ref. It also identifies own messages after a reload. */
function remember({ ref }) {
  mine.add(ref);
  sessionStorage.setItem("refs", JSON.stringify([...mine].slice(-MAX_REFS)));
}

function leave(problem = "") {
  sessionStorage.removeItem(topic);
  sessionStorage.removeItem("user");
  topic = "";
  part();
  socket.disconnect();
  moveTo();
  shown.clear();
  unsent.clear();
  typists.clear();
  $("messages").replaceChildren();
  entering = false;
  $("go").textContent = "Enter";
  $("panel").open = false;
  $("empty").textContent = "";
  showUsers([]);
  showTyping();
  showTitle();
  $("problem").textContent = problem;
  $("room").hidden = true;
  $("entry").hidden = false;
  $("user").focus();
}

/** Leaves the room on the server. */
function part() {
  const channel = room;
  room = null; // not closed by the server
  channel?.leave();
}

$("enter").onsubmit = (event) => {
  event.preventDefault();
  enter(true);
};
socket.onError(() => entering && leave(NO_SERVER));
$("leave").onclick = () => leave();
$("transport").onchange = ({ target }) => {
  page.searchParams.set("transport", target.value);
  history.replaceState(null, "", page);
  part();
  socket.disconnect(() => {
    if (room || !topic) return;
    socket.replaceTransport(TRANSPORTS[target.value]);
    join();
  });
};
addEventListener("visibilitychange", () => document.hidden && store());

// ---- The connection ----

let ticking;
let interrupted = false;

function showConnection() {
  if (!room) return;
  const joined = room.isJoined();
  const waiting = !joined && retryAt > 0;
  interrupted = !joined && (interrupted || waiting);
  $("connection").dataset.state = joined ? "on" : "off";
  $("now").hidden = !waiting;
  const offline = navigator.onLine ? "" : "Offline. ";
  setText("state", joined ? "Connected" : offline + (interrupted ? "Reconnecting" : "Connecting"));
  clearInterval(ticking);
  if (waiting) ticking = setInterval(countDown, 250);
  if (waiting) countDown();
  else setText("countdown", joined ? "" : " …");
  if (joined) setText("empty", "No messages yet.");
  else if (!$("empty").textContent) setText("empty", "Connecting…");
}

for (const register of ["onOpen", "onClose", "onError"]) socket[register](showConnection);

/** Connects now, instead of when the wait is over or a dead connection is noticed. */
function reconnect() {
  socket.disconnect(() => {
    socket.connect();
    showConnection();
  });
}

/** Checks the connection when the network or the page comes back. */
function check() {
  if (!room || document.hidden) return;
  if (!socket.isConnected()) return reconnect();
  const late = setTimeout(reconnect, PING);
  socket.ping(() => clearTimeout(late));
}

for (const event of ["online", "offline", "visibilitychange"]) addEventListener(event, check);

function countDown() {
  const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
  setText("countdown", ` in\u00a0${seconds}\u00a0s`);
}

/** Measures the round trip while the panel is open. */
let measuring;
$("panel").ontoggle = () => {
  clearInterval(measuring);
  setText("rtt", "…");
  if (!$("panel").open) return;
  const measure = () => socket.ping((ms) => setText("rtt", `${ms}\u00a0ms`)) || setText("rtt", "…");
  measure();
  measuring = setInterval(measure, MEASURE);
};
$("panel").onkeydown = (event) => event.key === "Escape" && ($("panel").open = false);

/** Sets an element's text if it differs, because screen readers announce each change. */
function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

$("now").onclick = () => {
  reconnect();
  $("body").focus();
};

// ---- Missed messages ----

// The server sends what this tab missed after the position "at": while it was offline, and before
// it was reloaded. See docs/recovery.md.

function moveTo(position) {
  at = position;
  seen = Number(position?.split("-")[1] ?? 0);
}

function receive({ $pos, ...message }) {
  if (Number($pos.split("-")[1]) <= seen) return; // a frame of the join before this one
  moveTo($pos);
  show(message);
}

/** Shows the latest messages, after a join that did not continue: others may be missing. */
function showRecent(messages) {
  const last = [...$("messages").children].findLast((item) => !item.dataset.pending);
  const missing = last && !last.matches(".gap") && !messages.some(({ id }) => shown.has(id));
  if (missing) insert($("gap").content.cloneNode(true).firstElementChild);
  quietly(() => messages.forEach(show));
}

/** Calls a function that shows earlier messages, which screen readers do not announce. */
function quietly(show) {
  $("log").ariaLive = "off";
  show();
  requestAnimationFrame(() => ($("log").ariaLive = "polite"));
}

/** Sends the messages again that the server may not have. */
async function sendAgain() {
  if (unsent.size === 0) return;
  const ids = [...unsent.keys()];
  // First receive what the server has.
  await request("$history", { top: true });
  for (const id of ids) if (unsent.has(id) && $(`message-${id}`).dataset.pending !== "refused") deliver(id);
}

/** Stores the messages with the position behind them, so that a reload continues there. */
function store() {
  if (topic) sessionStorage.setItem(topic, JSON.stringify({ at, messages: [...shown.values()] }));
}

function restore() {
  const stored = JSON.parse(sessionStorage.getItem(topic) ?? "{}");
  moveTo(stored.at);
  quietly(() => stored.messages?.forEach(show));
}

// ---- Messages ----

const shown = new Map(); // by ID: the messages of the server, oldest first
const unsent = new Map(); // by ID: the bodies of own messages that the server has not confirmed

function send(body) {
  // Every attempt sends the same ID, so that the server can ignore repetitions.
  const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
  unsent.set(id, body);
  const item = newItem(id, me, body, true);
  item.querySelector(".retry").onclick = () => {
    deliver(id);
    $("body").focus();
  };
  const discard = () => {
    unsent.delete(id);
    item.remove();
    $("body").focus();
  };
  item.querySelector(".discard").onclick = discard;
  item.querySelector(".edit").onclick = () => {
    $("body").value = [body, $("body").value].filter(Boolean).join("\n");
    discard();
    countCharacters();
  };
  $("messages").append(item);
  group(item);
  scrollToEnd();
  deliver(id);
}

/** Sends a message, and shows what became of it. */
async function deliver(id) {
  if (!room?.isJoined()) return wait(id);
  setPending(id, "waiting", "Sending …");
  const joinRef = room.joinRef();
  const { status, response } = await request("new_msg", { id, body: unsent.get(id) });
  if (!unsent.has(id)) return; // discarded, or confirmed by a broadcast
  // Usually the message itself has arrived before the reply.
  if (status === "ok") show({ id, user: me, body: unsent.get(id), at: new Date().toISOString(), by: [...mine].at(-1) });
  else if (status === "error") setPending(id, "refused", `Not sent: ${response.reason}.`);
  else if (joinRef === room?.joinRef()) setPending(id, "late", "No reply yet.");
}

/** Shows that a message is sent when the connection is back. */
function wait(id) {
  if ($(`message-${id}`).dataset.pending !== "refused") setPending(id, "waiting", "Waiting for the connection");
}

function setPending(id, state, why) {
  const item = $(`message-${id}`);
  item.dataset.pending = state;
  item.querySelector(".why").textContent = why;
}

/** Sends an event, and returns a promise of the reply. */
function request(event, payload) {
  return new Promise((resolve) => {
    const push = room.push(event, payload);
    for (const status of ["ok", "error", "timeout"]) push.receive(status, (response) => resolve({ status, response }));
  });
}

/** Shows a message from the server. It shows a repeated message once. */
function show(message) {
  const { id, user, body, at, by } = message;
  let item = $(`message-${id}`);
  if (item && !unsent.delete(id)) return;
  item ??= newItem(id, user, body, mine.has(by));
  delete item.dataset.pending;
  item.querySelector(".pending")?.remove();
  showText(item.querySelector(".body"), body);
  showTime(item, new Date(at));
  shown.set(id, message);
  insert(item);
  showTyping(user, false);
  if (document.hidden && !mine.has(by)) showTitle(unread + 1);
  $("newest").hidden = atEnd();
}

/** Inserts an item at the end, but before own messages that are not confirmed yet. */
function insert(item) {
  const pending = $("messages").querySelector("[data-pending]");
  $("messages").insertBefore(item, pending);
  group(item);
  group(pending);
  while ($("messages").children.length > MAX_MESSAGES) {
    const first = $("messages").firstElementChild;
    shown.delete(first.id.slice("message-".length));
    first.remove();
  }
}

/** Shows the author and the time once for messages that follow each other, and the day once. */
function group(item) {
  if (!item?.dataset.at) return;
  const { at, author } = item.dataset;
  const before = item.previousElementSibling?.dataset ?? {};
  const sameDay = before.at && dayOf(new Date(+before.at)) === dayOf(new Date(+at));
  item.querySelector(".day").textContent = sameDay ? "" : dayOf(new Date(+at));
  item.classList.toggle("more", Boolean(sameDay) && before.author === author && at - before.at < GROUP);
}

function newItem(id, user, body, own) {
  const item = $("message").content.cloneNode(true).firstElementChild;
  item.id = `message-${id}`;
  item.classList.toggle("own", own);
  item.dataset.author = own ? "" : user;
  item.querySelector(".user").textContent = own ? "You" : user;
  item.querySelector(".user").title = user;
  showAvatar(item.querySelector(".avatar"), user);
  showText(item.querySelector(".body"), body);
  if (own) showTime(item, new Date());
  return item;
}

function showTime(item, at) {
  item.dataset.at = at.getTime();
  const time = item.querySelector("time");
  time.dateTime = at.toISOString();
  time.textContent = timeOf(at);
  item.title = at.toLocaleString();
}

let unread = 0; // messages that arrived while the tab was hidden

/** Shows the room and the number of unread messages in the title. */
function showTitle(n = 0) {
  unread = n;
  const name = topic ? `${$("title").textContent} · Chat` : "Chat";
  document.title = unread > 0 ? `(${unread}) ${name}` : name;
}

addEventListener("visibilitychange", () => document.hidden || showTitle());

// The log is laid out from its end (column-reverse). The scroll position of the end is 0, and
// positions above are negative. A log at its end stays there when messages are added.
function atEnd() {
  return $("log").scrollTop > -40;
}

function scrollToEnd() {
  $("log").scrollTop = 0;
}

$("log").onscroll = () => atEnd() && ($("newest").hidden = true);
$("newest").onclick = () => {
  scrollToEnd();
  $("body").focus();
};

// ---- Writing ----

let noticed = 0; // time of the last typing notice

$("composer").onsubmit = (event) => {
  event.preventDefault();
  const body = $("body").value.trim();
  $("body").value = "";
  $("body").focus();
  countCharacters();
  noticed = 0;
  if (body) send(body);
};
$("body").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
};
$("body").oninput = () => {
  countCharacters();
  if (!$("body").value || Date.now() - noticed < TYPING / 2) return;
  noticed = Date.now();
  if (room?.isJoined()) room.push("typing");
};

/** Shows near the limit how many characters are left. */
function countCharacters() {
  const left = $("body").maxLength - $("body").value.length;
  setText("left", left <= NEAR ? `${left} left` : "");
}

// ---- Other users ----

const typists = new Map(); // by user: the timer that ends the notice

function showTyping(user, starts = true) {
  clearTimeout(typists.get(user));
  typists.delete(user);
  if (user && starts) typists.set(user, setTimeout(showTyping, TYPING, user, false));
  const names = [...typists.keys()];
  if (names.length > 2) setText("typing", `${people(names.length)} are typing …`);
  else if (names.length === 2) setText("typing", `${names.join(" and ")} are typing …`);
  else if (names.length === 1) setText("typing", `${names[0]} is typing …`);
  else setText("typing", "");
}

function showUsers(users) {
  setText("here-title", users.length > 0 ? `${people(users.length)} here` : "");
  $("alone").hidden = users.length !== 1 || users[0][1].length !== 1;
  $("users").replaceChildren(
    ...users.sort(([a], [b]) => a.localeCompare(b)).map(([user, refs]) => {
      const item = $("person").content.cloneNode(true).firstElementChild;
      showAvatar(item.querySelector(".avatar"), user);
      item.querySelector(".name").textContent = item.title = user;
      const notes = refs.some((ref) => mine.has(ref)) ? " (you)" : "";
      item.querySelector(".note").textContent = refs.length > 1 ? `${notes} · ${refs.length} devices` : notes;
      return item;
    }),
  );
}

if (page.searchParams.get("room") && sessionStorage.getItem("user")) enter(false);
else $("user").focus();
