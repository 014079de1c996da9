//go:build unix

package redisengine_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker"
	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
)

const helloAnswer = "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n" +
	"$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:1\r\n" +
	"$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"

// attack contains bytes that a server sends instead of the answer to a command, or after the answer
// to HELLO.
type attack struct {
	instead string // the command; empty for bytes after the answer to HELLO
	bytes   string
}

// serve acts as a server. An attack after HELLO begins with the third HELLO. If hangUp is true, it
// closes the connection after the attack.
func serve(c net.Conn, bad *attack, hangUp bool) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for hellos := 0; ; {
		args, err := readCommand(r)
		if err != nil {
			return
		}
		answer := ":0\r\n"
		switch args[0] {
		case "HELLO":
			hellos++
			answer = helloAnswer
		case "PING":
			answer = "+PONG\r\n"
		case "SUBSCRIBE", "UNSUBSCRIBE":
			answer = ""
			for _, channel := range args[1:] {
				kind := strings.ToLower(args[0])
				answer += fmt.Sprintf(">3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n:1\r\n", len(kind), kind, len(channel), channel)
			}
		}
		now := bad != nil && (bad.instead == args[0] || hellos >= 3 && args[0] == "HELLO" && bad.instead == "")
		if now && bad.instead == "" {
			answer += bad.bytes
		} else if now {
			answer = bad.bytes
		}
		if _, err := io.WriteString(c, answer); err != nil || now && hangUp {
			return
		}
	}
}

func readCommand(r *bufio.Reader) (args []string, err error) {
	n, err := readLength(r, '*')
	if err != nil {
		return nil, err
	}
	for range n {
		size, err := readLength(r, '$')
		if err != nil {
			return nil, err
		}
		arg := make([]byte, size+2)
		if _, err := io.ReadFull(r, arg); err != nil {
			return nil, err
		}
		args = append(args, string(arg[:size]))
	}
	return args, nil
}

func readLength(r *bufio.Reader, typ byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil || line[0] != typ {
		return 0, io.ErrUnexpectedEOF
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

// fakeServer starts a server that attacks its first two connections, since the client has a second
// connection that carries nothing else.
func fakeServer(t *testing.T, bad *attack) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if i < 2 {
				wg.Go(func() { serve(c, bad, false) })
			} else {
				wg.Go(func() { serve(c, nil, false) })
			}
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

var malformed = map[string]attack{
	"a length beyond memory":      {"", "$999999999999999\r\nx"},
	"a length beyond int64":       {"", "$99999999999999999999\r\nx"},
	"a negative length":           {"", "$-2\r\n"},
	"an array beyond memory":      {"", "*999999999999\r\n"},
	"a negative array":            {"", "*-2\r\n"},
	"a map beyond int64":          {"", "%4611686018427387905\r\n"},
	"a push beyond memory":        {"", ">999999999999\r\n"},
	"deep arrays":                 {"", strings.Repeat("*1\r\n", 1000)},
	"an unexpected answer":        {"", "+OK\r\n"},
	"a second answer":             {"PUBLISH", ":1\r\n:1\r\n:1\r\n:1\r\n"},
	"an unexpected push":          {"", ">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n"},
	"an unexpected unsubscribe":   {"", ">3\r\n$11\r\nunsubscribe\r\n$1\r\nx\r\n:1\r\n"},
	"a number as a push's kind":   {"", ">3\r\n:7\r\n$1\r\nx\r\n$1\r\nx\r\n"},
	"a number as a message":       {"", ">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n:7\r\n"},
	"a number as a channel":       {"", ">3\r\n$7\r\nmessage\r\n:7\r\n$1\r\nx\r\n"},
	"an array as a message":       {"", ">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n*1\r\n:1\r\n"},
	"an unknown push":             {"", ">3\r\n$10\r\ninvalidate\r\n$1\r\nx\r\n$1\r\nx\r\n"},
	"a short push":                {"", ">1\r\n$7\r\nmessage\r\n"},
	"an attribute":                {"", "|1\r\n+a\r\n+b\r\n"},
	"a stream":                    {"", "$?\r\n;99999999999999\r\nx"},
	"an unknown type":             {"", "@\r\n"},
	"a longer string":             {"", ">3\r\n$7\r\nmessage\r\n$1\r\nlonger\r\n"},
	"no carriage return":          {"", "+OK\n"},
	"an incomplete unknown line":  {"", "...."},
	"an incomplete null":          {"", "_ab"},
	"an incomplete number":        {"PUBLISH", ":7\rx"},
	"an endless line":             {"", "+" + strings.Repeat("x", 100_000)},
	"a number for a subscription": {"SUBSCRIBE", ":7\r\n"},
	"a queued subscription":       {"SUBSCRIBE", "+QUEUED\r\n"},
	"a map for a subscription":    {"SUBSCRIBE", "%1\r\n+a\r\n+b\r\n"},
	"a version that is a number":  {"HELLO", "%1\r\n$7\r\nversion\r\n:7\r\n"},
	"a version that is an array":  {"HELLO", "%1\r\n$7\r\nversion\r\n*1\r\n:7\r\n"},
	"half an entry":               {"HELLO", "*1\r\n$7\r\nversion\r\n"},
	"a key that is a number":      {"HELLO", "%1\r\n:7\r\n$7\r\nversion\r\n"},
}

// Bytes that would end the process inside the client end the connection instead. The node
// reconnects, and reports a gap if it was connected before.
func TestMalformed(t *testing.T) {
	t.Parallel()
	for name, bad := range malformed {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log brokertest.Log
			cfg := redisengine.Config{
				URL: "redis://" + fakeServer(t, &bad), Timeout: brokertest.Timeout, Ping: brokertest.Ping,
			}
			a, gaps := runWithLog(t, cfg, &log)
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(log.String())
				}
			})
			brokertest.WaitUntil(t, "notified", func() bool { return strings.Contains(log.String(), "broke the protocol") })
			brokertest.WaitUntil(t, "connected again", func() bool {
				return a.Health().Connected && (gaps() > 0 || bad.instead != "")
			})
		})
	}
}

