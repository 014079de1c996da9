// Live authentication, with the code of docs/authentication.md.
import {scenario} from "./kit.mjs"

/** The life of a token, in seconds, and the grace after it, in milliseconds. */
const LIFE = 2, GRACE = 400

/** How long a page that should stay away is watched, unless a scenario says otherwise. */
const AWAY_MS = 1500

/**
 * The life of the tokens of the long scenarios, in seconds, and how long these last and watch a
 * page, in ms.
 */
const refresh = async k => (await fetch(`${k.env.control}/refresh`)).json()

/**
 * A page that has the code of the guide. `page.login` is the guide's; `logins` are the reasons with
 * which it showed the login, `users` the claims that it showed.
 */
async function page(k, server, {token = () => `ann.${LIFE}`, fetchToken} = {}) {
  const code = await (await fetch(`${k.env.control}/guide/authentication`)).text()
  const s = k.socket({url: server.url, authToken: token || undefined, reconnectAfterMs: () => 50})
  const logins = [], users = []
  const names = ["socket", "fetchToken", "showLogin", "showUser"]
  const run = new Function(...names, `${code}\nreturn {me, login}`)
  const got = run(s, fetchToken || (async () => token()), reason => logins.push(reason), user => users.push(user))
  await k.until(() => logins.length + users.length > 0, "the user or the login")
  return {s, logins, users, ...got, events: name => k.inbox(got.me, name)}
}

/** A server whose clients may be anonymous. */
const server = (k, life = LIFE) => k.server({auth: 1, auth_notice: life * 500, auth_grace: GRACE})

/** Checks that the page has disconnected and does not come back. */
async function away(k, p, reason, ms = AWAY_MS) {
  await k.until(() => p.logins.length > 0, "the login")
  const opens = p.s.opens
  await k.pause(ms)
  k.equal([p.logins, p.s.opens, p.s.isConnected()], [[reason], opens, false], "the page after it was denied")
}

scenario("tokens are refreshed on the open connection", async k => {
  const {life, duration} = await refresh(k)
  const srv = await k.server({auth: 1, auth_notice: life * 250})
  let fetched = 0
  const p = await page(k, srv, {token: () => `ann.${life}`, fetchToken: async () => { fetched++; return `ann.${life}` }})
  k.equal(p.users, [{user: "ann"}], "claims")
  const room = await k.joined(p.s, k.topic()), heard = k.inbox(room, "shout")
  const other = await k.joined(p.s, room.topic.replace("room:", "room:other-"))
  let sent = 0
  for (const end = Date.now() + duration; Date.now() < end; sent++) {
    k.equal(await k.ok(room, "echo", {n: sent}), {n: sent}, "echo")
    room.push("shout", {n: sent})
    await k.pause(50)
  }
  await k.until(() => heard.items.length === sent, "the last message")
  k.equal(heard.items.map(m => m.n), Array.from({length: sent}, (_, n) => n), "messages")
  k.equal(await k.ok(other, "who", {}), {user: "ann"}, "the user")
  k.equal([p.s.opens, p.s.closes.length, p.logins, room.errors], [1, 0, [], []], "one connection")
  k.assert(fetched >= Math.floor(duration / 1000 / life) - 1, `${fetched} tokens were fetched`)
})

scenario("a page that stops refreshing is told and stays away", async k => {
  const {life, away: ms} = await refresh(k)
  const srv = await server(k, life)
  const p = await page(k, srv, {token: () => `ann.${life}`, fetchToken: () => new Promise(() => {})})
  const room = await k.joined(p.s, k.topic())
  const expiring = p.events("expiring"), expired = p.events("expired")
  await k.until(() => expiring.items.length > 0, "the notice", life * 1000 + 5000)
  k.assert((await expiring.next()).in <= life * 550 + 250, "the notice, at half of the life, more or less by a tenth")
  await srv.ask("POST", `/servers/${srv.id}/ban?user=ann&reason=subscription+ended`)
  await k.until(() => expired.items.length > 0, "the expiry", life * 1000 + 5000)
  k.equal(await expired.next(), {grace: GRACE}, "the grace")
  k.equal(await k.answer(room.push("echo", {})), {status: "error", response: {reason: "token expired"}}, "a push")
  await away(k, p, "subscription ended", ms)
  if (k.websocket) { k.equal(p.s.closes[0].code, 4401, "close code") }
  k.assert(p.s.opens === 2, "the second connection only tells the reason")
})

scenario("an expiry ends a connection without $socket", async k => {
  const srv = await server(k)
  let tokens = 0
  const s = k.socket({
    url: srv.url, authToken: () => `ann.${++tokens === 1 ? 1 : 60}`, reconnectAfterMs: () => 50,
  })
  const room = await k.joined(s, k.topic())
  await k.until(() => s.opens > 1 && room.state === "joined", "the return")
  if (k.websocket) { k.equal(s.closes[0].code, 4401, "close code") }
  k.equal(await k.ok(room, "who", {}), {user: "ann"}, "the user")
  k.assert(tokens > 1, "another token was used")
})

scenario("a page logs in and out", async k => {
  const srv = await server(k)
  // Over long poll, phoenix.js sends "undefined" for a function without a token.
  const p = await page(k, srv, {token: null})
  k.equal(p.users, [undefined], "claims of an anonymous client")
  const room = await k.joined(p.s, k.topic())
  k.equal(await k.ok(room, "who", {}), {user: null}, "before")
  k.equal((await p.login("ann.60")).state, "authenticated", "login")
  k.equal(await k.ok(room, "who", {}), {user: "ann"}, "after the login")
  let refused
  await p.login("bob.60").catch(r => { refused = r })
  k.equal(refused, {reason: "identity changed"}, "another user")
  await k.pause(1100) // three tokens are accepted at once
  const closed = []
  room.onClose(r => closed.push(r))
  k.equal(await p.login(null), {state: "anonymous"}, "logout")
  await k.until(() => closed.length > 0, "the end of the channel")
  k.equal(closed, [{reason: "deauthenticated"}], "the end of the channel")
  k.equal(await k.ok(await k.joined(p.s, k.topic()), "who", {}), {user: null}, "after the logout")
  k.equal([p.s.opens, p.s.closes.length], [1, 0], "one connection")
})

scenario("a live connection is denied", async k => {
  const srv = await server(k)
  const p = await page(k, srv, {token: () => "ann.60"})
  const room = await k.joined(p.s, k.topic()), closed = []
  room.onClose(r => closed.push(r))
  await srv.ask("POST", `/servers/${srv.id}/ban?user=ann&reason=account+suspended&now=1`)
  await away(k, p, "account suspended")
  k.equal(closed, [{reason: "account suspended"}], "the end of the channel")
  k.equal(p.s.opens, 1, "connections")
})

scenario("a handshake is denied", async k => {
  const srv = await server(k)
  await srv.ask("POST", `/servers/${srv.id}/ban?user=ann&reason=account+suspended`)
  const p = await page(k, srv, {token: () => "ann.60"})
  await away(k, p, "account suspended")
  k.equal(p.s.opens, 1, "connections")
})

scenario("a kick has a reason", async k => {
  const s = k.socket(), room = await k.joined(s, k.topic()), admin = await k.joined(s, "admin"), closed = []
  room.onClose(r => closed.push(r))
  await k.ok(admin, "kick", {topic: room.topic, reason: "be nice"})
  await k.until(() => closed.length > 0, "the end of the channel")
  k.equal(closed, [{reason: "be nice"}], "reason")
  k.equal(room.state, "closed", "state")
})
