// The page of the board. The cards are a shared map. The people and their cursors are a channel.

import { call, connect, openMap } from "./js/bennu.mjs";
import { Presence, Socket } from "./js/socket.mjs";

const $ = (id) => document.getElementById(id);
const make = (id) => $(id).content.cloneNode(true).firstElementChild;
let connection, board, room; // from enter on
let me = {}; // the claims of the token: {id, name, moderator}

/** Fetches a token, by the one before or for a new user. The address may have a moderator's key. */
async function fetchToken() {
  const { name, token } = sessionStorage; // of this tab
  const body = JSON.stringify({ name, token, key: location.hash.slice(1) });
  const response = await fetch("token", { method: "POST", body });
  const text = await response.text();
  if (!response.ok) throw new Error(text.trim());
  return (sessionStorage.token = text);
}

async function enter() {
  const problem = await fetchToken().then(() => null, (error) => error.message);
  if (problem) return show(problem);
  [$("entry").hidden, $("board").hidden] = [true, false];
  const onAuth = ({ claims }) => { me = claims ?? me; };
  connection = connect(Socket, "/socket", { token: fetchToken, onAuth, onDenied: show });
  room = connection.socket.channel("room:main");
  room.on("cursor", showCursor);
  const people = new Presence(room);
  people.onSync(() => showPeople(people.list((id, { metas }) => metas[0])));
  room.join();
  openMap(connection.socket, "board:main", { onChange: (map) => showCards((board = map)) });
}

/** Shows the form instead of the board. */
function show(problem) {
  connection?.close();
  [$("entry").hidden, $("board").hidden] = [false, true];
  $("problem").textContent = problem && `You cannot enter: ${problem}.`;
  $("name").value = sessionStorage.name ?? "";
  $("name").focus();
}

document.querySelector("#entry form").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.name = $("name").value;
  enter();
};
$("leave").onclick = () => { sessionStorage.clear(); location.reload(); };

const writes = new Map(); // by key: the promise of the last one
const undos = []; // own changes, the latest last: {key, before, base, rev}
let undoing = Promise.resolve();
/** Changes members of a card, or deletes it. Writes of one card wait for each other. */
const write = (key, patch, undone) =>
  writes.set(key, Promise.resolve(writes.get(key)).then(() => writeNow(key, patch, undone)));

/** Writes if the card has the revision shown, or the one that the change to undo has made. */
async function writeNow(key, patch, undone) {
  const [before, base] = [board.get(key), board.rev(key)];
  const after = patch && { ...before, ...patch, by: me.name };
  const options = { if: undone?.rev ?? base };
  try {
    await (after ? board.set(key, after, options) : board.delete(key, options));
    const [rev, now, earlier] = [board.rev(key), board.get(key), undos.findLast((u) => u.key === key)];
    const isOurs = JSON.stringify(now) === JSON.stringify(after);
    if (!undone && isOurs) undos.push({ key, before, base, rev });
    if (undone && isOurs && earlier?.rev === undone.base) earlier.rev = rev; // as it was then
    showStatus();
  } catch ({ reason }) {
    showStatus(`Not changed: ${reason === "conflict" ? "somebody else has changed the card" : reason}`);
  }
}

/** Undoes the last change when all are done. */
function undo() {
  undoing = undoing.then(() => Promise.all(writes.values())).then(() => {
    const last = undos.pop();
    if (last) write(last.key, last.before, last);
  });
}
$("undo").onclick = undo;
onkeydown = (event) => {
  if (event.key === "z" && (event.ctrlKey || event.metaKey) && !event.target.matches("input, p")) undo();
};

const items = new Map(); // by key: the element of a card
const lists = ["To do", "Doing", "Done"].map((title, list) => {
  const section = make("list");
  const form = section.querySelector("form");
  section.querySelector("h2").textContent = title;
  form[0].ariaLabel = `New card in ${title}`;
  form.onsubmit = (event) => {
    event.preventDefault();
    move(crypto.getRandomValues(new Uint32Array(3)).join("-"), list, undefined, { text: form[0].value });
    form.reset();
  };
  section.ondragover = (event) => event.preventDefault();
  section.ondrop = (event) => {
    event.preventDefault();
    const key = event.dataTransfer.getData("text/plain");
    const bottom = (k) => items.get(k).getBoundingClientRect().bottom;
    if (board.has(key)) move(key, list, order(list, key).find((k) => bottom(k) > event.clientY));
  };
  $("lists").append(section);
  return section;
});

/** The keys of a list's cards from top to bottom, without one of them. */
function order(list, without) {
  const at = (key) => board.get(key).at;
  return board.keys().filter((key) => key !== without && board.get(key).list === list).sort((a, b) => at(a) - at(b));
}

