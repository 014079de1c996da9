// Scenarios for the Presence of the unmodified phoenix.js, with the channels presence:* of the
// conformance application.
import {scenario} from "./kit.mjs"

/** Joins a presence channel, with a Presence whose events are recorded. */
async function present(k, socket, topic, user_id, meta) {
  const channel = k.channel(socket, topic, meta ? {user_id, meta} : {user_id})
  const p = new k.phoenix.Presence(channel)
  p.events = []
  p.syncs = 0
  p.onJoin((key, current, joined) => p.events.push({join: key, before: count(current), metas: joined.metas}))
  p.onLeave((key, current, left) => p.events.push({leave: key, remaining: count(current), metas: left.metas}))
  p.onSync(() => p.syncs++)
  p.keys = () => p.list(key => key).sort()
  p.metas = key => p.state[key]?.metas ?? [] // before it is there, "constructor" is a function
  k.equal((await k.answer(channel.join())).status, "ok", `join of ${topic}`)
  // phoenix.js also reports the entries of a diff that it already has; only the resulting state
  // counts.
  await k.until(() => p.metas(user_id).length > 0, `${user_id} in its own list`)
  return p
}

const count = entry => entry ? entry.metas.length : 0

/** A meta without the fields that the server adds. */
function plain({phx_ref, phx_ref_prev, ...meta}) { return meta }

const topic = k => k.topic("p", "presence")

scenario("presence: join, sync, list", async k => {
  const t = topic(k)
  const a = await present(k, k.socket(), t, "ann", {name: "Ann", tags: ["x", {y: 1}]})
  k.equal(a.keys(), ["ann"], "ann's list")
  k.equal(a.metas("ann").map(plain), [{online_at: 1, name: "Ann", tags: ["x", {y: 1}]}], "ann's meta")
  k.assert(typeof a.metas("ann")[0].phx_ref === "string" && a.metas("ann")[0].phx_ref !== "", "a phx_ref")
  const syncs = a.syncs
  const b = await present(k, k.socket(), t, "bob")
  k.equal(b.keys(), ["ann", "bob"], "bob's list")
  await k.until(() => a.keys().length === 2, "bob in ann's list")
  k.assert(a.syncs > syncs, "ann received the diff")
  const seen = a.events.filter(e => e.join === "bob")
  k.equal(seen.map(e => [e.before, e.metas.map(plain)]), [[0, [{online_at: 1}]]], "onJoin of bob")
  k.equal(b.list((key, {metas}) => [key, metas.length]).sort(), [["ann", 1], ["bob", 1]], "list(by)")
  k.equal(a.state, b.state, "both see the same")
})

scenario("presence: leave", async k => {
  const t = topic(k)
  const a = await present(k, k.socket(), t, "ann")
  const b = await present(k, k.socket(), t, "bob")
  await k.until(() => a.keys().length === 2, "bob in ann's list")
  b.channel.leave()
  await k.until(() => a.keys().length === 1, "bob's leave")
  k.equal(a.events.filter(e => e.leave).map(e => [e.leave, e.remaining]), [["bob", 0]], "onLeave of bob")
})

scenario("presence: the connection ends", async k => {
  const t = topic(k)
  const a = await present(k, k.socket(), t, "ann")
  const s = k.socket({params: {user_id: `bob-${t}`}})
  await present(k, s, t, "bob")
  await k.until(() => a.keys().length === 2, "bob in ann's list")
  const admin = await k.joined(k.socket(), "admin")
  await k.ok(admin, "disconnect", {id: `users_socket:bob-${t}`})
  await k.until(() => a.events.some(e => e.leave === "bob"), "bob's leave")
  await k.until(() => a.events.filter(e => e.join === "bob").length === 2, "bob coming back by itself")
  k.equal(a.keys(), ["ann", "bob"], "ann's list")
})

