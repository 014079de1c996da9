// The frames of version 2.0.0 of the protocol: JSON arrays, and binary frames for payloads that are
// an ArrayBuffer.

const PUSH = 0;
const REPLY = 1;
const BROADCAST = 2;
const MAX_FIELD = 255; // bytes of a field in a binary frame

/** Encodes and decodes messages. Both methods pass their result to a callback. */
export const Serializer = {
  encode(message, callback) {
    if (message.payload instanceof ArrayBuffer) return callback(encodeBinary(message));
    const { join_ref, ref, topic, event, payload } = message;
    return callback(JSON.stringify([join_ref, ref, topic, event, payload]));
  },

  decode(frame, callback) {
    if (frame instanceof ArrayBuffer) return callback(decodeBinary(frame));
    const [join_ref, ref, topic, event, payload] = JSON.parse(frame);
    return callback({ join_ref, ref, topic, event, payload });
  },
};

/** The frame is the kind, the length of each field, the fields, and the payload. */
function encodeBinary({ join_ref, ref, topic, event, payload }) {
  const encoder = new TextEncoder();
  const fields = [join_ref ?? "", ref ?? "", topic, event].map((field) => encoder.encode(field));
  const long = fields.find((field) => field.length > MAX_FIELD);
  if (long) throw new Error(`a field of a binary frame has ${long.length} bytes, more than ${MAX_FIELD}`);
  const header = [PUSH, ...fields.map((field) => field.length)];
  const parts = [header, ...fields, new Uint8Array(payload)];
  const frame = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    frame.set(part, at);
    at += part.length;
  }
  return frame.buffer;
}

function decodeBinary(buffer) {
  const bytes = new Uint8Array(buffer);
  const fields = { [PUSH]: 3, [REPLY]: 4, [BROADCAST]: 2 }[bytes[0]];
  if (!fields) throw new Error(`unknown kind of binary frame: ${bytes[0]}`);
  const decoder = new TextDecoder();
  let at = 1 + fields;
  const texts = [...bytes.subarray(1, at)].map((length) => decoder.decode(bytes.subarray(at, (at += length))));
  const payload = buffer.slice(at);
  switch (bytes[0]) {
    case PUSH: {
      const [join_ref, topic, event] = texts;
      return { join_ref, ref: null, topic, event, payload };
    }
    case REPLY: {
      const [join_ref, ref, topic, status] = texts;
      return { join_ref, ref, topic, event: "phx_reply", payload: { status, response: payload } };
    }
    default: {
      const [topic, event] = texts;
      return { join_ref: null, ref: null, topic, event, payload };
    }
  }
}
