// Types of bennu.mjs.

/** What the module uses of a push of phoenix.js. */
export interface Push {
  receive(status: string, callback: (response?: any) => any): Push;
}

/** What the module uses of a channel of phoenix.js. */
export interface Channel {
  topic: string;
  join(timeout?: number): Push;
  leave(timeout?: number): Push;
  push(event: string, payload?: object, timeout?: number): Push;
  on(event: string, callback: (payload: any, ref?: any, joinRef?: any) => void): number;
  off(event: string, ref?: number): void;
  onClose(callback: (payload: any, ref?: any, joinRef?: any) => void): any;
  onError(callback: (reason?: any) => void): any;
  onMessage(event: string, payload: any, ref: any, joinRef?: any): any;
}

/** What the module uses of a socket of phoenix.js. */
export interface Socket<C extends Channel = Channel> {
  channel(topic: string, params?: object | (() => object)): C;
  connect(): void;
  disconnect(callback?: () => void, code?: number, reason?: string): void;
  isConnected(): boolean;
  endPointURL(): string;
  onOpen(callback: () => void): any;
  onClose(callback: (event: any) => void): any;
}

/** The error of a push or of a join. */
export class PushError extends Error {
  constructor(what: string, response?: { reason?: string });
  /** The server's reason, such as "forbidden", or "timeout" if there was no reply in time. */
  readonly reason: string | undefined;
  /** The whole error reply. */
  readonly response: any;
}

/** Pushes an event, and resolves to the response of an ok reply. */
export function call<R = any>(channel: Channel, event: string, payload?: object, timeout?: number): Promise<R>;

/**
 * Answers the server's calls of an event. It must be called before the channel joins, at least once.
 * The result stops answering.
 */
export function handle<Q = any, A = any>(
  channel: Channel, event: string, f: (question: Q) => A | Promise<A>,
): () => void;

export interface RecoverOptions<Reply = any> {
  /** The position after which the first join continues: what `position` was before a reload. */
  since?: string | null;
  /** How many of the newest events to receive if the join cannot continue. */
  last?: number;
  /** False: leave out what this client has broadcast itself. */
  own?: boolean;
  /** Called if the join did not continue, also the first one: show what the reply has. */
  onReset?(reply: Reply, why: string): void;
}

/** What recover adds to a channel. */
export interface Recovery {
  /** The position of the last event that the page has received. */
  readonly position: string | undefined;
  /** The events before a position, oldest first. The handler needs channel.Pages. */
  before(position: string, max?: number): Promise<{ items: { event: string; payload: any }[]; more: boolean }>;
  /** Resolves when everything was received that the server has now. */
  catchUp(): Promise<string>;
}

export function recover<C extends Channel, Reply = any>(
  socket: Socket<C>, topic: string, params?: object | (() => object), options?: RecoverOptions<Reply>,
): C & Recovery;

export interface ObjectOptions<O> {
  /** Whether the object must exist. */
  mode?: "open" | "existing" | "new";
  /** The lifetime in seconds of an object that opening it creates. */
  ttl?: number;
  /**
   * Called after each change of the copy, of `synced`, `pending` or `ended`. The keys are those of
   * the items that may have changed. A document has the key "".
   */
  onChange?(object: O, keys: Set<string>): void;
  /** Called once when the copy does not follow the object any more. */
  onEnd?(error: PushError, object: O): void;
}

export interface ItemsOptions<O> extends ObjectOptions<O> {
  /** The part of the object that is copied: keys with this prefix, from one on, or before one. */
  prefix?: string;
  from?: string;
  to?: string;
  /** At most this many items of that part. */
  first?: number;
  last?: number;
  /** A query that the server has, and its arguments. */
  query?: string;
  args?: any;
}

export interface WriteOptions {
  /** The revision that the item must have, 0 for none. Otherwise the write rejects, "conflict". */
  if?: number;
  /** Seconds after which the item is deleted; null removes an earlier one. */
  ttl?: number | null;
}

interface SharedObject<C extends Channel> {
  readonly channel: C;
  /** The copy is complete and follows the object. It is false while there is no connection. */
  readonly synced: boolean;
  /** How many writes are on their way. Their effect is shown already. */
  readonly pending: number;
  /** Why the copy does not follow the object any more, or null. */
  readonly ended: PushError | null;
  /** Removes the object on the server. */
  remove(): Promise<unknown>;
  /** Leaves the topic. The copy stays as it is. */
  close(): void;
}

