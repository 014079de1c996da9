// Channels that receive what they missed. Part of bennu.mjs.

import { call, PushError, valueOf } from "./push.mjs";

/**
 * Makes a channel that continues after an interruption. It is the client's own channel, made by
 * socket.channel. Its callbacks get each recorded event once and in order, also those that were
 * broadcast while there was no connection. If that is not possible, onReset is called: the page
 * shows what the join's reply has, and goes on from there.
 *
 * A page that wants to continue after a reload stores channel.position together with what it shows,
 * and passes it as since.
 */
export function recover(socket, topic, params = {}, { since, last, own, onReset = () => {} } = {}) {
  let position = since ?? undefined;
  let live = false; // the last join was answered
  let on = false; // the server records the topic
  // Before the reply come frames of an older join only. They come again, so they are dropped: if
  // they moved the position, the page would miss what the reply is about.
  const outdated = new WeakSet();
  const channel = socket.channel(topic, () => {
    live = false;
    return { ...valueOf(params), $history: { since: position, last, own } };
  });

  const { join, on: listen } = channel;
  let userHook = channel.onMessage;
  const take = (event, payload, ...rest) => {
    const recorded = payload?.$pos !== undefined;
    if (recorded && live) position = payload.$pos;
    const result = userHook.call(channel, event, payload, ...rest);
    // The position of a binary event follows it in an event of its own.
    const isOutdated = !live && (recorded || payload instanceof ArrayBuffer);
    if (isOutdated && Object(result) === result) outdated.add(result);
    return result;
  };
  Object.defineProperties(channel, {
    // A page may still set onMessage.
    onMessage: { configurable: true, get: () => take, set: (hook) => { userHook = hook; } },
    position: { configurable: true, get: () => position },
  });
  channel.on = (event, callback) =>
    listen.call(channel, event, (payload, ...rest) => {
      if (!outdated.has(payload)) callback(payload, ...rest);
    });

  const accept = (reply) => {
    const history = reply?.$history;
    live = true;
    on = history?.pos !== undefined;
    if (history?.recovered) return;
    position = history?.pos;
    onReset(reply, history?.why ?? "off");
  };
  const refuse = (response) => {
    if (response?.reason === "invalid position") position = undefined; // the next join has none
  };
  channel.join = (...args) =>
    join.apply(channel, args).receive("ok", accept).receive("error", refuse);

  // A channel of a server without history would crash by this push.
  const ask = async (payload) => {
    if (!on) throw new PushError(`$history to ${topic}`, { reason: live ? "off" : "not joined" });
    return call(channel, "$history", payload);
  };
  channel.before = (position, max) => ask({ before: position, max });
  channel.catchUp = () => ask({ top: true }).then(({ pos }) => pos);
  return channel;
}
