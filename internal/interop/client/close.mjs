// Close codes: does phoenix.js reconnect after the server closed the connection?
import {scenario} from "./kit.mjs"

// Up to 1.8.12, phoenix.js treats 1000 as an intended end. 1.8.16 reconnects after any code.
for (const code of [1000, 1001, 1012, 1013]) {
  scenario(`closed with ${code}`, async k => {
    const server = await k.server({ws: "close", code})
    let scheduled = 0
    const s = k.socket({url: server.url, reconnectAfterMs: () => { scheduled++; return 10 }})
    await k.until(() => s.closes.length === 1, "the close")
    k.equal(s.closes[0].code, code, "close code")
    // phoenix.js schedules the next attempt before it calls onClose.
    const stays = code === 1000 && k.env.name === "phoenix-1.8.12"
    k.equal(scheduled, stays ? 0 : 1, "attempts scheduled")
    if (stays) { // connect() alone does nothing then
      await new Promise(resolve => s.disconnect(resolve))
      s.connect()
    }
    const c = await k.joined(s, k.topic())
    k.equal(await k.ok(c, "echo", {n: 1}), {n: 1}, "echo after coming back")
    k.equal([s.opens, s.closes.length], [2, 1], "opens and closes")
  })
}
