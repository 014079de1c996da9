// Pushes as promises. Part of bennu.mjs.

/**
 * The error of a push or of a join. The reason is the server's, such as "forbidden", or "timeout"
 * if there was no reply in time. The response is the whole error reply.
 */
export class PushError extends Error {
  constructor(what, response) {
    super(`${what}: ${response?.reason ?? "refused"}`);
    this.name = "PushError";
    this.reason = response?.reason;
    this.response = response;
  }
}

/**
 * Pushes an event. The promise resolves to the response of an ok reply. Otherwise it rejects with a
 * PushError.
 */
export function call(channel, event, payload = {}, timeout = undefined) {
  const failed = (response) => new PushError(`${event} to ${channel.topic}`, response);
  return new Promise((resolve, reject) => {
    channel
      .push(event, payload, timeout)
      .receive("ok", resolve)
      .receive("error", (response) => reject(failed(response)))
      .receive("timeout", () => reject(failed({ reason: "timeout" })));
  });
}

/** 128 random bits as text. Unlike crypto.randomUUID it works on pages without HTTPS, too. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/** The value of params, which may be a function. */
export const valueOf = (params) => (typeof params === "function" ? params() : params);
