// The API of phoenix.js, method by method, with the stock package and with js/socket.mjs. Each row
// of the table in js/README.md is a scenario, and has its name.
import {scenario} from "./kit.mjs"
import "./api_presence.mjs"

/** The transport under test, which records how it was used. */
function tap(k) {
  const made = []
  class Tapped extends k.Transport {
    constructor(url, protocols) {
      super(url, protocols)
      made.push({url: String(url), protocols, conn: this, sent: (this.sent = [])})
    }
    send(data) {
      this.sent.push(data)
      super.send(data)
    }
  }
  return {made, Tapped}
}

/** Runs f with a location, which Node does not have. */
function withLocation(f) {
  if (globalThis.location) { return f(globalThis.location) }
  globalThis.location = {protocol: "https:", host: "app.example"}
  try { return f(globalThis.location) } finally { delete globalThis.location }
}

/** A socket that does not connect by itself. */
const idle = (k, url = "ws://127.0.0.1:9/socket", opts = {}) => new k.phoenix.Socket(url, {transport: k.Transport, ...opts})

const query = s => Object.fromEntries(new URL(s.endPointURL()).searchParams)

// ---- Options of a socket ----

scenario("option params", async k => {
  k.equal(query(idle(k, undefined, {params: {a: "x y", n: 1}})), {a: "x y", n: "1", vsn: "2.0.0"}, "an object")
  k.equal(query(idle(k)), {vsn: "2.0.0"}, "none")
  k.equal(query(idle(k, undefined, {params: {q: {b: "c", l: ["d"]}}})), {"q[b]": "c", "q[l][0]": "d", vsn: "2.0.0"}, "nested")
  let attempts = 0
  const s = k.socket({params: () => ++attempts === 1 ? {reject: "1"} : {n: attempts}})
  await k.until(() => s.isConnected(), "the connection")
  k.assert(s.failures >= 1 && attempts >= 2, "a function is called for each attempt")
})

scenario("option timeout", async k => {
  const s = k.socket({timeout: 150})
  const c = k.channel(s, k.topic())
  k.equal([s.timeout, c.timeout], [150, 150], "of the socket and of its channels")
  await k.answer(c.join(8000))
  k.equal(c.timeout, 8000, "join changes that of the channel")
  k.equal((await k.answer(c.push("noreply", {}, 100))).status, "timeout", "that of one push")
})

scenario("option transport", async k => {
  const {made, Tapped} = tap(k)
  const s = k.socket({transport: Tapped})
  k.assert(s.transport === Tapped, "it is the socket's")
  await k.joined(s, k.topic())
  k.equal([made.length, made[0].protocols], [1, undefined], "one connection without protocols")
  k.equal(made[0].url, s.endPointURL(), "its address")
})

scenario("option longPollFallbackMs", async k => {
  const server = await k.server({ws: "refuse"})
  const s = k.socket({url: server.url, transport: k.env.WebSocket, longPollFallbackMs: 5000, sessionStorage: store()})
  const c = await k.joined(s, k.topic())
  k.assert(s.transport === k.phoenix.LongPoll, "it is long polling")
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo")
}, {only: "websocket"})

scenario("option sessionStorage", async k => {
  const server = await k.server({ws: "refuse"})
  const sessionStorage = store()
  const opts = {url: server.url, transport: k.env.WebSocket, longPollFallbackMs: 5000, sessionStorage}
  const first = k.socket(opts)
  await k.until(() => sessionStorage.getItem("phx:fallback:LongPoll") === "true", "the fallback in the storage")
  k.assert(first.isConnected(), "the first is connected")
  k.assert(k.socket(opts).transport === k.phoenix.LongPoll, "the next one starts with long polling")
}, {only: "websocket"})

scenario("option longpollerTimeout", async k => {
  const server = await k.server({window: 5000})
  const s = k.socket({url: server.url, longpollerTimeout: 300})
  await k.until(() => s.closes.length > 0, "the end of a poll that takes longer")
  k.equal(s.closes[0].code, 1005, "code")
  await k.until(() => s.opens > 1, "the next connection")
}, {only: "longpoll"})

