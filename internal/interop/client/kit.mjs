// Helpers for the scenarios. They run unchanged in Node and in a browser.

/** Bounds the wait for anything expected. It only expires when a scenario fails. */
const PATIENCE_MS = 8000

const all = []

/**
 * Declares a scenario. It runs on both transports unless `only` names one.
 * @param {string} name
 * @param {(k: Scene) => Promise<void>} run
 * @param {{only?: "websocket" | "longpoll"}} [opts]
 */
export function scenario(name, run, opts = {}) { all.push({name, run, ...opts}) }

/**
 * Runs all declared scenarios sequentially and reports one line of JSON for each: first
 * {"plan": [names]}, then {"name", "ok", "ms", "error"?} for each.
 * @param {{phoenix: object, name?: string, WebSocket: Function, transport: string, control: string,
 *   match?: string, report: (line: string) => void}} env
 */
export async function run(env) {
  const match = new RegExp(env.match || "")
  const todo = all.filter(s => (!s.only || s.only === env.transport) && match.test(s.name))
  env.report(JSON.stringify({plan: todo.map(s => s.name)}))
  const main = await Server.create(env.control, {})
  let serial = 0
  for (const s of todo) {
    const scene = new Scene(env, main, ++serial)
    const start = Date.now()
    let error
    try {
      await s.run(scene)
    } catch (e) {
      error = `${e && e.stack || e}\n${scene.story()}`
    }
    await scene.end()
    env.report(JSON.stringify({name: s.name, ok: !error, ms: Date.now() - start, error}))
  }
  await main.close()
}

/** A server with the conformance application, which the Go test starts and stops on request. */
class Server {
  /**
   * @param {{ws?: "refuse" | "hang" | "close", code?: number, window?: number, idle?: number,
   *   notice?: number, spread?: number}} options
   */
  static async create(control, options) {
    const s = new Server()
    s.control = control
    const {id, url} = await s.ask("POST", `/servers?${new URLSearchParams(options)}`)
    s.id = id
    s.url = url
    return s
  }

  async ask(method, path) {
    const res = await fetch(this.control + path, {method})
    const text = await res.text()
    if (!res.ok) { throw new Error(`${method} ${path}: ${res.status} ${text}`) }
    return text ? JSON.parse(text) : null
  }

  /** Stops it: "drain" as in a deployment, "kill" as in a crash. It keeps its port. */
  stop(how) { return this.ask("POST", `/servers/${this.id}/stop?how=${how}`) }

  /** Restarts it on the same port, without any state. */
  start() { return this.ask("POST", `/servers/${this.id}/start`) }

  close() { return this.ask("DELETE", `/servers/${this.id}`) }
}

/** The environment of a scenario: sockets that are closed at its end, servers, assertions. */
export class Scene {
  constructor(env, main, serial) {
    this.env = env
    this.phoenix = env.phoenix
    this.websocket = env.transport === "websocket"
    this.main = main
    this.serial = serial
    this.topics = 0
    this.sockets = []
    this.servers = []
    this.log = []
    this.started = Date.now()
  }

  /** The transport under test, as an option of phoenix.js. */
  get Transport() { return this.websocket ? this.env.WebSocket : this.phoenix.LongPoll }

  /** A unique topic. */
  topic(name = "t", prefix = "room") { return `${prefix}:${name}-${this.env.transport}-${this.serial}-${++this.topics}` }

  /** A server for this scenario only, which it may stop and restart. */
  async server(options = {}) {
    const s = await Server.create(this.env.control, options)
    this.servers.push(s)
    return s
  }

  /**
   * A connecting socket. For assertions it records `messages` (of onMessage), `closes` (events),
   * `failures` (number of errors) and `opens` (number of times that it opened).
   */
  socket({url = this.main.url, ...opts} = {}) {
    const name = `s${this.sockets.length + 1}`
    const s = new this.phoenix.Socket(url, {
      transport: this.Transport,
      timeout: PATIENCE_MS,
      rejoinAfterMs: () => 50,
      logger: (kind, msg, data) => this.note(name, kind, msg, data),
      ...opts,
    })
    this.watch(s)
    s.connect()
    return s
  }