scenario("presence: update", async k => {
  const t = topic(k)
  const a = await present(k, k.socket(), t, "ann", {status: "here"})
  const b = await present(k, k.socket(), t, "bob")
  await k.until(() => a.keys().length === 2, "bob in ann's list")
  const old = b.metas("ann")[0]
  k.equal(await k.ok(a.channel, "update", {status: "away"}), {}, "reply to update")
  await k.until(() => b.metas("ann").some(m => m.status === "away"), "the update")
  k.equal(b.metas("ann").map(plain), [{online_at: 1, status: "away"}], "ann's metas")
  k.equal(b.metas("ann")[0].phx_ref_prev, old.phx_ref, "phx_ref_prev")
  k.assert(b.metas("ann")[0].phx_ref !== old.phx_ref, "a new phx_ref")
  const changes = b.events.filter(e => (e.join || e.leave) === "ann").slice(-2)
  k.equal(changes.map(e => [e.join || "", e.leave || "", e.metas[0].status]), [["ann", "", "away"], ["", "ann", "here"]], "join, then leave")
  k.equal(changes[1].remaining, 1, "she is never away from the list")
})

scenario("presence: the same user twice", async k => {
  const t = topic(k)
  const a = await present(k, k.socket(), t, "ann")
  const laptop = await present(k, k.socket(), t, "bob", {device: "laptop"})
  await k.until(() => a.metas("bob").length === 1, "bob")
  const phone = await present(k, k.socket(), t, "bob", {device: "phone"})
  await k.until(() => a.metas("bob").length === 2, "bob's second device")
  k.equal(a.metas("bob").map(m => m.device).sort(), ["laptop", "phone"], "devices")
  k.equal(a.events.filter(e => e.join === "bob").map(e => e.before), [0, 1], "how many there were at each join")
  laptop.channel.leave()
  await k.until(() => a.metas("bob").length === 1, "the laptop's leave")
  k.equal(a.metas("bob").map(m => m.device), ["phone"], "what is left")
  phone.channel.leave()
  await k.until(() => !a.state.bob, "the phone's leave")
  k.equal(a.events.filter(e => e.leave === "bob").map(e => e.remaining), [1, 0], "how many were left at each leave")
})

scenario("presence: untrack", async k => {
  const t = topic(k)
  const a = await present(k, k.socket(), t, "ann")
  const b = await present(k, k.socket(), t, "bob")
  await k.until(() => a.keys().length === 2, "bob in ann's list")
  await k.ok(b.channel, "untrack", {})
  await k.until(() => a.keys().length === 1, "bob's leave")
  k.equal(b.channel.state, "joined", "bob's channel")
})

scenario("presence: the server's list", async k => {
  const t = topic(k)
  const a = await present(k, k.socket(), t, "ann", {n: 1})
  await present(k, k.socket(), t, "bob", {n: 2})
  await k.until(() => a.keys().length === 2, "bob in ann's list")
  k.equal(await k.ok(a.channel, "list", {}), JSON.parse(JSON.stringify(a.state)), "list")
})

scenario("presence: back after a disconnect", async k => {
  const t = topic(k)
  const s = k.socket()
  const a = await present(k, s, t, "ann")
  const b = await present(k, k.socket(), t, "bob")
  const c = await present(k, k.socket(), t, "cat")
  await k.until(() => a.keys().length === 3, "all three in ann's list")
  await new Promise(resolve => s.disconnect(resolve))
  await k.until(() => !b.state.ann, "ann's leave at bob's")
  k.equal(a.keys(), ["ann", "bob", "cat"], "what ann sees meanwhile")
  c.channel.leave()
  await k.until(() => !b.state.cat, "cat's leave at bob's")
  s.connect()
  await k.until(() => b.state.ann && a.keys().length === 2, "ann's return")
  k.equal(a.keys(), ["ann", "bob"], "ann's list")
  k.equal(a.events.filter(e => e.leave === "bob"), [], "bob never left")
  k.equal(a.events.filter(e => e.leave === "cat").map(e => e.remaining), [0], "cat left")
})

scenario("presence: keys that are names of Object's properties", async k => {
  const t = topic(k)
  const a = await present(k, k.socket(), t, "ann")
  for (const key of ["__proto__", "constructor", "hasOwnProperty"]) {
    const b = await present(k, k.socket(), t, key)
    await k.until(() => a.keys().includes(key), key)
    b.channel.leave()
    await k.until(() => !a.keys().includes(key), `${key} to leave`)
  }
})
