// Scenarios for the unmodified phoenix.js with the conformance application, over both transports.
import {scenario} from "./kit.mjs"

const NESTED = {s: "žluťoučký kůň 🐎", n: 1.5, neg: -3, t: true, nil: null, list: [1, [2, {}]], obj: {"a b": {}}, html: "</script>&\"'\\"}

scenario("join", async k => {
  const s = k.socket()
  const plain = await k.joined(s, k.topic())
  k.equal(plain.joinResponse, {}, "reply to a join")
  const echo = k.channel(s, "room:echo_join", () => NESTED)
  k.equal(await k.answer(echo.join()), {status: "ok", response: NESTED}, "join with params")
  k.assert(echo.state === "joined", "the channel is joined")
})

scenario("join refused, crashed, unmatched", async k => {
  const s = k.socket()
  for (const [topic, reason] of [
    ["room:forbidden", "forbidden"], ["room:crash_join", "join crashed"], ["nowhere:1", "unmatched topic"],
  ]) {
    const c = k.channel(s, topic)
    k.equal(await k.answer(c.join()), {status: "error", response: {reason}}, topic)
    c.leave()
  }
  const good = await k.joined(s, k.topic())
  k.equal(await k.ok(good, "echo", {n: 1}), {n: 1}, "another channel of the socket")
  k.equal(s.closes.length, 0, "closes")
})

scenario("join before the connection is open", async k => {
  const s = k.socket()
  const c = k.channel(s, k.topic())
  const join = c.join()
  const pushes = [1, 2, 3].map(n => c.push("echo", {n}))
  k.equal((await k.answer(join)).status, "ok", "join")
  for (const n of [1, 2, 3]) { k.equal(await k.answer(pushes[n - 1]), {status: "ok", response: {n}}, `buffered push ${n}`) }
})

scenario("push: ok, error, timeout", async k => {
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  k.equal(await k.answer(c.push("echo", NESTED)), {status: "ok", response: NESTED}, "echo")
  k.equal(await k.answer(c.push("fail", {why: "no"})), {status: "error", response: {why: "no"}}, "fail")
  k.equal(await k.answer(c.push("reply_ok", {})), {status: "ok", response: {}}, "reply_ok")
  k.equal(await k.answer(c.push("async", {n: 7})), {status: "ok", response: {n: 7}}, "async")
  k.equal(await k.answer(c.push("noreply", {}, 250)), {status: "timeout", response: {}}, "noreply")
  k.equal(await k.answer(c.push("echo")), {status: "ok", response: {}}, "echo without a payload")
  const large = {text: "x".repeat(64 << 10)}
  k.equal(await k.answer(c.push("echo", large)), {status: "ok", response: large}, "64 KiB")
  k.equal(c.errors, [], "errors")
})

scenario("150 pushes at once, answered in order", async k => {
  const c = await k.joined(k.socket(), k.topic())
  const order = []
  const pushes = Array.from({length: 150}, (_, n) => c.push("echo", {n}).receive("ok", r => order.push(r.n)))
  await Promise.all(pushes.map(p => k.answer(p)))
  k.equal(order, Array.from({length: 150}, (_, n) => n), "order of answers")
})

for (const [n, bytes] of [[400, 20000], [3000, 1000], [100, 60000], [5000, 300]]) {
  scenario(`${n} pushes of ${bytes} bytes at once, with default bounds`, async k => {
    const server = await k.server({bounds: "default"})
    const s = k.socket({url: server.url, timeout: 40000, logger: undefined}) // logging is slow
    const c = await k.joined(s, k.topic())
    const text = "x".repeat(bytes)
    const pushes = Array.from({length: n}, (_, i) => c.push("echo", {text, i}))
    const counts = {}
    const count = ({status, response}) => {
      const kind = status === "ok" && response.text !== text ? "another answer" : status
      counts[kind] = (counts[kind] || 0) + 1
    }
    await Promise.all(pushes.map(push => new Promise(resolve => {
      for (const status of ["ok", "error", "timeout"]) {
        push.receive(status, response => { count({status, response}); resolve() })
      }
    })))
    k.equal(counts, {ok: n}, "answers")
    k.equal(s.closes.length, 0, "closes")
  })
}

scenario("push from the server", async k => {
  const c = await k.joined(k.socket(), k.topic())
  const pushed = k.inbox(c, "pushed")
  c.push("push_me", NESTED)
  k.equal(await pushed.next(), NESTED, "pushed")
})