  /** Records what `socket` does, for a socket that the scenario has made itself. */
  watch(s) {
    s.messages = []
    s.closes = []
    s.failures = 0
    s.opens = 0
    s.onOpen(() => s.opens++)
    s.onMessage(m => s.messages.push(m))
    s.onClose(e => s.closes.push(e))
    s.onError(() => s.failures++)
    this.sockets.push(s)
    return s
  }

  /** A joined channel on a socket. `errors` and `closings` count the onError and onClose calls. */
  async joined(socket, topic, params) {
    const c = this.channel(socket, topic, params)
    const {status, response} = await this.answer(c.join())
    this.equal(status, "ok", `join of ${topic}`)
    c.joinResponse = response
    return c
  }

  /** A channel that is not joined yet. */
  channel(socket, topic, params) {
    const c = socket.channel(topic, params)
    c.errors = []
    c.closings = 0
    c.onError(reason => c.errors.push(reason))
    c.onClose(() => c.closings++)
    return c
  }

  /** The first reply to a push, with any status: {status, response}. */
  async answer(push) {
    let got
    for (const status of ["ok", "error", "timeout"]) {
      push.receive(status, response => { got = got || {status, response} })
    }
    await this.until(() => got, `an answer to ${push.event}`)
    return got
  }

  /** Pushes, expects the status ok, and returns the response. */
  async ok(channel, event, payload, timeout) {
    const {status, response} = await this.answer(channel.push(event, payload, timeout))
    this.equal(status, "ok", `answer to ${event}`)
    return response
  }

  /** The messages of an event: `items` so far, `next()` for the next one. */
  inbox(channel, event) {
    const items = []
    let taken = 0
    channel.on(event, payload => items.push(payload))
    return {
      items,
      next: async () => {
        await this.until(() => items.length > taken, `the next ${event}`)
        return items[taken++]
      },
    }
  }

  /** Waits until the condition is true, and returns its value. It fails after ms. */
  async until(condition, what, ms = PATIENCE_MS) {
    const end = Date.now() + ms
    for (;;) {
      const v = condition()
      if (v) { return v }
      if (Date.now() > end) { throw new Error(`waited ${ms} ms for ${what || condition}`) }
      await this.pause(5)
    }
  }

  pause(ms) { return new Promise(resolve => setTimeout(resolve, ms)) }

  /** Deep equality. Ignores the order of keys, and compares ArrayBuffers by content. */
  equal(got, want, what = "value") {
    const g = canonical(got), w = canonical(want)
    if (g !== w) { throw new Error(`${what}: got ${short(g)}, want ${short(w)}`) }
  }

  assert(condition, what) { if (!condition) { throw new Error(`not so: ${what}`) } }

  note(name, kind, msg, data) {
    const detail = data instanceof Error ? data.message : data && data.type ? `${data.type} ${data.code || ""} ${data.reason || data.message || ""}` : data
    this.log.push(`  ${String(Date.now() - this.started).padStart(5)} ${name} ${kind}: ${msg} ${short(canonical(detail), 160)}`)
  }

  /** The last log lines of phoenix.js, for the report of a failure. */
  story() {
    const last = this.log.slice(-40)
    return [`phoenix.js logged (${this.log.length} lines, the last ${last.length}):`, ...last].join("\n")
  }

  /** Closes everything that the scenario opened. Never fails. */
  async end() {
    for (const s of this.sockets) { s.disconnect() }
    for (const s of this.servers) { await s.close().catch(() => {}) }
  }
}

function canonical(v) {
  if (v instanceof ArrayBuffer) { return `bytes(${Array.from(new Uint8Array(v)).join(" ")})` }
  if (Array.isArray(v)) { return `[${v.map(canonical).join(",")}]` }
  if (v && typeof v === "object") {
    return `{${Object.keys(v).sort().map(k => `${JSON.stringify(k)}:${canonical(v[k])}`).join(",")}}`
  }
  return v === undefined ? "undefined" : JSON.stringify(v)
}

function short(s, max = 300) { return s.length > max ? `${s.slice(0, max)}… (${s.length} characters)` : s }
