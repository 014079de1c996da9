// Channels that answer calls of the server. Part of bennu.mjs.

/** By channel: the functions by event, and whether the channel is joined. */
const answering = new WeakMap();

/**
 * Answers the server's calls of an event with what f returns, or its promise resolves to: a JSON
 * value, or an ArrayBuffer. If f throws, or the promise rejects, the server receives the error's
 * reason, such as that of a PushError, or "failed". Another handle for the event takes the place of
 * this one. The first handle of a channel must be called before it joins.
 */
export function handle(channel, event, f) {
  const state = answering.get(channel) ?? begin(channel);
  state.functions.get(event)?.off();
  const ref = channel.on(event, async (payload) => {
    if (payload?.$call === undefined) return;
    const { $call, ...question } = payload;
    try {
      const response = await f(question);
      if (response instanceof ArrayBuffer) channel.push(`$reply:${$call}`, response);
      else channel.push("$reply", { $call, status: "ok", response: response ?? {} });
    } catch (error) {
      channel.push("$reply", { $call, status: "error", response: { reason: error?.reason ?? "failed" } });
    }
  });
  const entry = {
    off() {
      channel.off(event, ref);
      if (state.functions.get(event) === entry) state.functions.delete(event);
    },
  };
  state.functions.set(event, entry);
  state.tell();
  return () => {
    entry.off();
    state.tell();
  };
}

/** Adds the events to the params of each join. */
function begin(channel) {
  const state = {
    functions: new Map(),
    joined: false,
    tell() {
      if (state.joined) channel.push("$calls", { calls: [...state.functions.keys()] });
    },
  };
  answering.set(channel, state);
  const { join, joinPush } = channel;
  const params = joinPush.payload;
  joinPush.payload = () => ({ ...params.call(joinPush), $calls: [...state.functions.keys()] });
  channel.join = (...args) =>
    join.apply(channel, args).receive("ok", () => {
      state.joined = true;
    });
  channel.onError(() => {
    state.joined = false;
  });
  channel.onClose(() => {
    state.joined = false;
  });
  return state;
}