scenario("broadcast", async k => {
  const topic = k.topic()
  const a = await k.joined(k.socket(), topic)
  const b = await k.joined(k.socket(), topic)
  const inboxes = [k.inbox(a, "shout"), k.inbox(b, "shout")]
  for (let n = 0; n < 20; n++) { a.push("shout", {n}) }
  for (const inbox of inboxes) {
    for (let n = 0; n < 20; n++) { k.equal(await inbox.next(), {n}, "shout") }
  }
})

scenario("broadcast_from", async k => {
  const topic = k.topic()
  const a = await k.joined(k.socket(), topic)
  const b = await k.joined(k.socket(), topic)
  const [mine, theirs] = [k.inbox(a, "shout_from"), k.inbox(b, "shout_from")]
  a.push("shout_from", {n: 1})
  k.equal(await theirs.next(), {n: 1}, "the other one")
  await k.ok(a, "echo", {})
  k.equal(mine.items, [], "the sender")
})

scenario("broadcast from outside any channel", async k => {
  const topic = k.topic()
  const c = await k.joined(k.socket(), topic)
  const admin = await k.joined(k.socket(), "admin")
  const news = k.inbox(c, "news")
  await k.ok(admin, "broadcast", {topic, event: "news", payload: NESTED})
  k.equal(await news.next(), NESTED, "news")
})

scenario("intercepted broadcast", async k => {
  const topic = k.topic()
  const a = await k.joined(k.socket(), topic)
  const b = await k.joined(k.socket(), topic)
  const inboxes = [k.inbox(a, "filtered"), k.inbox(b, "filtered")]
  a.push("filtered", {n: 1, drop: true})
  a.push("filtered", {n: 2})
  for (const inbox of inboxes) { k.equal(await inbox.next(), {n: 2, seen: true}, "filtered") }
})

scenario("binary both ways", async k => {
  const topic = k.topic()
  const a = await k.joined(k.socket(), topic)
  const b = await k.joined(k.socket(), topic)
  const [mine, theirs] = [k.inbox(a, "binary_shout"), k.inbox(b, "binary_shout")]
  for (const length of [0, 1, 256, 70000]) {
    const bytes = Uint8Array.from({length}, (_, i) => i).buffer
    const {status, response} = await k.answer(a.push("binary_echo", bytes))
    k.equal(status, "ok", "status")
    k.assert(response instanceof ArrayBuffer, "the response is an ArrayBuffer")
    k.equal(response, bytes, `echo of ${length} bytes`)
    a.push("binary_shout", bytes)
    k.equal(await mine.next(), bytes, `broadcast of ${length} bytes to the sender`)
    k.equal(await theirs.next(), bytes, `broadcast of ${length} bytes to the other`)
  }
  k.equal(await k.ok(a, "echo", {n: 1}), {n: 1}, "JSON after binary")
}, {only: "websocket"})

scenario("binary up to the server", async k => {
  // Over long polling, phoenix.js sends binary data as base64 and cannot receive it, so no reply is
  // binary.
  const c = await k.joined(k.socket(), k.topic())
  c.push("noreply", Uint8Array.from([0, 1, 254, 255]).buffer, 100)
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "JSON after binary")
  k.equal([c.errors, c.socket.closes.length], [[], 0], "errors and closes")
}, {only: "longpoll"})

scenario("crash and rejoin", async k => {
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  const other = await k.joined(s, k.topic())
  const [before, otherBefore] = [c.joinRef(), other.joinRef()]
  c.push("crash", {secret: "not to be told"})
  await k.until(() => c.errors.length > 0, "phx_error")
  k.equal(c.errors, [{reason: "channel_crash"}], "what onError got")
  await k.until(() => c.state === "joined", "the rejoin")
  k.assert(c.joinRef() !== before, "the join is a new one")
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo after the rejoin")
  const crashed = c.joinRef()
  c.push("no_such_event", {})
  await k.until(() => c.errors.length === 2 && c.state === "joined" && c.joinRef() !== crashed, "the rejoin after an unknown event")
  k.equal(await k.ok(other, "echo", {n: 2}), {n: 2}, "the other channel")
  k.equal([other.joinRef(), other.errors, s.closes.length], [otherBefore, [], 0], "the other channel and the socket")
})

scenario("a channel that the server stops", async k => {
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  c.push("stop", {})
  await k.until(() => c.closings === 1, "phx_close")
  k.equal([c.state, c.errors, s.channels.includes(c)], ["closed", [], false], "the channel")
  const again = await k.joined(s, c.topic)
  k.equal(await k.answer(again.push("stop_reply", {n: 1})), {status: "ok", response: {n: 1}}, "stop_reply")
  await k.until(() => again.closings === 1, "phx_close")
})

