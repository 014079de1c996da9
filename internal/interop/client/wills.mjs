// Last wills, with the code of docs/presence.md.
import {scenario} from "./kit.mjs"

/** The time of the wills, in milliseconds, which is 15 s in the guide. */
const AFTER_MS = 700

/**
 * A page that runs the code of the guide. `set` are the ids of its wills, and `shown` the texts
 * that it shows.
 */
async function page(k, server, params = {}) {
  const code = await (await fetch(`${k.env.control}/guide/wills`)).text()
  const set = [], shown = []
  class Socket extends k.phoenix.Socket {
    constructor(_, {params: identity}) {
      super(server.url, {
        transport: k.Transport, reconnectAfterMs: () => 50, rejoinAfterMs: () => 50,
        params: () => ({...identity(), ...params}),
      })
    }
    channel(topic, params) {
      const c = super.channel(topic, params), push = c.push.bind(c)
      c.push = (event, payload) => event === "will"
        ? push(event, {...payload, after_ms: AFTER_MS}).receive("ok", r => set.push(r.will))
        : push(event, payload)
      return c
    }
  }
  const run = new Function("Socket", "console", `${code}\nreturn {socket, me, room}`)
  const got = run(Socket, {log: text => shown.push(text)})
  k.watch(got.socket)
  await k.until(() => set.length > 0, "the will")
  return {...got, set, shown}
}

/** A client that observes the topic of the guide. */
async function observer(k, server) {
  const room = await k.joined(k.socket({url: server.url}), "room:lobby")
  return k.inbox(room, "gone").items
}

scenario("the will of a page that leaves", async k => {
  const server = await k.server(), gone = await observer(k, server)
  const stays = await page(k, server), leaves = await page(k, server, {user_id: "ann"})
  k.assert(stays.set[0] !== leaves.set[0], "the wills have ids of their own")
  const left = Date.now()
  leaves.socket.disconnect()
  await k.until(() => gone.length > 0, "the will")
  const took = Date.now() - left
  k.assert(took >= AFTER_MS - 50, `the will ran after ${took} ms`)
  k.equal(gone, [{$id: leaves.set[0], user: "users_socket:ann"}], "the will")
  await k.until(() => stays.shown.length > 0, "the text")
  k.equal(stays.shown, ["users_socket:ann is gone"], "what the other page shows")
})

scenario("a page that comes back", async k => {
  const server = await k.server(), gone = await observer(k, server)
  const p = await page(k, server)
  for (let n = 1; n < 4; n++) {
    p.socket.conn.close(4000, "lost")
    await k.until(() => p.set.length > n, "another will")
  }
  await k.pause(2 * AFTER_MS)
  k.equal([p.set.length, gone], [4, []], "wills while the page is there")
  p.socket.disconnect()
  await k.until(() => gone.length > 0, "the last will")
  await k.pause(AFTER_MS)
  k.equal(gone, [{$id: p.set[3], user: ""}], "the will of the last connection")
})

scenario("a will that is deleted", async k => {
  const server = await k.server(), gone = await observer(k, server)
  const p = await page(k, server)
  k.equal(await k.ok(p.me, "unwill", {}), {count: 1}, "unwill")
  p.socket.disconnect()
  await k.pause(2 * AFTER_MS)
  k.equal(gone, [], "wills")
})

scenario("the will of a page that leaves its topic", async k => {
  const server = await k.server(), gone = await observer(k, server)
  const p = await page(k, server)
  let left = false
  p.room.leave().receive("ok", () => { left = true })
  await k.until(() => left, "the leave")
  p.socket.disconnect()
  await k.pause(2 * AFTER_MS)
  k.equal(gone, [], "wills")
})
