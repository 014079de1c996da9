package natsengine

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"
)

// info contains the fields of a server's INFO that matter here.
type info struct {
	TLSRequired  bool     `json:"tls_required"`
	TLSAvailable bool     `json:"tls_available"`
	ConnectURLs  []string `json:"connect_urls"`
}

// secure returns the connection that the client uses. It performs the TLS handshake as the client
// would, so that the client reads plain bytes that were checked by wire. TLS begins immediately, or
// after the server's INFO, which is then read here and delivered to the client later.
func (d dialer) secure(raw net.Conn, address string) (net.Conn, error) {
	b := d.backend
	if s, ok := b.opts.CustomDialer.(interface{ SkipTLSHandshake() bool }); ok && s.SkipTLSHandshake() {
		return raw, nil
	}
	_ = raw.SetDeadline(time.Now().Add(b.timeout))
	defer func() { _ = raw.SetDeadline(time.Time{}) }()
	secure := b.secure()
	switch {
	case b.webSocket() && !secure:
		return raw, nil
	case b.webSocket(), secure && b.opts.TLSHandshakeFirst:
		return d.handshake(raw, address)
	}
	line, err := readLine(raw)
	if err != nil {
		return nil, err
	}
	ahead := &prefixed{Conn: raw, prefix: line}
	var server info
	text, isInfo := bytes.CutPrefix(line, []byte("INFO "))
	end := bytes.IndexByte(text, '\n')
	if !isInfo || end < 0 || json.Unmarshal(text[:end], &server) != nil {
		return ahead, nil // the client returns the error
	}
	if !server.TLSRequired && (!secure || !server.TLSAvailable) {
		return ahead, nil // without TLS, or the client returns the error
	}
	if end != len(text)-1 {
		return nil, fmt.Errorf("%w: bytes between INFO and the TLS handshake", errProtocol)
	}
	secured, err := d.handshake(raw, address)
	if err != nil {
		return nil, err
	}
	return &prefixed{Conn: secured, prefix: line}, nil
}

// handshake performs the TLS handshake by the client's options.
func (d dialer) handshake(raw net.Conn, address string) (net.Conn, error) {
	o := &d.backend.opts
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLSConfig != nil {
		cfg = o.TLSConfig.Clone()
	}
	if o.TLSCertCB != nil {
		cert, err := o.TLSCertCB()
		if err != nil {
			return nil, err
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	if o.RootCAsCB != nil {
		roots, err := o.RootCAsCB()
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = roots
	}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(address)
	}
	secured := tls.Client(raw, cfg)
	if err := secured.HandshakeContext(d.ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", nats.ErrTLS, err)
	}
	return secured, nil
}

// readLine reads until it has received a newline. It may return more than one line.
func readLine(c net.Conn) ([]byte, error) {
	line, buf := []byte(nil), make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		line = append(line, buf[:n]...)
		switch {
		case bytes.IndexByte(line, '\n') >= 0:
			return line, nil
		case err != nil:
			return nil, err
		case len(line) > maxLine:
			return nil, fmt.Errorf("%w: a line is too long", errProtocol)
		}
	}
}

// prefixed is a connection from which some bytes were already read.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.prefix)
	p.prefix = p.prefix[n:]
	return n, nil
}