scenario("duplicate join", async k => {
  const s = k.socket()
  const topic = k.topic()
  const first = await k.joined(s, topic)
  const second = await k.joined(s, topic) // phoenix.js leaves the first channel
  k.equal([first.state, second.state], ["closed", "joined"], "states")
  k.equal(await k.ok(second, "echo", {n: 1}), {n: 1}, "echo on the second")
  const shouts = k.inbox(second, "shout")
  second.push("shout", {n: 2})
  k.equal(await shouts.next(), {n: 2}, "broadcast to the second")
})

scenario("duplicate join on the wire", async k => {
  // A second phx_join without a leave, as sent by another script on the same socket.
  const s = k.socket()
  const first = await k.joined(s, k.topic())
  const old = first.joinRef()
  const ref = s.makeRef()
  s.push({topic: first.topic, event: "phx_join", payload: {}, ref, join_ref: ref})
  await k.until(() => first.closings === 1, "phx_close of the first")
  const got = s.messages.filter(m => m.topic === first.topic && (m.ref === ref || m.event === "phx_close"))
  k.equal(got.map(m => [m.join_ref, m.ref, m.event]), [[ref, ref, "phx_reply"], [old, old, "phx_close"]], "reply and close")
})

scenario("leave", async k => {
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  const ref = c.joinRef()
  k.equal((await k.answer(c.leave())).status, "ok", "leave")
  k.equal([c.state, c.closings, s.channels.includes(c)], ["closed", 1, false], "the channel")
  // These events came from phoenix.js itself. The server's messages follow.
  const received = () => s.messages.filter(m => m.topic === c.topic && m.join_ref === ref).map(m => m.event)
  await k.until(() => received().includes("phx_close"), "the server's phx_close")
  k.equal(received().slice(-2), ["phx_reply", "phx_close"], "the server's answer")
  const probe = s.makeRef()
  s.push({topic: c.topic, event: "echo", payload: {}, ref: probe, join_ref: null})
  const reply = await k.until(() => s.messages.find(m => m.ref === probe), "a reply from the topic that was left")
  k.equal(reply.payload, {status: "error", response: {reason: "unmatched topic"}}, "the topic that was left")
  const again = await k.joined(s, c.topic)
  k.equal(await k.ok(again, "echo", {n: 1}), {n: 1}, "joined again")
})

scenario("disconnect and connect", async k => {
  const s = k.socket()
  const topic = k.topic()
  const c = await k.joined(s, topic)
  await new Promise(resolve => s.disconnect(resolve))
  k.equal([s.isConnected(), c.state], [false, "errored"], "disconnected")
  const waiting = c.push("echo", {n: 1})
  s.connect()
  k.equal(await k.answer(waiting), {status: "ok", response: {n: 1}}, "a push from meanwhile")
  const shouts = k.inbox(c, "shout")
  const other = await k.joined(k.socket(), topic)
  other.push("shout", {n: 2})
  k.equal(await shouts.next(), {n: 2}, "broadcast after coming back")
  await k.ok(c, "echo", {})
  k.equal(shouts.items.length, 1, "how often it came") // once: the old connection is gone
  k.equal(s.opens, 2, "opens")
})

for (const how of ["drain", "kill"]) {
  scenario(`the server is restarted (${how})`, async k => {
    const server = await k.server()
    const s = k.socket({url: server.url})
    const topic = k.topic()
    const c = await k.joined(s, topic)
    const echo = await k.joined(s, "room:echo_join", () => ({opens: s.opens}))
    await server.stop(how)
    await k.until(() => s.closes.length > 0 && !s.isConnected(), "the connection's end")
    if (k.websocket) { k.equal(s.closes[0].code, how === "drain" ? 1012 : 1006, "close code") }
    const failed = s.failures
    await k.until(() => s.failures > failed, "a failed attempt to come back")
    const waiting = c.push("echo", {n: 1})
    await server.start()
    k.equal(await k.answer(waiting), {status: "ok", response: {n: 1}}, "a push from meanwhile")
    await k.until(() => echo.state === "joined", "the second channel's rejoin")
    const shouts = k.inbox(c, "shout")
    const other = await k.joined(k.socket({url: server.url}), topic)
    other.push("shout", {n: 2})
    k.equal(await shouts.next(), {n: 2}, "broadcast after the restart")
    await k.ok(c, "echo", {})
    k.equal(shouts.items.length, 1, "how often it came")
  })
}

