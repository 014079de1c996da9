// Clients of recorded topics, with the code of docs/recovery.md. They run unchanged in Node and in
// a browser, and report what they sent and received.

const codecs = {
  "2.0.0": ({Serializer}) => ({
    encode: (m, send) => Serializer.encode(m, send),
    decode: (raw, receive) => Serializer.decode(raw, receive),
  }),
  // phoenix.js has no serializer for version 1, but takes one as options.
  "1.0.0": () => ({
    encode: ({topic, event, payload, ref}, send) => send(JSON.stringify({topic, event, payload, ref})),
    decode: (raw, receive) => receive(JSON.parse(raw)),
  }),
}

/**
 * A connected socket that calls `sent` and `received` with each message, before phoenix.js handles
 * it. `received` is also called with the frame.
 */
export function connect({phoenix, Transport, vsn, timeout, params}, url, sent, received) {
  const {encode, decode} = codecs[vsn](phoenix)
  // Shorter than usual, because nothing but cuts makes them wait. A long poll has the usual delays:
  // after one cut, version 1.7 closes several times, and would not come to rest.
  // A join that timed out is repeated later and later, as phoenix.js does it by itself. Otherwise
  // slow joins pile up on the server, which takes one at a time, and each answer comes too late.
  let delays = {reconnectAfterMs: () => 10, rejoinAfterMs: tries => 10 * 2 ** Math.min(tries, 8)}
  // phoenix.js ignores encode and decode for its own class, but not for one that is derived.
  if (Transport === phoenix.LongPoll) {
    Transport = class extends phoenix.LongPoll {}
    delays = {}
  }
  const socket = new phoenix.Socket(url, {
    transport: Transport,
    vsn,
    ...delays,
    timeout,
    params,
    encode: (m, send) => { sent(m); encode(m, send) },
    decode: (raw, receive) => decode(raw, m => { received(m, raw); receive(m) }),
  })
  socket.connect()
  return socket
}

/**
 * Runs code of a guide, in which the names that it does not declare are those of `scope` and of
 * bennu.mjs, and returns what it returns.
 */
export function runCode({bennu}, scope, code) {
  const names = {...bennu, ...scope}
  return new Function(...Object.keys(names), code.replace(/^import .*$/gm, ""))(...Object.values(names))
}

/**
 * Follows room:lobby with one client for each URL, until the process or the page ends. Clients
 * whose names begin with "c" run `code`, which is that of the guide. The others do not ask for
 * history.
 *
 * A browser may repeat a POST whose connection broke. If it was a join, the server joins the topic
 * twice, as Phoenix does, and phoenix.js takes the phx_close of the first join for its own. Then
 * the channel has ended, and the page is loaded anew.
 * @param {{phoenix: object, Transport: Function, vsn: string, timeout?: number,
 *   urls: Object<string, string>, code: string, report: (line: string) => void}} env
 */
export function follow(env) {
  let events = []
  const flush = () => { env.report(JSON.stringify(events)); events = [] }
  const start = (client, url) => {
    const asks = client[0] === "c"
    const note = (kind, data) => {
      if (events.push({client, kind, ...data}) === 1) { setTimeout(flush, 20) }
    }
    const joins = {}
    const socket = connect(env, url, m => {
      if (m.event === "phx_join") { joins[m.ref] = {since: m.payload.$history?.since} }
    }, (m, raw) => {
      if (!asks && raw.includes('"$')) { note("problem", {text: `it did not ask, and received ${raw}`}) }
      if (m.event === "phx_reply" && joins[m.ref]) {
        const {status, response} = m.payload
        note("reply", {...joins[m.ref], status, ...response, history: response.$history})
      } else if (m.event === "new_msg" || m.event === "$history") {
        note(m.event, {pos: m.payload.$pos, id: m.payload.id})
      } else if (m.event === "phx_error") {
        note("problem", {text: `received ${raw}`})
      }
    })
    socket.onClose(() => note("close"))
    const again = () => { note("closed"); socket.disconnect(); start(client, url) }
    if (!asks) {
      const room = socket.channel("room:lobby", {user: client})
      room.onClose(again)
      room.join()
      return
    }
    const {channel} = socket
    socket.channel = (...args) => {
      const room = channel.apply(socket, args)
      room.onClose(again)
      return room
    }
    const show = m => note("show", {pos: m.$pos, id: m.id})
    const reset = messages => note("reset", {messages})
    runCode(env, {socket, user: client, show, reset}, env.code)
  }
  for (const [client, url] of Object.entries(env.urls)) { start(client, url) }
}

/**
 * Plays a session of a client that does not ask for history, and returns the frames that it
 * received, one by one.
 */
export async function session(env, url) {
  const frames = [], events = []
  const binary = env.vsn !== "1.0.0" && env.Transport !== env.phoenix.LongPoll
  const socket = connect(env, url, () => {}, (m, raw) => {
    frames.push(typeof raw === "string" ? raw : Array.from(new Uint8Array(raw)).join(" "))
    events.push(m.event)
  })
  const end = Date.now() + 10000
  const until = async (condition, what) => {
    while (!condition()) {
      if (Date.now() > end) { throw new Error(`waited for ${what}; received ${frames.join("\n")}`) }
      await new Promise(resolve => setTimeout(resolve, 5))
    }
  }
  const answered = async push => {
    let done = false
    for (const status of ["ok", "error"]) { push.receive(status, () => { done = true }) }
    await until(() => done, `the answer to ${push.event}`)
  }
  // Each step waits for its events, because replies and broadcasts have no order among each other.
  const step = async (channel, event, caused) => {
    const before = events.filter(e => e === caused).length
    await answered(channel.push(event, {n: frames.length}))
    if (caused) { await until(() => events.filter(e => e === caused).length > before, caused) }
  }
  const refused = socket.channel("script:refused", {})
  await answered(refused.join())
  refused.leave()
  for (const n of [1, 2]) {
    const channel = socket.channel("script:1", {n})
    await answered(channel.join())
    await step(channel, "say", "new_msg")
    await step(channel, "say_to_others")
    await step(channel, "say_secret", "secret")
    if (binary) { await step(channel, "say_binary", "blob") }
    await step(channel, "say_unrecorded", "typing")
    await step(channel, "job", "new_msg")
    await step(channel, "fail")
    await answered(channel.leave())
    await until(() => events.filter(e => e === "phx_close").length === n, "phx_close")
  }
  socket.disconnect()
  return frames
}

/** Runs what the query or the command line asks for. */
export async function main(env, {task, urls, codeURL, timeout, ...rest}) {
  if (task === "follow") {
    const code = await (await fetch(codeURL)).text()
    follow({...env, urls, code, timeout})
    return
  }
  if (task === "share") {
    const code = await (await fetch(codeURL)).text()
    const {share} = await import("./state.mjs")
    share({...env, timeout}, {...rest, urls, code})
    return
  }
  const frames = {}
  for (const [name, url] of Object.entries(urls)) { frames[name] = await session(env, url) }
  env.report(JSON.stringify([{kind: "frames", frames}]))
}
