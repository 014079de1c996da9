// Tests the function call of docs/state-clients.md with a channel that does what each test wants,
// and a clock that stands still: node call_node.mjs CODE.
import assert from "node:assert/strict"

const call = new Function(`${process.argv[2]}\nreturn call`)()
let now = 1
Date.now = () => now

class Channel {
  at = "k2m9-1-aaaa"
  joined = true
  pushes = []
  waiting = new Map()
  refs = 0

  isJoined() { return this.joined }
  on(event, f) { assert.equal(event, "synced"); this.waiting.set(++this.refs, f); return this.refs }
  off(event, ref) { assert.equal(event, "synced"); this.waiting.delete(ref) }
  push(event, m) {
    const p = {event, m: JSON.parse(JSON.stringify(m)), on: {}}
    this.pushes.push(p)
    const push = {receive: (status, f) => { p.on[status] = f; return push }}
    return push
  }
  /** The channel is joined, and receives what it has missed. */
  join(at) {
    this.joined = true
    this.at = at
    for (const f of this.waiting.values()) { f() }
  }
}

const tests = {
  async "a reply"(ch) {
    const done = call(ch, "put", {value: 1})
    const [{event, m, on}] = ch.pushes
    assert.equal(event, "put")
    assert.match(m.$id, /^[0-9a-f-]{36}$/)
    assert.deepEqual(m, {$id: m.$id, value: 1})
    on.ok({rev: 7})
    assert.deepEqual(await done, {rev: 7})
  },
  async "a lost reply"(ch) {
    const done = call(ch, "put", {value: 1})
    ch.joined = false
    ch.pushes[0].on.timeout()
    assert.equal(ch.pushes.length, 1, "without a connection")
    ch.join("k2m9-9-bbbb")
    assert.deepEqual(ch.pushes[1].m, {...ch.pushes[0].m, $pos: "k2m9-1-aaaa"})
    ch.joined = false
    ch.join("k2m9-20-cccc")
    assert.deepEqual(ch.pushes[2].m, ch.pushes[1].m, "the second repetition")
    ch.pushes[2].on.ok({rev: 8})
    assert.deepEqual(await done, {rev: 8})
    ch.pushes[1].on.timeout() // its reply was lost, too
    assert.equal(ch.pushes.length, 3, "after the reply")
  },
  async "a late reply"(ch) {
    const done = call(ch, "put", {value: 1})
    ch.pushes[0].on.timeout()
    assert.deepEqual(ch.pushes[1].m, {...ch.pushes[0].m, $pos: "k2m9-1-aaaa"})
    ch.pushes[1].on.ok({rev: 8})
    assert.deepEqual(await done, {rev: 8})
  },
  async "no connection at first"(ch) {
    ch.joined = false
    ch.at = undefined
    const done = call(ch, "put", {value: 1})
    assert.equal(ch.pushes.length, 0)
    now += 3_600_000
    ch.join("k2m9-9-bbbb")
    assert.equal("$pos" in ch.pushes[0].m, false, "it was not sent before")
    ch.join("k2m9-10-cccc")
    assert.equal(ch.pushes[1].m.$pos, "k2m9-9-bbbb")
    ch.pushes[1].on.ok({})
    await done
  },
  async "no position at first"(ch) {
    ch.at = undefined
    const done = call(ch, "put", {value: 1})
    ch.join("k2m9-9-bbbb")
    ch.join("k2m9-10-cccc")
    assert.deepEqual(ch.pushes.slice(1).map(({m}) => m.$pos), [null, null])
    ch.pushes[2].on.error({reason: "uncertain"})
    await assert.rejects(done, e => e.reason === "uncertain")
  },
  async "ten minutes later"(ch) {
    const done = call(ch, "put", {value: 1})
    ch.joined = false
    now += 600_000
    ch.join("k2m9-2-bbbb")
    await assert.rejects(done, e => e.reason === "uncertain")
    assert.equal(ch.pushes.length, 1)
  },
}

for (const [name, test] of Object.entries(tests)) {
  const ch = new Channel()
  await test(ch).catch(e => { throw new Error(name, {cause: e}) })
  assert.equal(ch.waiting.size, 0, `${name}: it waits no more`)
}
console.log(`${Object.keys(tests).length} tests passed`)
