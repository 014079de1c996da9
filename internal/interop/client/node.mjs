// Runs the scenarios in Node: node node.mjs MODULES CONTROL TRANSPORT SUITE PHOENIX [MATCH]
// MODULES is a directory that contains node_modules/ws and node_modules/PHOENIX. PHOENIX may also
// be the path of an ES module.
import {createRequire} from "node:module"
import {join, resolve} from "node:path"
import {run} from "./kit.mjs"

const [modules, control, transport, suite, name, match] = process.argv.slice(2)
const require = createRequire(join(modules, "package.json"))

await import(`./${suite}.mjs`)
await run({
  phoenix: name.endsWith(".mjs") ? await import(resolve(name)) : require(name),
  name,
  WebSocket: require("ws"),
  transport,
  control,
  match,
  report: line => process.stdout.write(line + "\n"),
})
process.exitCode = 0
// phoenix.js keeps timers of pushes whose result is no longer needed.
setTimeout(() => process.exit(), 0)
