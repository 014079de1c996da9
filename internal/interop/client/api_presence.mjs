// The API of Presence, as in api.mjs. The channel is one without a server.
import {scenario} from "./kit.mjs"

/** A channel that receives what the scenario sends to it. */
function channel() {
  const handlers = {}
  let ref = "1"
  return {
    on: (event, f) => { handlers[event] = f },
    joinRef: () => ref,
    send: (event, payload) => handlers[event](structuredClone(payload)),
    rejoin: () => { ref = String(Number(ref) + 1) },
  }
}

/** The state or the half of a diff with these users and the refs of their connections. */
const users = refs => Object.fromEntries(Object.entries(refs).map(([key, list]) =>
  [key, {metas: list.map(phx_ref => ({phx_ref}))}]))

/** The refs of each user. */
const refsOf = state => Object.fromEntries(Object.entries(state).map(([key, entry]) =>
  [key, entry.metas.map(m => m.phx_ref)]))

const diff = (joins, leaves = {}) => ({joins: users(joins), leaves: users(leaves)})

const refs = entry => entry ? entry.metas.map(m => m.phx_ref) : null

function present(k, opts) {
  const c = channel()
  const p = new k.phoenix.Presence(c, opts)
  const events = []
  p.onJoin((key, current, joined) => events.push(["join", key, refs(current), refs(joined)]))
  p.onLeave((key, current, left) => events.push(["leave", key, refs(current), refs(left)]))
  p.onSync(() => events.push("sync"))
  return {c, p, events}
}

scenario("new Presence", async k => {
  const {c, p} = present(k, {events: {state: "state", diff: "diff"}})
  c.send("state", users({ann: ["a"]}))
  c.send("diff", diff({bob: ["b"]}))
  k.equal(p.list(key => key), ["ann", "bob"], "events of other names")
})

scenario("presence.onJoin", async k => {
  const {c, events} = present(k)
  c.send("presence_state", users({ann: ["a1"]}))
  c.send("presence_diff", diff({ann: ["a2"], bob: ["b"]}))
  k.equal(events.filter(e => e[0] === "join"),
    [["join", "ann", null, ["a1"]], ["join", "ann", ["a1"], ["a2"]], ["join", "bob", null, ["b"]]], "calls")
})

scenario("presence.onLeave", async k => {
  const {c, p, events} = present(k)
  c.send("presence_state", users({ann: ["a1", "a2"]}))
  c.send("presence_diff", diff({}, {ann: ["a1"]}))
  c.send("presence_diff", diff({}, {ann: ["a2"], nobody: ["n"]}))
  k.equal(events.filter(e => e[0] === "leave"), [["leave", "ann", ["a2"], ["a1"]], ["leave", "ann", [], ["a2"]]], "calls")
  k.equal(p.list(), [], "list")
})

scenario("presence.onSync", async k => {
  const {c, events} = present(k)
  c.send("presence_diff", diff({bob: ["b"]}))
  k.equal(events, [], "a diff before the state waits")
  c.send("presence_state", users({ann: ["a"]}))
  c.send("presence_diff", diff({carl: ["c"]}))
  k.equal(events.filter(e => e === "sync").length, 2, "calls")
})

scenario("presence.inPendingSyncState", async k => {
  const {c, p, events} = present(k)
  k.equal(p.inPendingSyncState(), true, "at first")
  c.send("presence_state", users({ann: ["a"], bob: ["b"]}))
  k.equal(p.inPendingSyncState(), false, "with the state")
  c.rejoin()
  k.equal(p.inPendingSyncState(), true, "after a rejoin")
  c.send("presence_diff", diff({dora: ["d"]}, {ann: ["a"]}))
  k.equal(p.list(key => key), ["ann", "bob"], "the old state is shown meanwhile")
  events.length = 0
  c.send("presence_state", users({ann: ["a"], carl: ["c"]}))
  k.equal(p.list(key => key).sort(), ["carl", "dora"], "the new state, and the diff")
  k.equal(events.filter(e => e[0] !== "join"), [["leave", "bob", [], ["b"]], ["leave", "ann", [], ["a"]], "sync"], "what left")
})

scenario("presence.list", async k => {
  const {c, p} = present(k)
  c.send("presence_state", {ann: {metas: [{phx_ref: "a", name: "Ann"}], extra: 1}})
  k.equal(p.list(), [{metas: [{phx_ref: "a", name: "Ann"}], extra: 1}], "entries")
  k.equal(p.list((key, {metas: [first]}) => [key, first.name]), [["ann", "Ann"]], "by a function")
})

scenario("Presence.syncState", async k => {
  const {Presence} = k.phoenix
  const before = users({ann: ["a1", "a2"], bob: ["b"]})
  const copy = structuredClone(before)
  const events = []
  const after = Presence.syncState(before, users({ann: ["a2", "a3"], carl: ["c"]}),
    (key, current, joined) => events.push(["join", key, refs(current), refs(joined)]),
    (key, current, left) => events.push(["leave", key, refs(current), refs(left)]))
  k.equal(refsOf(after), {ann: ["a2", "a3"], carl: ["c"]}, "the new state")
  k.equal(before, copy, "the old state is unchanged")
  k.equal(events.sort(), [
    ["join", "ann", ["a1", "a2"], ["a3"]], ["join", "carl", null, ["c"]],
    ["leave", "ann", ["a2", "a3"], ["a1"]], ["leave", "bob", [], ["b"]],
  ], "calls")
})

scenario("Presence.syncDiff", async k => {
  const {Presence} = k.phoenix
  const state = users({ann: ["a"]})
  const after = Presence.syncDiff(state, diff({ann: ["a", "a2"], bob: ["b"]}, {ann: ["a"], nobody: ["n"]}))
  k.equal([refsOf(after), refsOf(state)], [{ann: ["a2"], bob: ["b"]}, {ann: ["a"]}], "the new state, and the old one")
  // Names of properties of every object are keys as others.
  const odd = JSON.parse(`{"__proto__": {"metas": [{"phx_ref": "p"}]}, "constructor": {"metas": [{"phx_ref": "c"}]}}`)
  const got = Presence.syncDiff({}, {joins: odd, leaves: {}})
  k.equal(Presence.list(got, (key, entry) => [key, refs(entry)]).sort(), [["__proto__", ["p"]], ["constructor", ["c"]]], "odd keys")
})

scenario("Presence.list", async k => {
  k.equal(k.phoenix.Presence.list(users({ann: ["a"], bob: ["b", "b2"]}), (key, {metas}) => [key, metas.length]),
    [["ann", 1], ["bob", 2]], "by a function")
  k.equal(k.phoenix.Presence.list(users({ann: ["a"]})), [{metas: [{phx_ref: "a"}]}], "entries")
})