scenario("option heartbeatIntervalMs", async k => {
  const {made, Tapped} = tap(k)
  const s = k.socket({transport: Tapped, heartbeatIntervalMs: 100})
  await k.until(() => s.isConnected(), "the connection")
  const beats = () => made[0].sent.filter(f => JSON.parse(f)[3] === "heartbeat")
  if (k.websocket) {
    await k.until(() => beats().length >= 3, "heartbeats")
    k.equal(JSON.parse(beats()[0]).toSpliced(1, 1), [null, "phoenix", "heartbeat", {}], "a heartbeat")
  } else {
    await k.pause(300)
    k.equal(beats().length, 0, "long polling needs none")
  }
  k.equal(s.closes.length, 0, "closes")
})

scenario("option reconnectAfterMs", async k => {
  const standard = idle(k)
  k.equal([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50].map(n => standard.reconnectAfterMs(n)),
    [10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000, 5000], "the delays by default")
  const tries = []
  const server = await k.server()
  const s = k.socket({url: server.url, reconnectAfterMs: n => { tries.push(n); return 20 }})
  await k.until(() => s.isConnected(), "the connection")
  await server.stop("kill")
  await k.until(() => tries.length >= 3, "three attempts")
  k.equal(tries.slice(0, 3), [1, 2, 3], "tries")
  await server.start()
  await k.until(() => s.isConnected(), "the connection")
  tries.length = 0
  await server.stop("kill")
  await k.until(() => tries.length >= 1, "the next attempt")
  k.equal(tries[0], 1, "an open connection starts over")
})

scenario("option rejoinAfterMs", async k => {
  k.equal([1, 2, 3, 4, 50].map(n => idle(k).rejoinAfterMs(n)), [1000, 2000, 5000, 10000, 10000], "the delays by default")
  const tries = []
  const s = k.socket({rejoinAfterMs: n => { tries.push(n); return 10 }})
  const c = k.channel(s, "room:forbidden")
  c.join()
  await k.until(() => tries.length >= 3, "three attempts")
  k.equal(tries.slice(0, 3), [1, 2, 3], "tries")
  c.leave()
})

scenario("option vsn", async k => {
  k.equal([idle(k).vsn, query(idle(k, undefined, {vsn: "1.0.0"})).vsn], ["2.0.0", "1.0.0"], "vsn")
})

scenario("options encode and decode", async k => {
  const seen = []
  const s = k.socket({
    vsn: "1.0.0",
    encode: (message, done) => { seen.push(message.event); done(JSON.stringify(message)) },
    decode: (frame, done) => done(JSON.parse(frame)),
  })
  const c = await k.joined(s, k.topic())
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo")
  k.equal(seen, ["phx_join", "echo"], "what was encoded")
}, {only: "websocket"})

scenario("option binaryType", async k => {
  const {made, Tapped} = tap(k)
  k.socket({transport: Tapped})
  k.socket({transport: Tapped, binaryType: "arraybuffer"})
  k.equal(made.map(m => m.conn.binaryType), ["arraybuffer", "arraybuffer"], "of the connection")
})

scenario("option logger", async k => {
  const kinds = new Set()
  const s = k.socket({logger: (kind, text) => { kinds.add(kind); k.assert(typeof text === "string", "a text") }})
  const c = await k.joined(s, k.topic())
  c.leave()
  await k.until(() => kinds.size === 4, "all kinds")
  k.equal([...kinds].sort(), ["channel", "push", "receive", "transport"], "kinds")
})

scenario("option debug", async k => {
  k.equal([idle(k, undefined, {debug: true}).hasLogger(), idle(k, undefined, {debug: false}).hasLogger()], [true, false], "hasLogger")
  const {log} = console
  const lines = []
  console.log = (...args) => lines.push(args)
  try { idle(k, undefined, {debug: true}).log("kind", "text", {n: 1}) } finally { console.log = log }
  k.equal(lines, [["kind: text", {n: 1}]], "what is logged on the console")
})

scenario("option authToken", async k => {
  const server = await k.server({auth: 1})
  let attempts = 0
  const {made, Tapped} = tap(k)
  const s = k.socket({url: server.url, transport: Tapped, authToken: () => `ann.${60 + ++attempts}`})
  const c = await k.joined(s, k.topic())
  k.equal(await k.ok(c, "who"), {user: "ann"}, "the user")
  k.equal(made[0].protocols, ["phoenix", `base64url.bearer.phx.${btoa("ann.61").replace(/=/g, "")}`], "protocols")
  const fixed = k.socket({url: server.url, authToken: "bob.60"})
  k.equal(await k.ok(await k.joined(fixed, k.topic()), "who"), {user: "bob"}, "a token that is no function")
})

// ---- Socket ----