scenario("60 channels on one socket", async k => {
  const s = k.socket()
  const channels = await Promise.all(Array.from({length: 60}, () => k.joined(s, k.topic())))
  const inboxes = channels.map(c => k.inbox(c, "shout"))
  await Promise.all(channels.map(async (c, n) => k.equal(await k.ok(c, "echo", {n}), {n}, "echo")))
  channels.forEach((c, n) => c.push("shout", {n}))
  for (const [n, inbox] of inboxes.entries()) { k.equal(await inbox.next(), {n}, "shout") }
  await Promise.all(channels.map(c => k.ok(c, "echo", {})))
  k.equal(inboxes.map(i => i.items.length), channels.map(() => 1), "each received only its own")
  channels.forEach((c, n) => { if (n % 2) { c.leave() } })
  await Promise.all(channels.filter((_, n) => n % 2 === 0).map(c => k.ok(c, "echo", {})))
})

scenario("disconnected by the server by its id", async k => {
  const [id, bystanders] = [`u${k.serial}-${k.env.transport}`, `v${k.serial}-${k.env.transport}`]
  const s = k.socket({params: {user_id: id}})
  const bystander = k.socket({params: () => ({user_id: bystanders})})
  const c = await k.joined(s, k.topic())
  const theirs = await k.joined(bystander, k.topic())
  const admin = await k.joined(k.socket(), "admin")
  const before = c.joinRef()
  await k.ok(admin, "disconnect", {id: `users_socket:${id}`})
  await k.until(() => s.closes.length === 1, "the close")
  if (k.websocket) { k.equal(s.closes[0].code, 1001, "close code") }
  await k.until(() => s.opens === 2 && c.state === "joined" && c.joinRef() !== before, "the rejoin")
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo after coming back")
  k.equal(await k.ok(theirs, "echo", {n: 2}), {n: 2}, "the bystander")
  k.equal([bystander.closes.length, bystander.opens], [0, 1], "the bystander's connection")
})

scenario("closed by the server while sending", async k => {
  // Messages in transit to the server must not prevent the close frame, with its code, from
  // arriving.
  const id = `w${k.serial}-${k.env.transport}`
  const s = k.socket({params: {user_id: id}})
  const c = await k.joined(s, k.topic())
  const admin = await k.joined(k.socket(), "admin")
  const ended = k.until(() => s.closes.length === 1, "the close")
  const done = k.ok(admin, "disconnect", {id: `users_socket:${id}`})
  const data = "x".repeat(5000)
  for (let n = 0; n < 40; n++) { c.push("echo", {n, data}) }
  await done
  await ended
  if (k.websocket) { k.equal(s.closes[0].code, 1001, "close code") }
  await k.until(() => s.opens === 2 && c.state === "joined", "the rejoin")
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo after coming back")
})

scenario("connect refused, then allowed", async k => {
  // phoenix.js calls the params function at every attempt; the first two are refused.
  let attempts = 0
  const s = k.socket({params: () => ++attempts <= 2 ? {reject: "1"} : {"x[y]": "z", q: {a: [1, 2]}}})
  const c = await k.joined(s, k.topic())
  k.assert(s.failures >= 2 && s.closes.length >= 2, "the refusals were seen")
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo")
})

scenario("the default serializer", async k => {
  const {sent, received, Tapped} = tap(k)
  const s = k.socket({transport: Tapped})
  const c = await k.joined(s, k.topic())
  await k.ok(c, "echo", {n: 1})
  k.equal(s.vsn, "2.0.0", "vsn")
  const [join, push] = sent.map(f => JSON.parse(f))
  k.equal(join, [c.joinRef(), c.joinRef(), c.topic, "phx_join", {}], "the join sent")
  k.equal(push.slice(2), [c.topic, "echo", {n: 1}], "the push sent")
  if (k.websocket) { // the long poll of phoenix.js hides what it receives
    k.equal(received.map(f => JSON.parse(f)), [
      [join[0], join[1], c.topic, "phx_reply", {status: "ok", response: {}}],
      [push[0], push[1], c.topic, "phx_reply", {status: "ok", response: {n: 1}}],
    ], "frames received")
  }
})

