// The page: what it shows, and what its buttons do. The way to the server is in socket.js.

import { Presence } from "./presence.js";
import { Socket } from "./socket.js";
import { longPoll, webSocket } from "./transports.js";

const TRANSPORTS = { websocket: webSocket, longpoll: longPoll };
const SHOWN = 500; // messages on the page
const REFS = 50; // presences of ours that a reload remembers
const TYPING = 4000; // ms that a typing notice is shown; it is sent twice as often

const $ = (id) => document.getElementById(id);
const page = new URL(location.href); // ?room=tea&transport=longpoll

if (!TRANSPORTS[page.searchParams.get("transport")]) page.searchParams.set("transport", "websocket");
$("transport").value = page.searchParams.get("transport");
$("name").value = page.searchParams.get("room") ?? $("name").value;
$("user").value = sessionStorage.getItem("user") ?? localStorage.getItem("user") ?? "";

const socket = new Socket("/socket", { transport: TRANSPORTS[$("transport").value] });
let room = null; // the channel, once somebody has entered
let me = "";
// The refs of our presences in this tab, the latest last. A name is no proof: another can have it too.
const mine = new Set(JSON.parse(sessionStorage.getItem("refs") ?? "[]"));

// ---- In and out ----

function enter() {
  me = $("user").value.trim();
  const name = $("name").value.trim();
  if (!me || !name) return;
  localStorage.setItem("user", me);
  sessionStorage.setItem("user", me); // a reload goes back in
  page.searchParams.set("room", name);
  history.replaceState(null, "", page);

  room = socket.channel(`room:${name}`, () => ({ user: me }));
  const presence = new Presence(room);
  presence.onchange = () => showUsers(presence.list());
  room.on("you", remember);
  room.on("new_msg", show);
  room.on("typing", ({ user }) => showTyping(user));
  room.onrefuse = ({ reason }) => leave(`You cannot enter: ${reason}.`);
  room.onclose = () => leave("The server has closed the room.");
  room.onjoin = ({ user, node, messages }) => {
    me = user;
    say("node", node ? `Node ${node}` : "");
    presence.expect();
    $("log").ariaLive = "off"; // what was said before is not news
    messages.forEach(show);
    requestAnimationFrame(() => ($("log").ariaLive = "polite"));
    for (const id of unsent.keys()) if ($(`message-${id}`).dataset.fate !== "refused") deliver(id);
  };
  room.join();
  socket.connect();

  document.title = `${name} · Chat`;
  $("title").textContent = name;
  $("problem").textContent = "";
  $("door").hidden = true;
  $("room").hidden = false;
  $("body").focus();
}

/** Remembers the ref of our presence, also for what was said before a reload. */
function remember({ ref }) {
  mine.add(ref);
  sessionStorage.setItem("refs", JSON.stringify([...mine].slice(-REFS)));
}

function leave(problem = "") {
  room.leave();
  socket.disconnect();
  room = null;
  sessionStorage.removeItem("user");
  unsent.clear();
  typists.clear();
  $("messages").replaceChildren();
  showUsers([]);
  showTyping();
  document.title = "Chat";
  $("problem").textContent = problem;
  $("room").hidden = true;
  $("door").hidden = false;
  $("user").focus();
}

$("enter").onsubmit = (event) => {
  event.preventDefault();
  enter();
};
$("leave").onclick = () => leave();
$("transport").onchange = ({ target }) => {
  page.searchParams.set("transport", target.value);
  history.replaceState(null, "", page);
  socket.use(TRANSPORTS[target.value]);
};

// A page that is put away says so, as otherwise a long poll would linger; one that is taken out again comes back.
addEventListener("pagehide", () => socket.disconnect());
addEventListener("pageshow", (event) => event.persisted && room && socket.connect());

// ---- The connection ----

let ticking;
let interrupted = false;

socket.onchange = () => {
  if (!room) return;
  const joined = room.state === "joined";
  const waiting = !joined && socket.state === "waiting";
  interrupted = !joined && (interrupted || waiting);
  $("line").dataset.state = joined ? "on" : "off";
  $("now").hidden = !waiting;
  say("state", joined ? "Connected" : `${navigator.onLine ? "" : "Offline. "}${interrupted ? "Reconnecting" : "Connecting"}`);
  clearInterval(ticking);
  if (waiting) ticking = setInterval(countDown, 250);
  if (waiting) countDown();
  else say("countdown", joined ? "" : " …");
};

function countDown() {
  const seconds = Math.max(1, Math.ceil((socket.retryAt - Date.now()) / 1000));
  say("countdown", ` in\u00a0${seconds}\u00a0s`);
}

/** Changes a text only if it is another, as changes are read out. */
function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