scenario("socket.connect", async k => {
  const {made, Tapped} = tap(k)
  const s = k.socket({transport: Tapped})
  s.connect()
  await k.until(() => s.isConnected(), "the connection")
  s.connect()
  k.equal(made.length, 1, "connections")
})

scenario("socket.disconnect", async k => {
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  let done = 0
  s.disconnect(() => done++, 3000, "bye")
  await k.until(() => done === 1, "the callback")
  k.equal([s.isConnected(), s.connectionState(), c.state], [false, "closed", "errored"], "states")
  k.equal(s.closes.length, 1, "closes")
  idle(k).disconnect(() => done++)
  k.equal(done, 2, "without a connection it is called at once")
  s.connect()
  await k.until(() => c.state === "joined", "the rejoin after connect")
  s.disconnect()
  s.connect() // before the close is done
  await k.until(() => s.opens === 3 && c.state === "joined", "the rejoin")
})

scenario("socket.replaceTransport", async k => {
  const {made, Tapped} = tap(k)
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  s.replaceTransport(Tapped)
  k.equal([s.transport === Tapped, s.connectionState(), made.length], [true, "closed", 0], "before connect")
  s.connect()
  await k.until(() => made.length > 0 && c.state === "joined" && s.isConnected(), "the rejoin")
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo")
})

scenario("socket.endPointURL", async k => {
  k.equal(idle(k, "wss://h.example/socket").endPointURL(), "wss://h.example/socket/websocket?vsn=2.0.0", "an address")
  withLocation(({protocol, host}) => {
    const ws = protocol === "https:" ? "wss:" : "ws:"
    k.equal(idle(k, "/socket").endPointURL(), `${ws}//${host}/socket/websocket?vsn=2.0.0`, "a path")
    k.equal(idle(k, "//h.example/s").endPointURL(), `${ws}//h.example/s/websocket?vsn=2.0.0`, "a host and a path")
  })
})

scenario("socket.protocol", async k => {
  withLocation(({protocol}) => k.equal(idle(k).protocol(), protocol === "https:" ? "wss" : "ws", "protocol"))
})

scenario("socket.onOpen", async k => {
  const s = k.socket()
  const order = []
  k.assert(s.onOpen(() => order.push(1)) !== s.onOpen(() => order.push(2)), "each has its reference")
  await k.until(() => order.length === 2, "both")
  k.equal(order, [1, 2], "order")
})

scenario("socket.onClose", async k => {
  const server = await k.server()
  const s = k.socket({url: server.url})
  await k.until(() => s.isConnected(), "the connection")
  await server.stop("drain")
  await k.until(() => s.closes.length > 0, "the close")
  k.assert(typeof s.closes[0].code === "number", "the event has a code")
  if (k.websocket) { k.equal(s.closes[0].code, 1012, "code") }
})

scenario("socket.onError", async k => {
  const server = await k.server()
  const s = k.socket({url: server.url})
  await k.until(() => s.isConnected(), "the connection")
  const got = []
  s.onError((error, transport, established) => got.push([error !== undefined, transport === k.Transport, established]))
  await server.stop("kill")
  await k.until(() => got.length > 0, "an error")
  k.equal(got[0], [true, true, 1], "the error, the transport, and the number of connections so far")
})

scenario("socket.onMessage", async k => {
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  await k.ok(c, "echo", {n: 1})
  const {topic, event, payload, join_ref} = await k.until(() => s.messages.at(-1), "a message")
  k.equal([topic, event, payload, join_ref], [c.topic, "phx_reply", {status: "ok", response: {n: 1}}, c.joinRef()], "message")
})

scenario("socket.off", async k => {
  const s = k.socket()
  let calls = 0
  s.off([s.onOpen(() => calls++), s.onMessage(() => calls++)])
  await k.joined(s, k.topic())
  k.equal([calls, s.opens], [0, 1], "calls of the removed ones, and of the others")
})

scenario("socket.channel", async k => {
  const s = k.socket()
  const [a, b] = [s.channel("room:x"), s.channel("room:x")]
  k.equal([a === b, a.topic, a.state, s.channels.length], [false, "room:x", "closed", 2], "two channels")
  let joins = 0
  const c = await k.joined(s, "room:echo_join", () => ({n: ++joins}))
  k.equal(c.joinResponse, {n: 1}, "params of the first join")
  c.push("crash")
  await k.until(() => joins === 2 && c.state === "joined", "the second join")
})