export interface SharedDocument<T, C extends Channel = Channel> extends SharedObject<C> {
  readonly value: T | undefined;
  readonly rev: number;
  set(value: T, options?: WriteOptions): Promise<void>;
  update(f: (value: T | undefined) => T): Promise<void>;
  merge(patch: object): Promise<void>;
  delete(options?: { if?: number }): Promise<void>;
}

interface SharedItems<T, C extends Channel> extends SharedObject<C>, Iterable<[string, T]> {
  readonly size: number;
  keys(): string[];
  values(): T[];
  entries(): [string, T][];
  get(key: string): T | undefined;
  has(key: string): boolean;
  rev(key: string): number;
  set(key: string, value: T, options?: WriteOptions): Promise<void>;
  update(key: string, f: (value: T | undefined) => T): Promise<void>;
  delete(key: string, options?: { if?: number }): Promise<void>;
}

export type Op<T> =
  | { key: string; value: T; if?: number; ttl?: number | null }
  | { key: string; delete: true; if?: number }
  | { value: T; ttl?: number | null };

export interface SharedMap<T, C extends Channel = Channel> extends SharedItems<T, C> {
  merge(key: string, patch: object): Promise<void>;
  add(value: T, options?: { ttl?: number }): Promise<string>;
  batch(ops: Op<T>[]): Promise<string[]>;
}

export interface SharedList<T, C extends Channel = Channel> extends SharedItems<T, C> {
  at(index: number): T | undefined;
  keyAt(index: number): string | undefined;
  append(value: T, options?: { ttl?: number }): Promise<string>;
  insert(after: string | null, value: T, options?: { ttl?: number }): Promise<string>;
  move(key: string, after: string | null): Promise<string>;
}

export function openDocument<T = any, C extends Channel = Channel>(
  socket: Socket<C>, topic: string, options?: ObjectOptions<SharedDocument<T, C>> & { value?: T },
): Promise<SharedDocument<T, C>>;

export function openMap<T = any, C extends Channel = Channel>(
  socket: Socket<C>, topic: string, options?: ItemsOptions<SharedMap<T, C>>,
): Promise<SharedMap<T, C>>;

export function openList<T = any, C extends Channel = Channel>(
  socket: Socket<C>, topic: string, options?: ItemsOptions<SharedList<T, C>>,
): Promise<SharedList<T, C>>;

export interface AuthState<Claims = any> {
  state: "unknown" | "anonymous" | "authenticated" | "expiring" | "expired" | "denied";
  /** When the token expires, in milliseconds since 1970 by the local clock. */
  expiresAt?: number;
  claims?: Claims;
  /** Why the last token was refused. */
  reason?: string;
}

export interface ConnectOptions<Claims = any> {
  /** Names the page over its connections. By default it is random. */
  id?: string;
  /**
   * A function that gets a token: it is called for the first connection, before and after a token
   * expires, and when a connection was refused. Or a token; null means anonymous until login.
   */
  token?: (() => string | Promise<string>) | string | null;
  /** Called after each change of `auth`. */
  onAuth?(auth: AuthState<Claims>): void;
  /** Called when the server does not want to see this client again. The socket has disconnected. */
  onDenied?(reason: string): void;
  /** All others are for the class of the socket. */
  params?: object | (() => object);
  reconnectAfterMs?(tries: number): number;
  [option: string]: any;
}

export interface Connection<S, Claims = any> {
  readonly socket: S;
  readonly info: { id: string; client: string; version: string; limits: Record<string, number> } | null;
  readonly auth: AuthState<Claims>;
  readonly timeOffset: { offset: number; error: number } | null;
  /** The server's time in milliseconds since 1970. It never goes back. */
  now(): number;
  login(token: string): Promise<Claims>;
  logout(): Promise<void>;
  will(
    topic: string, event: string, payload?: object, options?: { after?: number; lostOnly?: boolean },
  ): Promise<string>;
  unwill(id?: string): Promise<number>;
  close(): void;
}

export function connect<S extends Socket<any>, Claims = any>(
  Socket: new (url: string, options?: any) => S, url: string, options?: ConnectOptions<Claims>,
): Connection<S, Claims>;
