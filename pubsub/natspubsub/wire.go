package natspubsub

import (
	"context"
	"net"

	"github.com/nats-io/nats.go"
)

// wire is the connection under the client.
type wire struct {
	net.Conn
	conn *conn
}

// Read first delivers what the client parsed of what it read before, and then reads on. So messages are delivered on the client's own
// reading goroutine, in the order in which they came, whatever their subjects; and no more of them wait in between than were read at
// once, since reading goes on only when they are delivered. The client has no other way to do that: a subscription has either a
// goroutine and queue of its own, or a Go channel from which messages are dropped when it is full.
func (w *wire) Read(p []byte) (int, error) {
	w.conn.deliver()
	return w.Conn.Read(p)
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
	ctx  context.Context
	conn *conn
	opts *nats.Options // as the user gave them
}

// Dial is part of nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	if d.opts.CustomDialer != nil {
		return d.wire(d.opts.CustomDialer.Dial(network, address))
	}
	plain := net.Dialer{Timeout: d.opts.Timeout}
	return d.wire(plain.DialContext(d.ctx, network, address))
}

// SkipTLSHandshake tells that what was dialed is secure already.
func (d dialer) SkipTLSHandshake() bool {
	s, ok := d.opts.CustomDialer.(interface{ SkipTLSHandshake() bool })
	return ok && s.SkipTLSHandshake()
}

// InProcessConn is part of nats.InProcessConnProvider.
func (d dialer) InProcessConn() (net.Conn, error) {
	return d.wire(d.opts.InProcessServer.InProcessConn())
}

func (d dialer) wire(raw net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	d.conn.mu.Lock()
	d.conn.raw = raw
	d.conn.mu.Unlock()
	if d.ctx.Err() != nil { // cut may have come too early
		_ = raw.Close()
	}
	return &wire{Conn: raw, conn: d.conn}, nil
}
