// The dialog with one topic: its members on all nodes, who is present, and its events.

import { confirmed } from "./confirm.mjs";
import { age, bytes, count, fill, make, setText, time } from "./view.mjs";

const $ = (id) => document.getElementById(id);
const MAX_EVENTS = 200; // in the list

export class TopicView {
  paused = false;
  #socket;
  #act;
  #operate = false;
  #channel = null;
  #name = "";
  #lists = new Map(); // of members, by the id of the node

  constructor(socket, act) {
    this.#socket = socket;
    this.#act = act;
    $("topic-close").addEventListener("click", () => $("topic").close());
    $("topic").addEventListener("close", () => this.#leave());
    $("broadcast").addEventListener("submit", (e) => {
      e.preventDefault();
      this.#broadcast();
    });
  }

  /** Shows what the greeting of the server allows. */
  allow({ operate, events }) {
    this.#operate = operate;
    $("broadcast").hidden = !operate;
    $("events-section").hidden = !events;
  }

  /** Opens a topic. */
  open(name) {
    this.#leave();
    this.#name = name;
    setText($("topic-title"), name);
    $("topic-error").hidden = true;
    setText($("broadcast-result"), "");
    $("events").replaceChildren();
    setText($("events-count"), "Waiting for events.");
    this.#showMembers();
    this.#showPresent({ present: [], count: 0 });
    this.#channel = this.#socket.channel(`topic:${name}`, {});
    this.#channel.on("members", (list) => {
      this.#lists.set(list.id, { ...list, seen: Date.now() });
      if (!this.paused) this.#showMembers();
    });
    this.#channel.on("view", (view) => {
      if (!this.paused) this.#showPresent(view);
      this.#addEvents(view);
    });
    this.#channel.join().receive("error", ({ reason }) => {
      setText($("topic-error"), `The topic cannot be opened: ${reason}`);
      $("topic-error").hidden = false;
    });
    if (!$("topic").open) $("topic").showModal();
  }

  #leave() {
    this.#channel?.leave();
    this.#channel = null;
    this.#lists.clear();
  }

  #showMembers() {
    const lists = [...this.#lists.values()].filter((l) => Date.now() - l.seen < 10_000);
    const total = lists.reduce((n, l) => n + l.total, 0);
    const rows = lists.flatMap((l) => l.members.map((m) => ({ ...m, node: l.node })));
    const listed = rows.length < total ? `, ${count(rows.length)} of them listed` : "";
    setText($("members-count"), `${count(total)} on ${lists.length} ${lists.length === 1 ? "node" : "nodes"}${listed}`);
    fill($("members"), rows, (m) => m.connection, (m) => [
      m.id || "–",
      { text: m.connection, class: "id", title: `client ${m.client}` },
      m.node,
      { text: age(Date.now() - m.begun), class: "number" },
      { text: bytes(m.mailbox), class: "number" },
      this.#removeButton(m),
    ], "Nobody has joined it.");
  }

  #removeButton(m) {
    if (!this.#operate) return "";
    const label = `Remove ${m.id || m.connection}`;
    const b = make("button", { type: "button", class: "danger", "aria-label": label }, "Remove");
    const topic = this.#name;
    b.addEventListener("click", () => confirmed({
      title: "Remove a member",
      text: `${m.id || "An anonymous client"}, connection ${m.connection}, from ${topic}. It may join again.`,
      yes: "Remove",
      withReason: true,
      act: (reason) => this.#act("kick", { topic, connection: m.connection, reason }),
    }));
    b.same = topic;
    return b;
  }

  #showPresent({ present, count: total }) {
    const listed = present.length < total ? `, ${count(present.length)} of them listed` : "";
    setText($("present-count"), `${count(total)} ${total === 1 ? "key" : "keys"} on all nodes${listed}`);
    fill($("present"), present, (p) => p.key, (p) => [
      p.key, { text: count(p.metas), class: "number" }, { text: p.entry, class: "json" },
    ], "Nobody is tracked on it.");
  }

  #addEvents({ events, missed }) {
    if (events.length === 0 && missed === 0) return;
    const list = $("events");
    if (missed > 0) list.prepend(make("li", { class: "quiet" }, `${count(missed)} more events, which had no room`));
    for (const e of events) {
      list.prepend(make("li", {},
        make("time", {}, time(e.at)), " ", make("b", {}, e.event), " ",
        make("span", { class: "quiet" }, `${bytes(e.size)}${e.recorded ? ", recorded" : ""}`), " ",
        make("code", {}, e.payload)));
    }
    while (list.children.length > MAX_EVENTS) list.lastElementChild.remove();
    setText($("events-count"), "The newest first.");
  }

  #broadcast() {
    const done = (text) => setText($("broadcast-result"), text);
    let payload;
    try {
      payload = JSON.parse($("broadcast-payload").value || "{}");
    } catch (err) {
      return done(`The payload is not JSON: ${err.message}`);
    }
    const event = $("broadcast-event").value;
    const topic = this.#name;
    confirmed({
      title: "Broadcast",
      text: `The event ${event} to everyone on ${topic}, on all nodes.`,
      yes: "Broadcast",
      act: () => this.#act("broadcast", { topic, event, payload }).then(() => done(`${event} was broadcast.`)),
    });
  }
}
