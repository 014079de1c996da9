package natsengine

import (
	"context"
	"net"
)

// wire is the connection that the client uses. It carries plain bytes: TLS is below it.
type wire struct {
	net.Conn
	conn  *conn
	check func(p []byte) error // by frames or webSocket
}

// Read first delivers the messages that the client has parsed since the last Read, and then reads.
// So all messages are delivered on the client's reading goroutine, in the order of their arrival,
// whatever their subjects. At most the messages of one Read wait in between, since the next Read
// delivers them first.
//
// The client has no other way to achieve that: a subscription has either a goroutine and a queue,
// or a Go channel, and messages are dropped when the channel is full.
//
// Bytes that break the protocol never reach the client.
func (w *wire) Read(p []byte) (int, error) {
	w.conn.deliver()
	n, err := w.Conn.Read(p)
	if bad := w.check(p[:n]); bad != nil {
		w.conn.fail(bad)
		return 0, bad
	}
	return n, err
}

func (c *conn) deliver() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		select {
		case m := <-c.parsed:
			if !c.closed {
				c.receiver.message(m)
			}
		default:
			return
		}
	}
}

// Write ends the connection if it fails, since the client continues without the bytes in its
// buffer.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.conn.fail(err)
	}
	return n, err
}

// dialer makes the wires of one connection. There are several if the first servers cannot be used.
type dialer struct {
	ctx     context.Context
	conn    *conn
	backend *backend
}

// Dial implements nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	if custom := d.backend.opts.CustomDialer; custom != nil {
		raw, err := custom.Dial(network, address)
		return d.wire(raw, address, err)
	}
	plain := net.Dialer{Timeout: d.backend.timeout}
	raw, err := plain.DialContext(d.ctx, network, address)
	return d.wire(raw, address, err)
}

// SkipTLSHandshake tells the client that the dialer performs the handshake.
func (d dialer) SkipTLSHandshake() bool { return true }

// InProcessConn implements nats.InProcessConnProvider.
func (d dialer) InProcessConn() (net.Conn, error) {
	raw, err := d.backend.opts.InProcessServer.InProcessConn()
	return d.wire(raw, d.backend.servers[0].Host, err)
}

func (d dialer) wire(raw net.Conn, address string, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	d.conn.mu.Lock()
	d.conn.raw = raw
	d.conn.mu.Unlock()
	if d.ctx.Err() != nil { // cut may have been called before raw was set
		_ = raw.Close()
	}
	secured, err := d.secure(raw, address)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	w := &wire{Conn: secured, conn: d.conn}
	if d.backend.webSocket() && d.backend.opts.InProcessServer == nil {
		w.check = (&webSocket{inner: frames{info: d.conn.onInfo}}).check
	} else {
		w.check = (&frames{info: d.conn.onInfo}).check
	}
	return w, nil
}