$("now").onclick = () => {
  socket.connect();
  $("body").focus();
};

// ---- Messages ----

const unsent = new Map(); // by id: the body of a message of ours that the server has not confirmed

function send(body) {
  const id = crypto.getRandomValues(new Uint32Array(4)).join("-"); // the same when it is sent again: it is never said twice
  unsent.set(id, body);
  const item = newItem(id, me, body, true);
  item.querySelector(".retry").onclick = () => {
    deliver(id);
    $("body").focus();
  };
  item.querySelector(".discard").onclick = () => {
    unsent.delete(id);
    item.remove();
    $("body").focus();
  };
  $("messages").append(item);
  toEnd();
  deliver(id);
}

async function deliver(id) {
  const item = $(`message-${id}`);
  const fate = (name, why) => {
    item.dataset.fate = name;
    item.querySelector(".why").textContent = why;
  };
  if (room.state !== "joined") return fate("waiting", "Waiting for the connection");
  fate("waiting", "Sending …");
  try {
    show(await room.push("new_msg", { id, body: unsent.get(id) }));
  } catch (error) {
    if (!unsent.has(id)) return; // discarded, or heard of by another way
    if (error.status === "closed") fate("waiting", "Waiting for the connection");
    else if (error.status === "timeout") fate("late", "No answer yet.");
    else fate("refused", `Not sent: ${error.message}.`);
  }
}

/** Shows a message that the server has: once, however often it comes. */
function show({ id, user, body, at, by }) {
  let item = $(`message-${id}`);
  if (item && !unsent.delete(id)) return;
  item ??= newItem(id, user, body, mine.has(by));
  delete item.dataset.fate;
  item.querySelector(".fate")?.remove();
  item.querySelector(".body").textContent = body;
  const time = item.querySelector("time");
  time.dateTime = at;
  time.textContent = timeOf(new Date(at));
  time.title = new Date(at).toLocaleString();
  // Ours that are still on their way stay at the end.
  $("messages").insertBefore(item, $("messages").querySelector("[data-fate]"));
  while ($("messages").children.length > SHOWN) $("messages").firstChild.remove();
  showTyping(user, false);
  $("newest").hidden = atEnd();
}

function newItem(id, user, body, own) {
  const item = $("message").content.cloneNode(true).firstElementChild;
  item.id = `message-${id}`;
  item.classList.toggle("own", own);
  item.querySelector(".user").textContent = own ? "You" : user;
  item.querySelector(".body").textContent = body;
  return item;
}

function timeOf(at) {
  const clock = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (at.toDateString() === new Date().toDateString()) return clock;
  return `${at.toLocaleDateString([], { day: "numeric", month: "short" })}, ${clock}`;
}

// The log is laid out from its end (column-reverse): 0 is the end, what is above is negative, and who reads at the end stays there.
function atEnd() {
  return $("log").scrollTop > -40;
}

function toEnd() {
  $("log").scrollTop = 0;
}

$("log").onscroll = () => atEnd() && ($("newest").hidden = true);
$("newest").onclick = () => {
  toEnd();
  $("body").focus();
};

// ---- Writing ----

let noticed = 0;

$("composer").onsubmit = (event) => {
  event.preventDefault();
  const body = $("body").value.trim();
  $("body").value = "";
  $("body").focus();
  noticed = 0;
  if (body) send(body);
};
$("body").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
};
$("body").oninput = () => {
  if (!$("body").value || Date.now() - noticed < TYPING / 2) return;
  noticed = Date.now();
  room.notify("typing");
};

// ---- The others ----

const typists = new Map(); // by user: the timer that ends the notice

function showTyping(user, starts = true) {
  clearTimeout(typists.get(user));
  typists.delete(user);
  if (user && starts) typists.set(user, setTimeout(showTyping, TYPING, user, false));
  const names = [...typists.keys()];
  if (names.length > 2) say("typing", `${names.length} people are typing …`);
  else if (names.length > 0) say("typing", `${names.join(" and ")} ${names.length === 1 ? "is" : "are"} typing …`);
  else say("typing", "");
}

function showUsers(users) {
  $("count").textContent = users.length;
  $("users").replaceChildren(
    ...users.sort(([a], [b]) => a.localeCompare(b)).map(([user, refs]) => {
      const item = document.createElement("li");
      item.dir = "auto";
      item.textContent = refs.some((ref) => mine.has(ref)) ? `${user} (you)` : user;
      if (refs.length > 1) item.textContent += ` · ${refs.length} devices`;
      return item;
    }),
  );
}

if (page.searchParams.get("room") && sessionStorage.getItem("user")) enter();
else $("user").focus();
