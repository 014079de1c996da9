// Package mirror keeps copies of shared objects in a client. It is the other end of package state.
//
// A mirror is opened on a topic of a connected client:
//
//	client, err := socket.Dial(ctx, "wss://example.com/socket", nil)
//	cart, err := mirror.OpenDocument[Cart](ctx, client, "cart:42", nil)
//
// From then on it has the whole object, or a range of it, and follows every change. After the loss
// of a connection it continues at its position, and receives only what has changed. Reading a
// mirror needs no network. Writing waits for the server, and a write that was acknowledged is in
// the copy.
//
// # Writes
//
// If the connection is lost before the reply, nobody knows whether the server has applied the
// write. The mirror repeats it with the same id, and the server applies it once. It gives up, with
// history.ErrUncertain, if the object was made anew meanwhile, or has changed so much that the
// server may have forgotten the id. A client without an identity ([socket.ClientConfig]
// NoSocketChannel without ClientID) has no such ids over connections.
//
// Update reads, changes and writes a value without losing the writes of others: if the value was
// changed meanwhile, it begins again.
//
// # Changes
//
// Changes returns the copy and then every change of it. Values between the one that the copy had
// and the newest may be missing after an interruption. A mirror that cannot continue, because it
// was away for too long or the server has lost the object, begins with an empty copy, which is the
// change Reset.
//
// A value is decoded from JSON when it is read, into the mirror's type. Each caller gets a value of
// its own.
//
// [socket.ClientConfig]: https://pkg.go.dev/bennu.example/socket#ClientConfig
package mirror
