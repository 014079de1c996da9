// Package serializer encodes messages as frames and decodes them: JSON 1.0.0, JSON 2.0.0 and
// MessagePack.
//
// A [Message] is what Phoenix channels exchange: join_ref, ref, topic, event and payload. A
// [Serializer] is one encoding of it on a connection. The client chooses one in the handshake by
// the query parameter vsn ([Select]). A payload is decoded only when [Payload.Decode] is called.
//
// Most programs need only Payload: callbacks receive one and can send it on, and [Binary] makes one
// of opaque bytes. A program that needs another encoding implements Serializer and passes it in
// [bennu.example/socket.Config.Serializers] and [bennu.example/socket.ClientConfig.Serializer].
//
// Everything here is safe for concurrent use except a Message, which belongs to its holder. Nothing
// has to be closed.
//
// The rules are those of Phoenix 1.8: Phoenix.Socket.V1.JSONSerializer and
// Phoenix.Socket.V2.JSONSerializer. A frame is accepted if Phoenix accepts it, with these
// additions:
//   - A message may have 10,000 levels of arrays and objects, including its own.
//   - The strings in a binary frame must be UTF-8. Phoenix closes a connection that sends others
//     when it replies.
//   - The JSON of a request has no line breaks, so that long polling can send requests as lines.
//   - In a program's strings, bytes that are not UTF-8 become U+FFFD. Raw JSON must be UTF-8.
package serializer