// Everything that a server may send is accepted, in pieces of any size.
func TestWellFormed(t *testing.T) {
	t.Parallel()
	commands := "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n" +
		"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$3\r\nb\r\n\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n" +
		"*3\r\n$7\r\nPUBLISH\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$1\r\nx\r\n" +
		"*2\r\n$11\r\nUNSUBSCRIBE\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nROLE\r\n*1\r\n$4\r\nPING\r\n"
	message := ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$4\r\n\r\n:1\r\n"
	answers := helloAnswer + ">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n" + message +
		">3\r\n$9\r\nsubscribe\r\n$3\r\nb\r\n\r\n:2\r\n" +
		"-NOPERM this user has no permissions to access one of the channels\r\n:1\r\n" + message + "-ERR no\r\n" +
		">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n+PONG\r\n" + message + message +
		"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:-1\r\n" +
		"-NOPERM no permissions to run the 'ping' command\r\n" + message
	for size := 1; size <= len(answers); size++ {
		if err := redisengine.CheckFrames([]byte(commands), split([]byte(answers), size)...); err != nil {
			t.Fatalf("in pieces of %d bytes: %v", size, err)
		}
	}
}

func split(data []byte, size int) (pieces [][]byte) {
	for len(data) > 0 {
		n := min(size, len(data))
		pieces, data = append(pieces, data[:n]), data[n:]
	}
	return pieces
}

// The client survives whatever a server sends, since it is checked first. The result of the check
// does not depend on how the bytes are split into pieces.
func FuzzServer(f *testing.F) {
	commands := []string{"", "HELLO", "SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", "PING"}
	for _, bad := range malformed {
		if len(bad.bytes) < 1000 {
			for i, command := range commands {
				if command == bad.instead {
					f.Add([]byte(bad.bytes), uint8(i))
				}
			}
		}
	}
	f.Add([]byte(">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\nx\r\n"), uint8(0))
	f.Add([]byte(helloAnswer), uint8(1))
	f.Add([]byte("....*999\r\x179>9999\r\x179>"), uint8(5))
	f.Fuzz(func(t *testing.T, data []byte, at uint8) {
		sent := bytes.Repeat([]byte("*1\r\n$4\r\nROLE\r\n"), 10)
		whole, pieces := redisengine.CheckFrames(sent, data), redisengine.CheckFrames(sent, split(data, int(at)+1)...)
		if (whole == nil) != (pieces == nil) {
			t.Errorf("at once: %v; in pieces: %v", whole, pieces)
		}
		bad := &attack{commands[int(at)%len(commands)], string(data)}
		var wg sync.WaitGroup
		defer wg.Wait()
		e := redisengine.NewBackend(rueidis.ClientOption{
			InitAddress: []string{"pipe"},
			DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
				ours, theirs := net.Pipe()
				wg.Go(func() { serve(theirs, bad, true) })
				return ours, nil
			},
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		ignore := func(error) {}
		c, err := e.Dial(ctx, broker.Receiver{Message: func([]byte) {}, Gap: ignore, PathChanged: ignore})
		if err != nil {
			return
		}
		defer c.Close()
		for range 3 {
			_ = c.Send(ctx, &broker.Batch{
				Subscribe: []string{"bennu:a:all", "bennu:t:x"}, Unsubscribe: []string{"bennu:t:x", "bennu:t:y"},
				Messages: []broker.Message{{Channel: "bennu:t:x", Data: []byte("x")}}, Check: true,
			})
		}
	})
}
