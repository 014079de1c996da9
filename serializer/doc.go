// Package serializer turns messages into frames and back: JSON 1.0.0, JSON 2.0.0, MessagePack.
//
// A [Message] is what Phoenix channels exchange: join_ref, ref, topic, event and payload. A [Serializer] is one way to
// write it on a connection, chosen at the handshake by the query parameter vsn ([Select]). Payloads are not decoded
// until someone asks: see [Payload].
//
// The rules are those of Phoenix 1.8: Phoenix.Socket.V1.JSONSerializer and Phoenix.Socket.V2.JSONSerializer.
package serializer
