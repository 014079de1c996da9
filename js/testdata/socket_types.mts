// Uses the types of socket.d.mts. TestTypes checks it.
import { connect } from "../bennu.mjs";
import { type Entry, LongPoll, Presence, Serializer, Socket } from "../socket.mjs";

export function use(token: string): string[] {
  const socket = new Socket("/socket", {
    params: () => ({ user: "ann" }),
    authToken: () => token,
    transport: WebSocket,
    longPollFallbackMs: 2500,
    sessionStorage,
    reconnectAfterMs: (tries) => tries * 100,
    encode: Serializer.encode,
    logger: (kind, text, data) => console.log(kind, text, data),
  });
  const refs = [
    socket.onOpen(() => console.log(socket.connectionState() === "open")),
    socket.onClose(({ code, reason }) => console.log(code.toFixed(), reason)),
    socket.onError((error, transport, established) => console.log(error, transport === LongPoll, established + 1)),
    socket.onMessage(({ topic, payload }) => console.log(topic, payload)),
  ];
  socket.off(refs);
  socket.replaceTransport(LongPoll);
  socket.connect();
  const room = socket.channel("room:tea", { user: "ann" });
  const ref: number = room.on("new_msg", ({ body }) => console.log(body));
  room.off("new_msg", ref);
  room.join(5000).receive("ok", (response) => console.log(response)).receive("error", ({ reason }) => console.log(reason));
  room.push("photo", new ArrayBuffer(2)).receive("timeout", () => room.leave());
  // @ts-expect-error: a misspelled name
  room.pusch("new_msg");
  // @ts-expect-error: a payload that is no object
  room.push("new_msg", "hello");
  // @ts-expect-error: a misspelled option
  new Socket("/socket", { parms: {} });

  const presence = new Presence(room);
  presence.onJoin((key, current, joined) => console.log(key, current?.metas.length, joined.metas[0].phx_ref));
  presence.onLeave((key, current, left) => console.log(key, current.metas.length, left.metas.length));
  presence.onSync(() => console.log(presence.list().map((entry: Entry) => entry.metas)));

  // bennu.mjs works over it.
  const { socket: same } = connect(Socket, "/socket", { token: async () => token });
  same.ping((ms) => console.log(ms.toFixed()));
  return presence.list((user) => user);
}
