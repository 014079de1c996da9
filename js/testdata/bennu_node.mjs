// Runs bennu.mjs in Node: node bennu_node.mjs MODULES CLIENT URL
import { createRequire } from "node:module";
import { join } from "node:path";

const [modules, client, url] = process.argv.slice(2);
const require = createRequire(join(modules, "package.json"));
// The ES module of phoenix.js, as in a browser.
const { Socket } = await import(
  client === "phoenix" ? join(modules, "node_modules", "phoenix", "priv", "static", "phoenix.mjs") : `../${client}`
);
const { run } = await import("./bennu.mjs");
const bennu = await import("../bennu.mjs");
await run({ Socket, bennu, url, options: { transport: require("ws") }, report: (line) => console.log(line) });
process.exit(0);
