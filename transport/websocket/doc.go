// Package websocket is the WebSocket transport: the server's end and the client's end.
//
// A [Server] upgrades requests and calls one transport.Session for each connection. [Dial] opens a
// client's connection.
package websocket
