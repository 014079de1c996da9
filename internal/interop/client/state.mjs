// Clients of shared objects, with the code of docs/state-clients.md. They run unchanged in Node and
// in a browser, and report what their copies have.
import {connect} from "./recovery.mjs"

/**
 * Counts in a document and writes to a map with one client for each URL, and reports each client's
 * copies until the process or the page ends: the document and the map, once they have a mark.
 * @param {{report: (line: string) => void}} env
 * @param {{urls: Object<string, string>, code: string, updates: number}} task
 */
export function share(env, {urls, code, updates}) {
  const report = data => env.report(JSON.stringify([data]))
  const {openDocument, openMap} = new Function(`${code}\nreturn {openDocument, openMap}`)()
  for (const [client, url] of Object.entries(urls)) {
    const params = {$client: crypto.randomUUID()}
    const socket = connect({...env, params}, url, () => {}, m => {
      if (m.event === "phx_error") { report({client, kind: "problem", text: JSON.stringify(m)}) }
    })
    // A phx_close that belongs to a join which phoenix.js gave up is not the channel's.
    const {channel} = socket
    socket.channel = (topic, ...args) => {
      const opened = channel.call(socket, topic, ...args)
      opened.onClose(() => report({client, kind: "problem", text: `${topic} was closed`}))
      return opened
    }
    const counted = openDocument(socket, "doc:count", (v, rev) => {
      if (v?.done) { report({client, kind: "count", n: v.n, rev}) }
    })
    let due
    const board = openMap(socket, "map:board", () => {
      if (due || !board.rows.has("mark")) { return }
      due = setTimeout(() => { // once for many changes
        due = undefined
        const items = {}
        for (const {key, value} of board.rows.values()) { items[key] = value }
        report({client, kind: "map", items})
      }, 50)
    })
    count(client, counted, updates)
      .then(() => scribble(client, board, updates))
      .then(() => report({client, kind: "done"}),
        e => report({client, kind: "problem", text: String(e?.stack ?? JSON.stringify(e))}))
  }
}

async function count(client, {update}, updates) {
  for (let i = 0; i < updates; i++) { await update(v => ({...v, n: (v?.n ?? 0) + 1})) }
}

/** Writes to the map: keys of its own, which stay, and keys that all clients put and delete. */
async function scribble(client, board, updates) {
  for (let i = 0; i < updates; i++) {
    const shared = `shared/${i % 7}`
    await board.push("batch", {ops: [
      {op: "put", key: `${client}/${i}`, value: i},
      {op: "put", key: shared, value: {client, i}},
    ]})
    if (i % 3 === 0) { await board.push("del", {key: shared}) }
    if (i % 5 === 0) { await board.push("add", {value: {client, added: i}}) }
    await board.push("merge", {key: "sum", value: {[client]: {$inc: 1}}})
  }
}
