// Runs the code of docs/streams.md: node stream_node.mjs MODULES URL CODE. It prints what
// the clients have received.
import {createRequire} from "node:module"
import {join} from "node:path"

const [modules, url, code] = process.argv.slice(2)
const require = createRequire(join(modules, "package.json"))
const {Socket} = require("phoenix")
const openStream = new Function(`${code}\nreturn openStream`)()

/** A client whose sum begins with the snapshot. */
function open() {
  const socket = new Socket(url, {transport: require("ws"), reconnectAfterMs: () => 10, rejoinAfterMs: () => 10})
  socket.connect()
  const client = {socket, sum: 0, resets: [], values: []}
  client.stream = openStream(socket, "text:1", {
    onReset: s => {
      client.resets.push(s ?? null)
      client.sum = s ?? 0
    },
    onMessage: v => {
      client.values.push(v)
      client.sum += v
    },
  })
  return client
}

const until = async f => { while (!f()) { await new Promise(next => setTimeout(next, 5)) } }
const answered = push => new Promise((ok, fail) => {
  push.receive("ok", ok).receive("error", fail).receive("timeout", fail)
})

const a = open(), b = open()
await until(() => a.resets.length === 1 && b.resets.length === 1)
for (let n = 1; n <= 30; n++) {
  if (n % 10 === 5) { b.socket.conn.close() } // it comes back and goes on
  await answered(a.stream.publish(n))
  if (n === 20) {
    await until(() => a.values.length === n)
    await answered(a.stream.snapshot(a.sum))
  }
}
await until(() => a.values.length === 30 && b.values.length === 30)
const c = open()
await until(() => c.values.length === 10)
for (const {sum, resets, values} of [a, b, c]) { process.stdout.write(JSON.stringify({sum, resets, values}) + "\n") }
process.exit(0)
