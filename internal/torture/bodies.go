package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// unsentBodies are handshakes that announce a body and send a byte of it now and then.
var unsentBodies = trickle(200, 20*time.Millisecond, "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"+
	"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 1000000\r\n\r\n", "x")

// largeBodies posts large bodies for one session, forty at a time, and returns the number of
// requests. The server may refuse a body and close the connection while the body is being written,
// so a request counts even if its answer was lost.
func largeBodies(addr string, end <-chan struct{}) int {
	token, err := sessionToken(addr)
	if err != nil {
		return 0
	}
	body := bytes.Repeat([]byte("["+strings.Repeat(" ", 730_000)+"]\n"), 10)
	var done atomic.Int64
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			for first := true; first || !over(end); first = false {
				resp, err := http.Post("http://"+addr+"/socket/longpoll?vsn=2.0.0&token="+token,
					"application/x-ndjson", bytes.NewReader(body))
				if opErr, ok := errors.AsType[*net.OpError](err); ok && opErr.Op == "dial" {
					continue
				}
				done.Add(1)
				if err != nil {
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body) // an attacker does not care
				_ = resp.Body.Close()
			}
		})
	}
	all.Wait()
	return int(done.Load())
}

// sessionToken begins a long-poll session.
func sessionToken(addr string) (string, error) {
	resp, err := http.Get("http://" + addr + "/socket/longpoll?vsn=2.0.0")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var a struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return "", fmt.Errorf("no session: %w", err)
	}
	return a.Token, nil
}
