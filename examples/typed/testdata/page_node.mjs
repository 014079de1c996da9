// Runs the page's code in Node with two clients: node page_node.mjs MODULES URL
import { createRequire } from "node:module";
import { join } from "node:path";
import { Socket as Own } from "../../../js/socket.mjs";
import { start } from "../page/page.mjs";

const [modules, url] = process.argv.slice(2);
const require = createRequire(join(modules, "package.json"));
const { Socket: Stock } = await import(join(modules, "node_modules", "phoenix", "priv", "static", "phoenix.mjs"));

async function open(Socket) {
  const socket = new Socket(url, { transport: require("ws") });
  socket.connect();
  const page = { shown: [] };
  page.vote = await start(socket, {
    ask: (text, choices) => { page.asked = [text, choices]; },
    show: (votes) => page.shown.push(votes),
  });
  return page;
}

const print = (value) => console.log(JSON.stringify(value));
const [a, b] = [await open(Stock), await open(Own)];
print([...a.asked, a.shown[0]]);
print([await a.vote("tea"), await b.vote("coffee")]);
print([await a.vote("coffee"), await b.vote("milk")]);
while (a.shown.length < 4 || b.shown.length < 4) await new Promise((next) => setTimeout(next, 5));
print([a.shown.at(-1), b.shown.at(-1)]);
process.exit(0);