scenario("version 1.0.0", async k => {
  // phoenix.js has no codec for version 3.0.0, but accepts a custom one.
  const {received, Tapped} = tap(k)
  const s = k.socket({
    transport: Tapped,
    vsn: "1.0.0",
    encode: (msg, callback) => callback(JSON.stringify(msg)),
    decode: (raw, callback) => callback(JSON.parse(raw)),
  })
  const topic = k.topic()
  const old = await k.joined(s, topic)
  const current = await k.joined(k.socket(), topic)
  k.equal(await k.ok(old, "echo", NESTED), NESTED, "echo")
  const inboxes = [k.inbox(old, "shout"), k.inbox(current, "shout")]
  old.push("shout", {from: "1.0.0"})
  for (const i of inboxes) { k.equal(await i.next(), {from: "1.0.0"}, "shout") }
  current.push("shout", {from: "2.0.0"})
  for (const i of inboxes) { k.equal(await i.next(), {from: "2.0.0"}, "shout") }
  k.assert(received.length > 0 && received.every(f => !Array.isArray(JSON.parse(f))), "frames are objects")
}, {only: "websocket"})

scenario("heartbeats and ping", async k => {
  const s = k.socket({heartbeatIntervalMs: 1000}) // also the reply's timeout
  const c = await k.joined(s, k.topic())
  const beats = () => s.messages.filter(m => m.topic === "phoenix" && m.event === "phx_reply")
  if (k.websocket) { // long polling sends no heartbeats in this scenario
    await k.until(() => beats().length >= 2, "two heartbeats answered")
  }
  let rtt
  k.assert(s.ping(ms => { rtt = ms }), "ping is sent")
  await k.until(() => rtt !== undefined, "the pong")
  k.equal(beats()[0].payload, {status: "ok", response: {}}, "reply to a heartbeat")
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo")
  k.equal([s.closes.length, s.opens], [0, 1], "closes and opens")
})

scenario("a connection that went idle", async k => {
  const server = await k.server({idle: 700})
  const s = k.socket({url: server.url, heartbeatIntervalMs: 60000})
  const c = await k.joined(s, k.topic())
  await k.until(() => s.closes.length === 1, "the close")
  k.equal(s.closes[0].code, 1002, "close code")
  await k.until(() => s.opens === 2 && c.state === "joined", "the rejoin")
}, {only: "websocket"})

scenario("polls that bring nothing", async k => {
  const server = await k.server({window: 1500})
  const s = k.socket({url: server.url})
  const c = await k.joined(s, k.topic())
  await k.pause(3500) // two polls with status 204
  const pushed = k.inbox(c, "pushed")
  c.push("push_me", {n: 1})
  k.equal(await pushed.next(), {n: 1}, "pushed")
  k.equal([s.closes.length, s.opens], [0, 1], "closes and opens")
}, {only: "longpoll"})

for (const [ws, after] of [["refuse", 5000], ["hang", 400]]) {
  scenario(`fallback to long poll: WebSocket connections ${ws}`, async k => {
    const server = await k.server({ws})
    const storage = memory()
    const opts = {url: server.url, transport: k.env.WebSocket, longPollFallbackMs: after, sessionStorage: storage}
    const s = k.socket(opts)
    k.assert(s.transport === k.env.WebSocket, "it starts with WebSocket")
    const topic = k.topic()
    const c = await k.joined(s, topic)
    k.assert(s.transport === k.phoenix.LongPoll, "it ended up with long poll")
    k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo")
    k.equal(storage.getItem("phx:fallback:LongPoll"), "true", "remembered")
    const next = k.socket(opts)
    k.assert(next.transport === k.phoenix.LongPoll, "the next socket starts with long poll")
    const [d, shouts] = [await k.joined(next, topic), k.inbox(c, "shout")]
    d.push("shout", {n: 2})
    k.equal(await shouts.next(), {n: 2}, "shout")
  }, {only: "websocket"})
}

scenario("no fallback where WebSocket works", async k => {
  const storage = memory()
  const s = k.socket({transport: k.env.WebSocket, longPollFallbackMs: 5000, sessionStorage: storage})
  const c = await k.joined(s, k.topic())
  await k.until(() => s.primaryPassedHealthCheck, "the ping's answer")
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo")
  k.equal([s.transport === k.env.WebSocket, storage.getItem("phx:fallback:LongPoll")], [true, null], "transport and memory")
}, {only: "websocket"})

/** The transport under test with its frames recorded. */
function tap(k) {
  const sent = [], received = []
  class Tapped extends k.Transport {
    constructor(...args) {
      super(...args)
      if (this.addEventListener) { this.addEventListener("message", e => received.push(e.data)) }
    }
    send(data) {
      sent.push(data)
      super.send(data)
    }
  }
  return {sent, received, Tapped}
}

/** A sessionStorage. */
function memory() {
  const map = new Map()
  return {
    getItem: key => map.has(key) ? map.get(key) : null,
    setItem: (key, value) => { map.set(key, String(value)) },
    removeItem: key => { map.delete(key) },
  }
}
