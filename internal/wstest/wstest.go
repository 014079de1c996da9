// Package wstest implements a minimal WebSocket client without protocol checks, for benchmarks and
// attacks on a server.
package wstest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// The first byte of a frame consists of an opcode, Fin on the last frame of a message, and reserved
// bits.
const (
	Continuation = 0
	Text         = 1
	Binary       = 2
	Close        = 8
	Ping         = 9
	Rsv1         = 0x40
	Fin          = 0x80
)

// Conn is a connection. Writes are safe for concurrent use; reads are not. It does not respond to
// frames by itself, not even to pings. It does not allocate per frame once its buffers have grown.
type Conn struct {
	net.Conn // Write writes raw bytes, which may be malformed frames
	in       *bufio.Reader
	payload  []byte

	mu  sync.Mutex
	out []byte
}

// dialTimeout bounds the connection and its handshake.
const dialTimeout = 20 * time.Second

// Dial connects to a path with optional headers ("Name: value").
func Dial(addr, path string, header ...string) (*Conn, error) {
	nc, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return nil, err
	}
	return Open(nc, addr, path, header...)
}

// Open is Dial on a connection to addr. It closes nc if it fails.
func Open(nc net.Conn, addr, path string, header ...string) (*Conn, error) {
	c := &Conn{Conn: nc, in: bufio.NewReaderSize(nc, 4096)}
	if err := c.handshake(addr, path, header); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (c *Conn) handshake(addr, path string, header []string) error {
	if err := c.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	head := append([]string{"GET " + path + " HTTP/1.1", "Host: " + addr, "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="}, header...)
	if _, err := io.WriteString(c.Conn, strings.Join(head, "\r\n")+"\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("unexpected status %s", resp.Status)
	}
	return c.SetDeadline(time.Time{})
}

// AppendFrame appends a frame, masked with the zero key.
func AppendFrame(b []byte, first byte, payload []byte) []byte {
	const masked = 0x80
	switch n := len(payload); {
	case n < 126:
		b = append(b, first, masked|byte(n))
	case n < 1<<16:
		b = append(b, first, masked|126, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, masked|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// Frame writes a frame.
func (c *Conn) Frame(first byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = AppendFrame(c.out[:0], first, payload)
	_, err := c.Write(c.out)
	return err
}

// Send writes a text message.
func (c *Conn) Send(text []byte) error { return c.Frame(Fin|Text, text) }

// Read reads raw bytes, at any position in a frame.
func (c *Conn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Next reads a frame. The payload is valid until the next call.
func (c *Conn) Next() (first byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(c.in, head[:2]); err != nil {
		return 0, nil, err
	}
	first = head[0]
	n := uint64(head[1] & 0x7f)
	switch n {
	case 126:
		_, err = io.ReadFull(c.in, head[:2])
		n = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		_, err = io.ReadFull(c.in, head[:8])
		n = binary.BigEndian.Uint64(head[:])
	}
	if err != nil {
		return 0, nil, err
	}
	if uint64(cap(c.payload)) < n {
		c.payload = make([]byte, n)
	}
	c.payload = c.payload[:n]
	_, err = io.ReadFull(c.in, c.payload)
	return first, c.payload, err
}

// Text returns the next text message. It skips other frames, except that a close frame is an error.
func (c *Conn) Text() ([]byte, error) {
	for {
		first, payload, err := c.Next()
		switch {
		case err != nil:
			return nil, err
		case first == Fin|Text:
			return payload, nil
		case first == Fin|Close:
			return nil, fmt.Errorf("closed by the server: %q", payload)
		}
	}
}
