// Runs the Yjs code of docs/streams.md: node yjs_node.mjs MODULES URL STREAM EDITOR. Two editors
// write one text, one of them also while its connection is away. A late one begins with the
// snapshot. It prints what each has, and how many messages it has read.
import {createRequire} from "node:module"
import {join} from "node:path"

const [modules, url, streamCode, editorCode] = process.argv.slice(2)
const require = createRequire(join(modules, "package.json"))
const {Socket} = require("phoenix"), Y = require("yjs")
const openStream = new Function(`${streamCode}\nreturn openStream`)()
const openEditor = new Function("Y", "openStream", "socket", `${editorCode}\nreturn doc`)
Math.random = () => 0 // every editor stores snapshots

/** An editor of the guide, and its text. */
function open() {
  const socket = new Socket(url, {
    transport: require("ws"), timeout: 300, reconnectAfterMs: () => 10, rejoinAfterMs: () => 10,
  })
  socket.connect()
  const editor = {socket, messages: 0, snapshots: 0}
  editor.joined = new Promise(joined => {
    const counted = (s, topic, o) => openStream(s, topic, {
      onReset: value => {
        if (value) { editor.snapshots++ }
        o.onReset(value)
        joined()
      },
      onMessage: (...m) => { editor.messages++; o.onMessage(...m) },
    })
    editor.text = openEditor(Y, counted, socket).getText("t")
  })
  return editor
}

const pause = () => new Promise(next => setTimeout(next, 5))
const until = async f => { while (!f()) { await pause() } }

const a = open(), b = open()
await Promise.all([a.joined, b.joined])
for (let n = 0; n < 110; n++) {
  for (const editor of [a, b]) { editor.text.insert(n % (editor.text.length + 1), editor === a ? "a" : "b") }
  if (n % 20 === 10) { b.socket.conn.close() } // it comes back and goes on
  if (n % 10 === 0) { await pause() }
}
await until(() => a.text.length === 220 && b.text.length === 220)
await new Promise(gone => b.socket.disconnect(gone))
b.text.insert(0, "offline")
await new Promise(next => setTimeout(next, 700)) // longer than the timeout of a push, twice
b.socket.connect()
await until(() => a.text.length === 227)
const c = open()
await until(() => c.text.length === 227)
for (const {text, messages, snapshots} of [a, b, c]) {
  process.stdout.write(JSON.stringify({text: text.toString(), messages, snapshots}) + "\n")
}
process.exit(0)
