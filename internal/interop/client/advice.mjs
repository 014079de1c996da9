// Reconnect advice, with the code of docs/connections.md.
import {scenario} from "./kit.mjs"

scenario("a page waits as advised", async k => {
  const server = await k.server({notice: 200, spread: 4000})
  const code = await (await fetch(`${k.env.control}/guide/advice`)).text()
  const advice = [], attempts = []
  let s
  class Socket extends k.phoenix.Socket {
    constructor(_, {reconnectAfterMs}) {
      super(server.url, {
        transport: k.Transport,
        reconnectAfterMs: tries => {
          const ms = reconnectAfterMs(tries)
          attempts.push({ms, at: Date.now()})
          return ms
        },
      })
      s = k.watch(this)
    }
  }
  new Function("Socket", code)(Socket)
  const me = s.channels.find(c => c.topic === "$socket")
  me.on("advice", a => advice.push(a))
  await k.until(() => me.state === "joined", "the join of $socket")
  const room = await k.joined(s, k.topic())

  const stopped = Date.now()
  await server.stop("drain")
  await k.until(() => s.closes.length === 1, "the close")
  if (Date.now() - stopped < 200) { throw new Error("the server did not wait for its notice") }
  if (k.websocket) { k.equal(s.closes[0].code, 1012, "close code") }
  k.equal(advice.map(a => [a.reason, a.within_ms]), [["restart", undefined]], "advice")
  const {after_ms} = advice[0]
  k.equal(after_ms >= 0 && after_ms < 4000, true, `advice of ${after_ms} ms`)
  k.equal(attempts.map(a => a.ms), [after_ms || 10], "the delay of the first attempt")
  await server.start()
  await k.until(() => room.state === "joined" && me.state === "joined", "the return")
  const returned = Date.now() - attempts[0].at
  if (returned < after_ms - 10) { throw new Error(`returned after ${returned} ms, advice ${after_ms} ms`) }
  k.equal(await k.ok(room, "echo", {n: 1}), {n: 1}, "echo after coming back")

  attempts.length = 0
  await server.stop("kill") // the advice counts once
  await k.until(() => attempts.length > 1, "a second attempt")
  k.equal(attempts.slice(0, 2).map(a => a.ms), [10, 50], "the delays without advice")
})
