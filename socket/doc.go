// Package socket serves Phoenix sockets over net/http and dials them.
//
// A socket is one client's connection, by WebSocket or long polling. It carries any number of
// channels. [NewHandler] makes the http.Handler that serves sockets:
//
//	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": rooms}})
//	http.Handle("/socket/", h)
//
// It answers …/websocket and …/longpoll below the path where it is mounted, with the wire protocol
// of Phoenix 1.8. Package channel defines what the channels do. [Config] bounds what a client may
// cost, and [Config.Connect] authenticates it.
//
// [Dial] and [NewClient] make the other end, for this server or any Phoenix server:
//
//	s, err := socket.Dial(ctx, "wss://example.com/socket", nil)
//	room := s.Channel("room:lobby", nil)
//	_, err = room.Join().Wait(ctx)
//
// A Client reconnects whenever its connection is lost, and joins its channels again.
//
// # Concurrency and shutdown
//
// All methods may be called from any goroutine. On the server, Connect runs on the goroutine of its
// request, and the callbacks of each channel run one at a time, in order. On the client, the
// callbacks of each channel run one at a time, in order, and so do those of the [Client].
//
// The creator of a [Handler] must call [Handler.Shutdown] before http.Server.Shutdown. The creator
// of a Client must call [Client.Close]. When these have returned nil, no goroutine is left.
package socket
