// Runs recovery.mjs in Node: node recovery_node.mjs MODULES PHOENIX TRANSPORT VSN TASK
import {createRequire} from "node:module"
import {join} from "node:path"
import * as bennu from "../../../js/bennu.mjs"
import {main} from "./recovery.mjs"

const [modules, name, transport, vsn, task] = process.argv.slice(2)
const require = createRequire(join(modules, "package.json"))
const phoenix = name.endsWith(".mjs") ? await import(`../../../js/${name}`) : require(name)
await main({
  phoenix,
  bennu,
  Transport: transport === "websocket" ? require("ws") : phoenix.LongPoll,
  vsn,
  report: line => process.stdout.write(line + "\n"),
}, JSON.parse(task))
