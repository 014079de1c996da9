// Scenarios of a page that is left, restored, hidden and shown. They run in browsers only.
import {scenario} from "./kit.mjs"

const fire = event => dispatchEvent(new Event(event))

/** Long enough for several attempts to connect, which must not happen. */
const AWAY_MS = 300

/** Makes the page hidden or visible. */
function show(state) {
  Object.defineProperty(document, "visibilityState", {value: state, configurable: true})
  fire("visibilitychange")
}

scenario("a page that is left and restored", async k => {
  const s = k.socket()
  const c = await k.joined(s, k.topic())
  fire("pagehide")
  await k.until(() => !s.isConnected() && s.closes.length === 1, "the close")
  await k.until(() => c.state === "errored", "the channel without a connection")
  fire("pageshow")
  await k.until(() => s.opens === 2 && c.state === "joined", "the rejoin")
})

scenario("a page that is restored after it had disconnected", async k => {
  const s = k.socket()
  await k.joined(s, k.topic())
  await new Promise(resolve => s.disconnect(resolve))
  fire("pagehide")
  fire("pageshow")
  await k.pause(AWAY_MS)
  k.equal([s.opens, s.connectionState()], [1, "closed"], "opens and state")
})

scenario("a hidden page", async k => {
  const server = await k.server()
  const s = k.socket({url: server.url, reconnectAfterMs: () => 20})
  const c = await k.joined(s, k.topic())
  show("hidden")
  await server.stop("kill")
  await k.until(() => s.closes.length > 0, "the close")
  await server.start()
  await k.pause(AWAY_MS)
  k.equal([s.opens, s.isConnected()], [1, false], "while it is hidden")
  show("visible")
  await k.until(() => s.opens === 2 && c.state === "joined", "the rejoin")
})
