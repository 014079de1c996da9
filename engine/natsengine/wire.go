package natsengine

import (
	"context"
	"net"
)

// wire is the connection under the client: plain bytes, as the handshake of TLS is done.
type wire struct {
	net.Conn
	conn  *conn
	check func(p []byte) error // of a frames or a webSocket
}

// Read first delivers what the client parsed of what it read before, and then reads on. So messages are delivered on the client's own
// reading goroutine, in the order in which they came, whatever their subjects; and no more of them wait in between than were read at
// once, since reading goes on only when they are delivered. The client has no other way to do that: a subscription has either a
// goroutine and queue of its own, or a Go channel from which messages are dropped when it is full.
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
				c.in.Data(m.Data)
			}
		default:
			return
		}
	}
}

// Write ends the connection when it fails, since the client goes on without what it had gathered.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		w.conn.fail(err)
	}
	return n, err
}

// dialer makes the wires of one connection, of which there are several if the first servers cannot be used.
type dialer struct {
	ctx    context.Context
	conn   *conn
	engine *engine
}

// Dial is part of nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	if custom := d.engine.opts.CustomDialer; custom != nil {
		raw, err := custom.Dial(network, address)
		return d.wire(raw, address, err)
	}
	plain := net.Dialer{Timeout: d.engine.timeout}
	raw, err := plain.DialContext(d.ctx, network, address)
	return d.wire(raw, address, err)
}

// SkipTLSHandshake tells the client that the dialer does it.
func (d dialer) SkipTLSHandshake() bool { return true }

// InProcessConn is part of nats.InProcessConnProvider.
func (d dialer) InProcessConn() (net.Conn, error) {
	raw, err := d.engine.opts.InProcessServer.InProcessConn()
	return d.wire(raw, d.engine.servers[0].Host, err)
}

func (d dialer) wire(raw net.Conn, address string, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	d.conn.mu.Lock()
	d.conn.raw = raw
	d.conn.mu.Unlock()
	if d.ctx.Err() != nil { // cut may have come too early
		_ = raw.Close()
	}
	secured, err := d.secure(raw, address)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	w := &wire{Conn: secured, conn: d.conn}
	if d.engine.webSocket() && d.engine.opts.InProcessServer == nil {
		w.check = (&webSocket{inner: frames{info: d.conn.onInfo}}).check
	} else {
		w.check = (&frames{info: d.conn.onInfo}).check
	}
	return w, nil
}
