package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// client is a WebSocket client that can misbehave.
type client struct {
	nc net.Conn
	br *bufio.Reader
}

// Opcodes.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opPing         = 9
)

// dial connects and, if topic is not empty, joins. Extensions is what to offer.
func dial(addr, topic, extensions string) (*client, error) {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &client{nc, bufio.NewReader(nc)}
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(nc, "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n", addr, extensions)
	resp, err := http.ReadResponse(c.br, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("answered %s", resp.Status)
	}
	if err == nil && topic != "" {
		err = c.join(topic)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	nc.SetDeadline(time.Time{})
	return c, nil
}

func (c *client) join(topic string) error {
	if err := c.frame(true, opText, 0, fmt.Appendf(nil, `["1","1","%s","phx_join",{}]`, topic)); err != nil {
		return err
	}
	for {
		m, err := c.next()
		if err != nil || strings.Contains(string(m), `"status":"ok"`) {
			return err
		}
	}
}

// frame writes a frame, masked with zeros. Rsv are the reserved bits.
func (c *client) frame(fin bool, op, rsv byte, payload []byte) error {
	_, err := c.nc.Write(appendFrame(nil, fin, op, rsv, payload))
	return err
}

func appendFrame(b []byte, fin bool, op, rsv byte, payload []byte) []byte {
	first := op | rsv<<4
	if fin {
		first |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, first, 0x80|byte(n))
	case n < 1<<16:
		b = append(b, first, 0x80|126, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// discard reads and throws away until the connection ends.
func (c *client) discard() { go io.Copy(io.Discard, c.br) }

// next reads a frame's payload.
func (c *client) next() ([]byte, error) {
	var h [10]byte
	if _, err := io.ReadFull(c.br, h[:2]); err != nil {
		return nil, err
	}
	n := uint64(h[1] & 127)
	size := map[uint64]int{126: 2, 127: 8}[n]
	if _, err := io.ReadFull(c.br, h[2:2+size]); err != nil {
		return nil, err
	}
	switch size {
	case 2:
		n = uint64(binary.BigEndian.Uint16(h[2:]))
	case 8:
		n = binary.BigEndian.Uint64(h[2:])
	}
	b := make([]byte, n)
	_, err := io.ReadFull(c.br, b)
	if h[0]&15 == 8 {
		err = errors.Join(err, fmt.Errorf("the server closed: %q", b))
	}
	return b, err
}

// echoFor sends, waits for the answer and sends again, some hundred times a second, and returns how long each took.
func (c *client) echoFor(d time.Duration) (trips []time.Duration, err error) {
	c.nc.SetDeadline(time.Now().Add(d + 20*time.Second))
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		begun := time.Now()
		if err := c.frame(true, opText, 0, []byte(`["1","2","room:good","echo",{"hello":"there"}]`)); err != nil {
			return trips, err
		}
		m, err := c.next()
		if err != nil {
			return trips, err
		}
		if string(m) != `["1","2","room:good","phx_reply",{"status":"ok","response":{"hello":"there"}}]` {
			return trips, fmt.Errorf("got %s", m)
		}
		trips = append(trips, time.Since(begun))
	}
	return trips, nil
}
