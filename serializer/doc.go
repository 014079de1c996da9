// Package serializer turns messages into frames and back: JSON 1.0.0, JSON 2.0.0, MessagePack.
//
// A [Message] is what Phoenix channels exchange: join_ref, ref, topic, event and payload. A [Serializer] is one way to
// write it on a connection, chosen at the handshake by the query parameter vsn ([Select]). Payloads are not decoded
// until someone asks: see [Payload].
//
// Most programs need only a Payload: what a callback gets as it came, or passes on; [Binary] is one of opaque bytes. A version of the wire
// of one's own is a Serializer, for [bennu.example/socket.Config.Serializers] and [bennu.example/socket.ClientConfig.Serializer].
//
// All that is here may be used by any number of goroutines, but a Message, which is its holder's. Nothing has to be closed.
//
// The rules are those of Phoenix 1.8: Phoenix.Socket.V1.JSONSerializer and Phoenix.Socket.V2.JSONSerializer. A frame is taken
// if Phoenix takes it. Beyond that:
//   - A message may have 10,000 levels of arrays and objects, its own included.
//   - The names in a binary frame are UTF-8. Phoenix ends such a connection when it answers.
//   - The JSON of a request has no line breaks, so that long polling can send requests as lines.
//   - Text that a program gives and that is not UTF-8 is sent with U+FFFD in its place; raw JSON is refused if it is not.
package serializer
