// Package socket serves Phoenix sockets over net/http and dials them.
//
// A socket is one client's connection, by WebSocket or long polling, which carries any number of channels. [NewHandler] makes the
// http.Handler that serves them:
//
//	h := socket.NewHandler(socket.Config{Channels: channel.Routes{"room:*": rooms}})
//	http.Handle("/socket/", h)
//
// It answers …/websocket and …/longpoll below the path where it is mounted, with the wire of Phoenix 1.8.
package socket
