package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// slowBodies sends the bodies of POSTs one byte at a time.
var slowBodies = trickle(200, 20*time.Millisecond,
	"POST /socket/longpoll?vsn=2.0.0&token=none HTTP/1.1\r\nHost: x\r\n"+
		"Content-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n\r\n", "[")

// slowHandshakeBodies sends handshakes that announce a body, and the body one byte at a time.
var slowHandshakeBodies = trickle(200, 20*time.Millisecond,
	"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 1000000\r\n\r\n", "x")

// sessionToken opens a long-poll session. It returns errNoSession if the server refuses one.
func sessionToken(addr string) (string, error) {
	resp, err := http.Get(longPollURL(addr, ""))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var a struct{ Token string }
	if err := json.Unmarshal(text, &a); err != nil || a.Token == "" {
		return "", errNoSession
	}
	return a.Token, nil
}

var errNoSession = errors.New("no session")

func longPollURL(addr, token string) string {
	return "http://" + addr + "/socket/longpoll?vsn=2.0.0&token=" + token
}

// post sends messages to a long-poll session.
func post(addr, token string, body []byte) (*http.Response, error) {
	return http.Post(longPollURL(addr, token), "application/x-ndjson", bytes.NewReader(body))
}

// openSession opens a session and abandons it.
func openSession(addr string) error {
	if _, err := sessionToken(addr); !errors.Is(err, errNoSession) {
		return err
	}
	return nil
}

// newlines is a body of empty messages, somewhat smaller than the server's bound.
var newlines = bytes.Repeat([]byte{'\n'}, 7_900_000)

// postNewlines posts a body of empty messages.
func postNewlines(addr string) error {
	token, err := sessionToken(addr)
	if errors.Is(err, errNoSession) { // too many sessions: the server must refuse the body without reading it
		token = "none"
	} else if err != nil {
		return err
	}
	resp, err := post(addr, token, newlines)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// postOnly opens a session and posts pushes whose replies it never polls, until the session ends.
func postOnly(addr string) error {
	token, err := sessionToken(addr)
	if err != nil {
		return err
	}
	push := `["1","2","room:x","echo",{"pad":"` + strings.Repeat("x", 10_000) + `"}]`
	body := []byte(`["1","1","room:x","phx_join",{}]` + strings.Repeat("\n"+push, 400))
	for {
		resp, err := post(addr, token, body)
		if err != nil {
			return err
		}
		reply, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if !strings.Contains(string(reply), `"status":200`) {
			return nil
		}
	}
}

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
			for first := true; first || !isClosed(end); first = false {
				resp, err := post(addr, token, body)
				if opErr, ok := errors.AsType[*net.OpError](err); ok && opErr.Op == "dial" {
					continue
				}
				done.Add(1)
				if err != nil {
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body) // only the request counts
				_ = resp.Body.Close()
			}
		})
	}
	all.Wait()
	return int(done.Load())
}
