// Clients of shared objects, with the code of docs/state-clients.md. They run unchanged in Node and
// in a browser, and report what their copies have.
import {connect, runCode} from "./recovery.mjs"

/**
 * Counts in a document and writes to a map, a list and a tree with one client for each URL, and
 * reports each client's copies until the process or the page ends, once they have a mark.
 * @param {{report: (line: string) => void}} env
 * With addOn, the clients use bennu.mjs in place of this code, but for the tree.
 * @param {{urls: Object<string, string>, code: string, updates: number, addOn: boolean}} task
 */
export function share(env, {urls, code, updates, addOn}) {
  const report = data => env.report(JSON.stringify([data]))
  const guide = runCode({}, {}, `${code}\nreturn {openDocument, openMap}`)
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
    const {openDocument, openMap} = addOn ? withAddOn(env.bennu, guide) : guide
    const counted = openDocument(socket, "doc:count", (v, rev) => {
      if (v?.done) { report({client, kind: "count", n: v.n, rev}) }
    })
    const open = topic => {
      let due
      const object = openMap(socket, topic, () => {
        if (due || !object.rows.has("mark")) { return }
        due = setTimeout(() => { // once for many changes
          due = undefined
          const items = {}
          for (const {key, value} of object.rows.values()) { items[key] = value }
          report({client, kind: "items", topic, items})
        }, 50)
      })
      return object
    }
    // Nobody knows whether a write was applied that is answered so.
    const unlessUncertain = (topic, f) => async (...args) => {
      try {
        return await f(...args)
      } catch (e) {
        if (e.reason !== "uncertain") { throw e }
        report({client, kind: "uncertain", topic})
        return {}
      }
    }
    const writes = topic => ({push: unlessUncertain(topic, open(topic).push)})
    const board = writes("map:board"), list = writes("list:todo"), tree = writes("tree:game")
    count({update: unlessUncertain("doc:count", counted.update)}, updates)
      .then(() => scribble(client, board, updates))
      .then(() => arrange(client, list, updates))
      .then(() => grow(client, tree, updates))
      .then(() => report({client, kind: "done"}),
        e => report({client, kind: "problem", text: String(e?.stack ?? JSON.stringify(e))}))
  }
}

/** Functions as those of the guide, which use bennu.mjs. */
function withAddOn({openDocument, openMap, openList}, guide) {
  return {
    openDocument(socket, topic, onChange) {
      const opened = openDocument(socket, topic, {onChange: d => { if (!d.pending) { onChange(d.value, d.rev) } }})
      return {update: async f => (await opened).update(f)}
    },
    openMap(socket, topic, onChange) {
      if (topic.startsWith("tree:")) { return guide.openMap(socket, topic, onChange) }
      const rows = new Map(), open = topic.startsWith("map:") ? openMap : openList
      const opened = open(socket, topic, {
        onChange: (object, keys) => {
          for (const key of keys) {
            if (object.has(key)) { rows.set(key, {key, value: object.get(key)}) } else { rows.delete(key) }
          }
          onChange()
        },
      })
      const pushes = {
        del: (o, {key}) => o.delete(key),
        add: (o, {value}) => o.add(value),
        insert: (o, {value, after}) => o.insert(after, value),
        move: (o, {key, after}) => o.move(key, after),
        batch: (o, {ops}) => o.batch(ops.map(({key, value}) => ({key, value}))),
        // Not merge, so that clients compete for the item.
        merge: (o, {key, value}) => o.update(key, sum => {
          const [name] = Object.keys(value)
          return {...sum, [name]: (sum?.[name] ?? 0) + 1}
        }),
      }
      return {rows, push: async (event, m) => ({key: await pushes[event](await opened, m)})}
    },
  }
}

async function count({update}, updates) {
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

/** Writes to the list: inserts items, moves every second one, and deletes every fourth. */
async function arrange(client, list, updates) {
  let before = null
  for (let i = 0; i < updates; i++) {
    let {key} = await list.push("insert", {value: `${client}/${i}`, after: before})
    if (key && i % 2 === 0) { ({key} = await list.push("move", {key, after: null})) }
    if (!key) { continue }
    if (i % 4 === 1) { await list.push("del", {key}) } else { before = key }
  }
}

/** Writes to the tree: paths of its own, which stay, and one that all clients replace. */
async function grow(client, tree, updates) {
  for (let i = 0; i < updates; i++) {
    await tree.push("put", {key: `${client}/a`, value: {[i]: {b: i}, last: i}})
    await tree.push("merge", {key: "", value: {[`${client}/n`]: {$inc: 1}, [`${client}/a/${i}`]: null}})
    if (i % 5 === 0) { await tree.push("add", {path: `${client}/log`, value: {i}}) }
    await tree.push("put", {key: "shared", value: i % 3 ? {[client]: {[i]: i}} : i})
    if (i % 4 === 0) { await tree.push("del", {key: "shared"}) }
  }
}