scenario("socket.remove", async k => {
  const s = idle(k)
  const [a, b] = [s.channel("room:a"), s.channel("room:b")]
  s.remove(a)
  k.equal([s.channels.length, s.channels[0] === b], [1, true], "channels")
})

scenario("socket.push", async k => {
  const s = k.socket()
  const ref = s.makeRef()
  s.push({topic: "phoenix", event: "heartbeat", payload: {}, ref}) // before it is open
  await k.until(() => s.messages.some(m => m.ref === ref), "the answer")
  k.equal(s.opens, 1, "opens")
})

scenario("socket.makeRef", async k => {
  const s = idle(k)
  const [a, b] = [s.makeRef(), s.makeRef()]
  k.equal([typeof a, Number(b) - Number(a)], ["string", 1], "references")
})

scenario("socket.ping", async k => {
  k.equal(idle(k).ping(() => {}), false, "without a connection")
  const s = k.socket()
  await k.until(() => s.isConnected(), "the connection")
  let rtt
  k.equal(s.ping(ms => { rtt = ms }), true, "with one")
  await k.until(() => rtt !== undefined, "the answer")
  k.assert(rtt >= 0 && rtt < 8000, "ms")
})

scenario("socket.isConnected", async k => {
  const s = k.socket()
  k.equal(s.isConnected(), false, "before")
  await k.until(() => s.opens === 1, "the connection")
  k.equal(s.isConnected(), true, "then")
})

scenario("socket.connectionState", async k => {
  const s = k.socket()
  k.equal([idle(k).connectionState(), s.connectionState()], ["closed", "connecting"], "before")
  await k.until(() => s.opens === 1, "the connection")
  k.equal(s.connectionState(), "open", "then")
})

scenario("socket.log", async k => {
  const lines = []
  idle(k, undefined, {logger: (...args) => lines.push(args)}).log("kind", "text", {n: 1})
  idle(k).log("kind", "text") // without a logger
  k.equal(lines, [["kind", "text", {n: 1}]], "lines")
})

scenario("socket.hasLogger", async k => {
  k.equal([idle(k).hasLogger(), idle(k, undefined, {logger: () => {}}).hasLogger()], [false, true], "hasLogger")
})

// ---- Channel ----

scenario("channel.join", async k => {
  const s = k.socket()
  const c = k.channel(s, "room:echo_join", {n: 1})
  const join = c.join()
  k.equal(c.state, "joining", "state")
  k.equal(await k.answer(join), {status: "ok", response: {n: 1}}, "reply")
  k.equal(c.state, "joined", "state")
  let problem = ""
  try { c.join() } catch (e) { problem = String(e.message || e) }
  k.assert(problem.startsWith("tried to join multiple times"), "a second join throws")
})

scenario("channel.leave", async k => {
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  k.equal((await k.answer(c.leave())).status, "ok", "reply")
  k.equal([c.state, c.closings, s.channels.includes(c)], ["closed", 1, false], "the channel")
})

scenario("channel.on", async k => {
  const c = await k.joined(k.socket(), k.topic())
  const got = []
  const [a, b] = [c.on("pushed", p => got.push(["a", p])), c.on("pushed", p => got.push(["b", p]))]
  k.assert(a !== b, "each has its reference")
  c.push("push_me", {n: 1})
  await k.until(() => got.length === 2, "both")
  k.equal(got, [["a", {n: 1}], ["b", {n: 1}]], "calls")
})

scenario("channel.off", async k => {
  const c = await k.joined(k.socket(), k.topic())
  const got = []
  const note = name => () => got.push(name)
  const a = c.on("pushed", note("a"))
  c.on("pushed", note("b"))
  c.off("pushed", a)
  c.push("push_me")
  await k.ok(c, "echo")
  c.off("pushed")
  c.push("push_me")
  await k.ok(c, "echo")
  k.equal(got, ["b"], "calls")
})

scenario("channel.onClose", async k => {
  const c = await k.joined(k.socket(), k.topic())
  c.push("stop")
  await k.until(() => c.closings === 1, "the call")
  k.equal(c.state, "closed", "state")
})

scenario("channel.onError", async k => {
  const server = await k.server()
  const c = await k.joined(k.socket({url: server.url}), k.topic())
  c.push("crash")
  await k.until(() => c.errors.length === 1, "a crash")
  k.equal(c.errors[0], {reason: "channel_crash"}, "reason")
  await k.until(() => c.state === "joined", "the rejoin")
  await server.stop("kill")
  await k.until(() => c.errors.length === 2, "a lost connection")
  k.equal(c.errors[1].source, "transport", "source")
})

