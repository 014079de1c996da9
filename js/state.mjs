// Shared documents, maps and lists. Part of bennu.mjs.

import { Copy, predicted } from "./copy.mjs";
import { call, PushError } from "./push.mjs";

/**
 * Opens a document: one value. The promise resolves when the copy is complete, and rejects with a
 * PushError if the server refuses it. A topic can be open once per socket.
 */
export function openDocument(socket, topic, options) {
  return new Copy(socket, topic, "document", options, SharedDocument).opened;
}

/** Opens a map, or a part of one: values by keys. */
export function openMap(socket, topic, options) {
  return new Copy(socket, topic, "map", options, SharedMap).opened;
}

/** Opens a list: values in an order that the clients determine. */
export function openList(socket, topic, options) {
  return new Copy(socket, topic, "list", options, SharedList).opened;
}

/** The common part of all kinds of objects. */
class SharedObject {
  #copy;

  constructor(copy) {
    this.#copy = copy;
  }

  /** The channel, for the application's own events and for presence. */
  get channel() {
    return this.#copy.channel;
  }

  /** The copy is complete and follows the object. It is false while there is no connection. */
  get synced() {
    return this.#copy.synced;
  }

  /** How many writes are on their way. Their effect is shown already. */
  get pending() {
    return this.#copy.pending.length;
  }

  /** Why the copy does not follow the object any more: a PushError, or null while it does. */
  get ended() {
    return this.#copy.ended;
  }

  /** Removes the object on the server. All copies of it end. */
  remove() {
    return call(this.channel, "remove");
  }

  /** Leaves the topic. The copy stays as it is. Writes that are on their way reject, "closed". */
  close() {
    this.#copy.end(new PushError(this.channel.topic, { reason: "closed" }));
  }
}

class SharedDocument extends SharedObject {
  #copy;

  constructor(copy) {
    super(copy);
    this.#copy = copy;
  }

  /** The value, with the effect of pending writes. It is undefined if the document has none. */
  get value() {
    return this.#copy.view("");
  }

  /** The revision that the server has sent last, 0 if the document has no value. */
  get rev() {
    return this.#copy.items.get("")?.rev ?? 0;
  }

  /** Replaces the value, whatever it is. With if, only if the document has this revision. */
  set(value, options) {
    return this.#copy.put("", value, options);
  }

  /** Replaces the value by f(value). If another client was faster, f is called again. */
  update(f) {
    return this.#copy.update("", f);
  }

  /** Sets members of the value; null deletes one (RFC 7396). */
  merge(patch) {
    return this.#copy.merge("", patch);
  }

  delete(options) {
    return this.#copy.delete("", options);
  }
}

/** The common part of maps and lists. */
class SharedItems extends SharedObject {
  #copy;

  constructor(copy) {
    super(copy);
    this.#copy = copy;
  }

  get size() {
    return this.keys().length;
  }

  /** The keys in order, with the effect of pending writes. */
  keys() {
    return this.#copy.keys();
  }

  values() {
    return this.keys().map((key) => this.get(key));
  }

  entries() {
    return this.keys().map((key) => [key, this.get(key)]);
  }

  [Symbol.iterator]() {
    return this.entries()[Symbol.iterator]();
  }

  /** The value of a key, with the effect of pending writes, or undefined. */
  get(key) {
    return this.#copy.view(key);
  }

  has(key) {
    return this.get(key) !== undefined;
  }

  /** The revision of an item that the server has sent last, 0 if there is none. */
  rev(key) {
    return this.#copy.items.get(key)?.rev ?? 0;
  }

  /** Puts a value. With if, only if the item has this revision, 0 for none. ttl is in seconds. */
  set(key, value, options) {
    return this.#copy.put(key, value, options);
  }

  /** Replaces the value of a key by f(value). If another client was faster, f is called again. */
  update(key, f) {
    return this.#copy.update(key, f);
  }

  /** Deletes an item. Deleting an absent one is not an error. */
  delete(key, options) {
    return this.#copy.delete(key, options);
  }
}

class SharedMap extends SharedItems {
  #copy;

  constructor(copy) {
    super(copy);
    this.#copy = copy;
  }

  /** Sets members of an item's value; null deletes one (RFC 7396). */
  merge(key, patch) {
    return this.#copy.merge(key, patch);
  }

  /** Puts a value under a new key, to which the promise resolves. Later keys sort later. */
  add(value, options) {
    return this.#copy.write("add", [], { value, ...options });
  }

  /**
   * Applies several writes, all or none. An op is {key, value, if?, ttl?}, {key, delete: true,
   * if?}, or {value, ttl?} for a key that the server makes. The promise resolves to the keys.
   */
  batch(ops) {
    const put = ({ key }) => (key === undefined ? "add" : "put");
    const body = ops.map(({ delete: gone, ...op }) => ({ op: gone ? "del" : put(op), ...op }));
    const effects = new Map();
    for (const op of ops) {
      if (op.key !== undefined) effects.set(op.key, op.delete ? () => undefined : predicted(op.value));
    }
    const apply = (value, key) => effects.get(key)(value);
    return this.#copy.write("batch", [...effects.keys()], { ops: body }, { apply });
  }
}

class SharedList extends SharedItems {
  #copy;

  constructor(copy) {
    super(copy);
    this.#copy = copy;
  }

  /** The value at a place, or undefined. Negative places count from the end. */
  at(index) {
    const key = this.keyAt(index);
    return key === undefined ? undefined : this.get(key);
  }

  /** The key of the item at a place. An item keeps its key until it is moved. */
  keyAt(index) {
    return this.keys().at(index);
  }

  /** Inserts a value at the end. The promise resolves to the item's key, which the server makes. */
  append(value, options) {
    return this.#copy.write("insert", [], { value, ...options });
  }

  /** Inserts a value behind the item with a key, or at the beginning if it is null. */
  insert(after, value, options) {
    return this.#copy.write("insert", [], { value, after, ...options });
  }

  /** Moves an item behind another one, or to the beginning. The promise resolves to its new key. */
  move(key, after) {
    return this.#copy.write("move", [], { key, after });
  }
}
