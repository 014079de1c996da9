// Uses the types of golden.d.mts. TestTypes type-checks it.
import { channel, PushError } from "./golden.mjs";
import type { Channel, Message, Socket } from "./golden.mjs";

export async function use(socket: Socket<Channel & { mine: number }>): Promise<void> {
  const room = channel(socket, `room:${1}`, { user: "ann", color: "red" });
  room.channel.mine++;
  const { items, next } = await room.join(({ items }) => items?.length);
  const off: () => void = room.on("new_msg", ({ name, body, id, votes, where, pair, edited }) => {
    const texts: string[] = [name, body, id];
    const numbers: number[] = [votes?.["a"] ?? 0, where.X, pair[0] ?? 0];
    const time: string | null = edited;
    console.log(texts, numbers, time);
  });
  off();
  room.on("blob", (data) => data.byteLength);
  room.on("user's \"own\"", () => {});
  room.on("cursors", (all) => all?.["ann"]?.Text.length);
  await room.push("ping");
  await room.push("ping", {}, 5000);
  const list: string[] | null = await room.push("list", { items: [] });
  const first: Message | undefined = items?.[0];
  const answers: Message[] | undefined = first?.answers;
  try {
    await room.push("upload", new ArrayBuffer(3));
  } catch (e) {
    if (e instanceof PushError) console.log(e.reason);
  }
  console.log(list, next, answers);
  room.leave();

  await channel(socket, "room").join();
  await channel(socket, "room:vip:1", {}).join();
  const other = channel(socket, "anything", { any: "params" });
  await other.push("any event", { any: "payload" });
  const n: number = await other.push("count");
  console.log(n);

  // @ts-expect-error the user is missing
  channel(socket, "room:1", {});
  // @ts-expect-error params are missing
  channel(socket, "room:1");
  // @ts-expect-error it is not a color
  channel(socket, "room:1", { user: "ann", color: "blue" });
  // @ts-expect-error there is no such event
  room.on("gone", () => {});
  // @ts-expect-error there is no such push
  await room.push("gone");
  // @ts-expect-error the payload is missing
  await room.push("list");
  // @ts-expect-error a page has items
  await room.push("list", { messages: [] });
  // @ts-expect-error the member has another name
  room.on("new_msg", ({ text }) => text);
}