scenario("channel.onMessage", async k => {
  const c = await k.joined(k.socket(), k.topic())
  const pushed = k.inbox(c, "pushed")
  c.onMessage = (event, payload) => event === "pushed" ? {...payload, seen: true} : payload
  c.push("push_me", {n: 1})
  k.equal(await pushed.next(), {n: 1, seen: true}, "a changed payload")
})

scenario("channel.push", async k => {
  const s = k.socket()
  const c = k.channel(s, k.topic())
  let problem = ""
  try { c.push("echo", {}) } catch (e) { problem = String(e.message || e) }
  k.assert(problem.startsWith("tried to push 'echo'"), "a push before join throws")
  c.join()
  k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "a push before the reply to the join waits")
  k.equal(await k.ok(c, "echo"), {}, "without a payload")
})

scenario("channel.push of an ArrayBuffer", async k => {
  const c = await k.joined(k.socket(), k.topic())
  const bytes = Uint8Array.from({length: 300}, (_, i) => i).buffer
  const shouts = k.inbox(c, "binary_shout")
  k.equal(await k.ok(c, "binary_echo", bytes), bytes, "reply")
  c.push("binary_shout", bytes)
  k.equal(await shouts.next(), bytes, "broadcast")
}, {only: "websocket"})

scenario("channel.isClosed, isJoining, isJoined, isErrored, isLeaving", async k => {
  const s = k.socket()
  const c = k.channel(s, k.topic())
  const state = () => ["Closed", "Joining", "Joined", "Errored", "Leaving"].filter(name => c[`is${name}`]())
  k.equal(state(), ["Closed"], "at first")
  const join = c.join()
  k.equal(state(), ["Joining"], "after join")
  await k.answer(join)
  k.equal(state(), ["Joined"], "after the reply")
  await new Promise(resolve => s.disconnect(resolve))
  k.equal(state(), ["Errored"], "without a connection")
  c.onClose(() => {})
  c.leave()
  k.equal(state(), ["Closed"], "after leave")
})

// ---- Push ----

scenario("push.receive", async k => {
  const c = await k.joined(k.socket(), k.topic())
  const got = []
  const push = c.push("echo", {n: 1})
  k.assert(push.receive("ok", r => got.push(["first", r])).receive("error", () => got.push("error")) === push, "it returns the push")
  await k.until(() => got.length === 1, "the reply")
  push.receive("ok", r => got.push(["late", r]))
  k.equal(got, [["first", {n: 1}], ["late", {n: 1}]], "also after the reply")
  k.equal(await k.answer(c.push("fail", {why: "no"})), {status: "error", response: {why: "no"}}, "error")
  k.equal(await k.answer(c.push("noreply", {}, 50)), {status: "timeout", response: {}}, "timeout")
})

scenario("push.resend", async k => {
  const c = await k.joined(k.socket(), k.topic())
  const push = c.push("echo", {n: 1})
  let replies = 0
  push.receive("ok", () => replies++)
  await k.until(() => replies === 1, "the reply")
  push.resend(4000)
  await k.until(() => replies === 2, "the second reply")
  k.equal(push.timeout, 4000, "timeout")
})

scenario("push.send", async k => {
  const {made, Tapped} = tap(k)
  const c = await k.joined(k.socket({transport: Tapped}), k.topic())
  const push = c.push("noreply", {n: 1}, 20)
  k.equal((await k.answer(push)).status, "timeout", "status")
  const sent = made[0].sent.length
  push.send()
  k.equal(made[0].sent.length, sent, "a push that timed out is not sent again")
})

// ---- LongPoll ----

scenario("LongPoll", async k => {
  const s = k.socket()
  const {conn} = s
  k.assert(conn instanceof k.phoenix.LongPoll && conn.skipHeartbeat, "the connection")
  k.equal([s.connectionState(), conn.readyState], ["connecting", 0], "at first")
  await k.until(() => s.isConnected(), "the connection")
  conn.close(3000, "bye")
  k.equal([conn.readyState, s.closes.map(e => [e.code, e.reason])], [3, [[3000, "bye"]]], "closed")
  await k.until(() => s.opens === 2, "the next connection")
}, {only: "longpoll"})

/** A sessionStorage. */
function store() {
  const map = new Map()
  return {
    getItem: key => map.has(key) ? map.get(key) : null,
    setItem: (key, value) => { map.set(key, String(value)) },
    removeItem: key => { map.delete(key) },
  }
}
