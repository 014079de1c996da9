package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// conn is a WebSocket client that costs little: no masking worth the name, no allocation per frame.
type conn struct {
	nc net.Conn
	br *bufio.Reader
	in []byte

	mu  sync.Mutex // of what follows: a publisher and a reader both write
	out []byte
}

func dial(addr, path string) (*conn, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &conn{nc: nc, br: bufio.NewReaderSize(nc, 4096)}
	fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", path, addr)
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the server answered %s", resp.Status)
	}
	return c, nil
}

// send writes a text frame, masked with zeros.
func (c *conn) send(text []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out[:0], 0x81)
	switch n := len(text); {
	case n < 126:
		c.out = append(c.out, 0x80|byte(n))
	case n < 1<<16:
		c.out = append(c.out, 0x80|126, byte(n>>8), byte(n))
	default:
		c.out = binary.BigEndian.AppendUint64(append(c.out, 0x80|127), uint64(n))
	}
	c.out = append(append(c.out, 0, 0, 0, 0), text...)
	_, err := c.nc.Write(c.out)
	return err
}

// next reads a text frame, which holds until the next call, and answers pings.
func (c *conn) next() ([]byte, error) {
	for {
		var h [10]byte
		if _, err := io.ReadFull(c.br, h[:2]); err != nil {
			return nil, err
		}
		n := uint64(h[1] & 127)
		switch n {
		case 126:
			if _, err := io.ReadFull(c.br, h[2:4]); err != nil {
				return nil, err
			}
			n = uint64(binary.BigEndian.Uint16(h[2:]))
		case 127:
			if _, err := io.ReadFull(c.br, h[2:10]); err != nil {
				return nil, err
			}
			n = binary.BigEndian.Uint64(h[2:])
		}
		if uint64(cap(c.in)) < n {
			c.in = make([]byte, n)
		}
		c.in = c.in[:n]
		if _, err := io.ReadFull(c.br, c.in); err != nil {
			return nil, err
		}
		if h[0]&15 == 1 {
			return c.in, nil
		}
	}
}