/** Moves a card, or makes one, before another one or to the end of a list. */
function move(key, list, next, patch) {
  const keys = order(list, key);
  const i = keys.includes(next) ? keys.indexOf(next) : keys.length;
  const below = board.get(keys[i])?.at ?? (board.get(keys[i - 1])?.at ?? 0) + 2;
  const above = board.get(keys[i - 1])?.at ?? below - 2;
  write(key, { ...patch, list, at: (above + below) / 2 });
}

function showCards() {
  for (const [key, item] of items) if (!board.has(key)) items.delete(key), item.remove();
  lists.forEach((section, list) => order(list).forEach((key, i) => {
    if (!items.has(key)) items.set(key, newItem(key));
    const [item, ol, focused] = [items.get(key), section.querySelector("ol"), document.activeElement];
    if (ol.children[i] !== item) ol.insertBefore(item, ol.children[i]);
    if (item.contains(focused)) focused.focus(); // moving it has blurred it
    const [text, by] = item.querySelectorAll("p, span");
    if (!text.isContentEditable) text.textContent = board.get(key).text;
    by.textContent = board.get(key).by;
  }));
  showStatus();
}

function newItem(key) {
  const item = make("card");
  const text = item.querySelector("p");
  const aside = (by) => lists[board.get(key).list + by] && move(key, board.get(key).list + by);
  const down = (by) => {
    const keys = order(board.get(key).list);
    const i = keys.indexOf(key) + by;
    if (keys[i]) move(key, board.get(key).list, keys[by > 0 ? i + 1 : i]);
  };
  const edit = () => { text.contentEditable = "plaintext-only"; text.focus(); };
  const cancel = () => { text.textContent = board.get(key)?.text; item.focus(); };
  const actions = { ArrowLeft: () => aside(-1), ArrowRight: () => aside(1), Enter: edit, Delete: () => write(key) };
  item.querySelectorAll("button").forEach((button, i) => { button.onclick = Object.values(actions)[i]; });
  Object.assign(actions, { ArrowUp: () => down(-1), ArrowDown: () => down(1) });
  item.onkeydown = (event) => {
    const action = { LI: actions, P: { Enter: () => item.focus(), Escape: cancel } }[event.target.tagName]?.[event.key];
    if (!action || event.isComposing) return;
    event.preventDefault();
    action();
  };
  text.onblur = () => {
    text.contentEditable = "inherit";
    if (board.has(key) && text.textContent !== board.get(key).text) write(key, { text: text.textContent });
  };
  item.ondragstart = ({ dataTransfer }) => dataTransfer.setData("text/plain", key);
  return item;
}

function showStatus(problem) {
  $("status").textContent = problem ?? (!board?.synced ? "Connecting …" : board.pending ? "Saving …" : "Saved");
  $("undo").disabled = undos.length === 0;
}

const cursors = new Map(); // by user ID: the element
const hue = (id) => [...id].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 360, 0);
let names = new Map(); // by ID, of those who are here
let sentAt = 0; // time of the last cursor

function showPeople(people) {
  names = new Map(people.map(({ id, name }) => [id, name]));
  for (const id of cursors.keys()) if (!names.has(id)) showCursor({ id, list: -1 });
  $("people").replaceChildren(...people.map(({ id, name }) => {
    const item = make("person");
    const button = item.querySelector("button");
    item.querySelector("span").textContent = id === me.id ? `${name} (you)` : name;
    item.style.setProperty("--hue", hue(id));
    [button.hidden, button.ariaLabel] = [!me.moderator || id === me.id, `Remove ${name}`];
    button.onclick = () => call(room, "remove", { id }).catch(({ reason }) => showStatus(`Not removed: ${reason}`));
    return item;
  }));
}

function showCursor({ id, list, x, y }) {
  const cursor = cursors.get(id) ?? document.createElement("i");
  Object.assign(cursor, { textContent: names.get(id), ariaHidden: true });
  cursor.style.cssText = `--hue: ${hue(id)}; left: ${100 * x}%; top: ${y}px`;
  cursor.remove();
  cursors.delete(id);
  if (lists[list] && names.has(id)) cursors.set(id, lists[list].appendChild(cursor));
}

function sendCursor({ type, target, clientX, clientY }) {
  const list = type === "pointermove" ? lists.indexOf(target.closest("section")) : -1;
  if (!room.isJoined() || (list >= 0 && performance.now() - sentAt < 50)) return;
  sentAt = performance.now();
  const { left, top, width } = lists[Math.max(list, 0)].getBoundingClientRect();
  room.push("cursor", { list, x: (clientX - left) / width, y: clientY - top });
}

$("lists").onpointermove = $("lists").onpointerleave = sendCursor;

if (sessionStorage.token) enter();
else show("");
