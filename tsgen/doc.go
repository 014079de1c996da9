// Package tsgen writes the types of a server's channels as TypeScript, so that a page that does not
// fit the Go code does not compile.
//
// The types are those of the functions that a [channel.Handler] was made of: the params and the
// reply of its join, and the payload and the reply of each [channel.On]. [channel.Sends] declares
// the events that clients receive. Generate follows encoding/json: names, optional members and
// embedded structs are as in the JSON. Values that a program sends as any, as a push.Reply or as a
// serializer.Payload have the type any in TypeScript, too.
//
// A program calls [Main] with its routes. Only the program itself knows its types, so this is a
// small program in the same module:
//
//	package main
//
//	func main() { tsgen.Main(room.Routes()) }
//
// It writes two files, and with -check it fails if they are not what it would write:
//
//	go run ./internal/gen -o page/channels
//
// The module page/channels.mjs has a function that makes a channel of any client with the API of
// phoenix.js, and page/channels.d.mts has its types:
//
//	import { Socket } from "phoenix";
//	import { channel } from "./channels.mjs";
//
//	const room = channel(socket, "room:lobby", { user: "ann" });
//	room.on("new_msg", ({ user, body }) => show(user, body));
//	const { messages } = await room.join();
//	await room.push("new_msg", { body: "hello" });
//
// # Types
//
//	bool                        boolean
//	string, time.Time           string
//	numbers, time.Duration      number
//	[]byte                      string, which is base64; as a whole payload ArrayBuffer
//	[]T                         T[] | null
//	map[K]T                     Record<string, T> | null
//	*T                          T | null
//	struct                      an interface with the name of the type
//	encoding.TextMarshaler      string
//	json.Marshaler, any         any
//
// Null is left out for members with omitempty or omitzero, which are optional. The method
// TypeScript() string of a type replaces this table: it returns the type in TypeScript, such as
// `"red" | "green"`.
package tsgen
