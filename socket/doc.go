// Package socket serves Phoenix sockets over net/http and dials them.
//
// A socket is one client's connection, by WebSocket or long polling, which carries any number of channels. [NewHandler] makes the
// http.Handler that serves them:
//
//	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": rooms}})
//	http.Handle("/socket/", h)
//
// It answers …/websocket and …/longpoll below the path where it is mounted, with the wire of Phoenix 1.8. What the channels do is in
// package channel. [Config] says who may connect, and what a client may cost; [Config.Connect] who a client is.
//
// [Dial] and [NewClient] make the other end, for this server or any Phoenix:
//
//	s, err := socket.Dial(ctx, "wss://example.com/socket", nil)
//	room := s.Channel("room:lobby", nil)
//	_, err = room.Join().Wait(ctx)
//
// A Client connects again whenever its connection is lost, and joins its channels again.
//
// # Concurrency, and the end
//
// All methods may be called from any goroutine. At the server, Connect runs on the goroutine of its request, and each channel's
// callbacks one at a time, in order. At the client, each channel's callbacks run one at a time, in order, and those of the [Client] likewise.
//
// Who made a [Handler] ends it by [Handler.Shutdown], before the http.Server's own; who made a Client, by [Client.Close]. When these have
// returned nil no goroutine is left.
package socket
