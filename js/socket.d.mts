// Types of socket.mjs. All times are in milliseconds.

export interface Message {
  topic: string;
  event: string;
  payload: any;
  ref?: string | null;
  join_ref?: string | null;
}

/** The end of a connection. */
export interface Close {
  code: number;
  reason: string;
  wasClean: boolean;
}

/** What a WebSocket has. */
export interface Connection {
  readonly readyState: number;
  readonly bufferedAmount: number;
  binaryType?: any;
  onopen: any;
  onerror: any;
  onmessage: any;
  onclose: any;
  send(frame: any): void;
  close(code?: number, reason?: string): void;
}

/** The class of a connection. */
export type Transport = new (url: string, protocols?: string | string[]) => Connection;

export type Encode = (message: Message, callback: (frame: string | ArrayBuffer) => void) => void;
export type Decode = (frame: any, callback: (message: Message) => void) => void;

export interface SocketOptions {
  /** Parameters of the connection. A function is called for each attempt. */
  params?: object | (() => object);
  /** A token, which is not a part of the address. A function is called for each attempt. */
  authToken?: string | (() => string | null | undefined);
  /** The default is WebSocket. */
  transport?: Transport;
  /** The time without an answer after which long polling is used. Not set means never. */
  longPollFallbackMs?: number;
  /** Remembers that the transport does not work. The default is that of the window. */
  sessionStorage?: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  /** The time for a request of long polling. The default is 20,000. */
  longpollerTimeout?: number;
  /** The time for a reply. The default is 10,000. */
  timeout?: number;
  /** The time between heartbeats, and for their replies. The default is 30,000. */
  heartbeatIntervalMs?: number;
  /** Returns the delay before an attempt to connect. The first one is number 1. */
  reconnectAfterMs?: (tries: number) => number;
  /** Returns the delay before an attempt to join. The first one is number 1. */
  rejoinAfterMs?: (tries: number) => number;
  /** The version of the protocol. The default is "2.0.0". */
  vsn?: string;
  encode?: Encode;
  decode?: Decode;
  /** The default is "arraybuffer". */
  binaryType?: BinaryType;
  logger?: (kind: string, text: string, data?: any) => void;
  /** Logs to the console. */
  debug?: boolean;
}

export type ConnectionState = "connecting" | "open" | "closing" | "closed";

export class Socket {
  constructor(endPoint: string, options?: SocketOptions);
  readonly channels: Channel[];
  readonly conn: Connection | null;
  readonly timeout: number;
  readonly transport: Transport;
  readonly vsn: string;
  /** @param params deprecated, replaces the option */
  connect(params?: object | (() => object)): void;
  disconnect(callback?: () => void, code?: number, reason?: string): void;
  replaceTransport(transport: Transport): void;
  endPointURL(): string;
  protocol(): "ws" | "wss";
  isConnected(): boolean;
  connectionState(): ConnectionState;
  onOpen(callback: () => void): string;
  onClose(callback: (event: Close) => void): string;
  onError(callback: (error: any, transport: Transport, establishedConnections: number) => void): string;
  onMessage(callback: (message: Message) => void): string;
  /** Removes callbacks by the references that the functions above returned. */
  off(refs: string[]): void;
  channel(topic: string, params?: object | (() => object)): Channel;
  remove(channel: Channel): void;
  push(message: Message): void;
  makeRef(): string;
  /** Returns false without a connection. */
  ping(callback: (roundTrip: number) => void): boolean;
  log(kind: string, text: string, data?: any): void;
  hasLogger(): boolean;
}

export type ChannelState = "closed" | "joining" | "joined" | "errored" | "leaving";

export class Channel {
  private constructor();
  readonly topic: string;
  readonly state: ChannelState;
  readonly socket: Socket;
  readonly timeout: number;
  readonly joinPush: Push;
  join(timeout?: number): Push;
  leave(timeout?: number): Push;
  on(event: string, callback: (payload: any, ref?: any, joinRef?: any) => void): number;
  off(event: string, ref?: number): void;
  onClose(callback: (payload: any, ref?: any, joinRef?: any) => void): number;
  onError(callback: (reason?: any) => void): number;
  /** May be replaced. It returns the payload, changed or not. */
  onMessage(event: string, payload: any, ref: any, joinRef?: any): any;
  /** The payload is an object or an ArrayBuffer. */
  push(event: string, payload?: object, timeout?: number): Push;
  canPush(): boolean;
  isClosed(): boolean;
  isErrored(): boolean;
  isJoined(): boolean;
  isJoining(): boolean;
  isLeaving(): boolean;
  joinRef(): string | null;
}

export class Push {
  private constructor();
  readonly channel: Channel;
  readonly event: string;
  readonly ref: string | null;
  readonly sent: boolean;
  readonly timeout: number;
  /** The status is "ok", "error", another one that the server sends, or "timeout". */
  receive(status: string, callback: (response?: any) => any): this;
  resend(timeout: number): void;
  send(): void;
}

/** A connection of a user. */
export interface Meta {
  phx_ref: string;
  [field: string]: any;
}

export interface Entry {
  metas: Meta[];
  [field: string]: any;
}

/** The users of a channel by their keys. */
export type State = Record<string, Entry>;

export interface Diff {
  joins: State;
  leaves: State;
}

/** current is the entry before a join, or without the metas that left. */
export type OnJoin = (key: string, current: Entry | undefined, joined: Entry) => void;
export type OnLeave = (key: string, current: Entry, left: Entry) => void;

export class Presence {
  constructor(channel: Channel, options?: { events?: { state?: string; diff?: string } });
  readonly channel: Channel;
  readonly state: State;
  onJoin(callback: OnJoin): void;
  onLeave(callback: OnLeave): void;
  onSync(callback: () => void): void;
  list(): Entry[];
  list<T>(by: (key: string, entry: Entry) => T): T[];
  inPendingSyncState(): boolean;
  static syncState(current: State, next: State, onJoin?: OnJoin, onLeave?: OnLeave): State;
  static syncDiff(current: State, diff: Diff, onJoin?: OnJoin, onLeave?: OnLeave): State;
  static list(state: State): Entry[];
  static list<T>(state: State, by: (key: string, entry: Entry) => T): T[];
}

/** Long polling, with the interface of a WebSocket. */
export class LongPoll implements Connection {
  constructor(url: string, protocols?: string | string[]);
  readonly readyState: number;
  readonly bufferedAmount: number;
  readonly skipHeartbeat: boolean;
  timeout: number;
  onopen: () => void;
  onerror: (error: any) => void;
  onmessage: (event: { data: any }) => void;
  onclose: (event: Close) => void;
  send(frame: string | ArrayBuffer): void;
  close(code?: number, reason?: string): void;
}

export const Serializer: { encode: Encode; decode: Decode };
