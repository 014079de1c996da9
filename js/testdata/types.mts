// Uses each function of bennu.d.mts. TestTypes type-checks it.
import { call, connect, openDocument, openList, openMap, PushError, recover } from "../bennu.mjs";
import type { Channel, Socket } from "../bennu.mjs";

/** A client with more than the module uses. */
declare class MyChannel implements Channel {
  topic: string;
  mine: number;
  join(timeout?: number): MyPush;
  leave(timeout?: number): MyPush;
  push(event: string, payload?: object, timeout?: number): MyPush;
  on(event: string, callback: (payload: any) => void): number;
  off(event: string, ref?: number): void;
  onClose(callback: (payload: any) => void): void;
  onError(callback: (reason?: any) => void): number;
  onMessage(event: string, payload: any, ref: any): any;
}
declare class MyPush {
  receive(status: string, callback: (response?: any) => any): this;
}
declare class MySocket implements Socket<MyChannel> {
  constructor(url: string, options?: { params?: object });
  channel(topic: string, params?: object | (() => object)): MyChannel;
  connect(): void;
  disconnect(): void;
  isConnected(): boolean;
  endPointURL(): string;
  onOpen(callback: () => void): string;
  onClose(callback: (event: any) => void): string;
}

interface Cart { apples: number }

export async function use(): Promise<string> {
  const c = connect(MySocket, "/socket", {
    token: async () => "token", onAuth: ({ state, claims }) => console.log(state, claims), onDenied: (reason: string) => console.log(reason),
  });
  const room = recover(c.socket, "room:lobby", { user: "ann" }, { since: null, onReset: (reply, why) => console.log(reply, why) });
  room.mine = 1;
  room.join().receive("ok", () => c.will(room.topic, "gone"));
  const position: string | undefined = room.position;
  const { items, more } = await room.before(await room.catchUp(), 50);

  const cart = await openDocument<Cart>(c.socket, "cart:1", { onChange: (d) => console.log(d.value?.apples) });
  await cart.update((v) => ({ apples: (v?.apples ?? 0) + 1 }));
  // @ts-expect-error apples are a number
  await cart.set({ apples: "many" });
  const board = await openMap<Cart>(c.socket, "board:1", { prefix: "a/", first: 3 });
  const key: string = await board.add({ apples: 1 });
  await board.batch([{ key, value: { apples: 2 } }, { key: "x", delete: true }, { value: { apples: 3 } }]);
  for (const [k, { apples }] of board) console.log(k, apples);
  const list = await openList<string>(c.socket, "list:1");
  await list.move(await list.insert(null, "a"), list.keyAt(-1) ?? null);
  try {
    await call<{ n: number }>(room, "add").then(({ n }) => n.toFixed());
  } catch (e) {
    if (e instanceof PushError) return e.reason ?? "";
  }
  return `${position} ${items.length} ${more} ${c.now()} ${c.timeOffset?.error} ${await c.login("t")}`;
}
