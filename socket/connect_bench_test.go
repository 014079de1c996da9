package socket_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/internal/cputime"
	"bennu.example/internal/wstest"
	"bennu.example/socket"
)

// BenchmarkConnect opens a connection, joins a channel, and closes the connection. Some of the
// callbacks decode their params. The client, which is bare, is in the same process: its costs are
// part of the results.
func BenchmarkConnect(b *testing.B) {
	for _, bench := range []struct {
		name          string
		connect, join bool // they decode their params
	}{
		{"no params", false, false},
		{"connect params", true, false},
		{"join params", false, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var params struct {
				Reject any    `json:"reject"`
				UserID string `json:"user_id"`
			}
			cfg := socket.Config{Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
				if bench.connect {
					return ctx, r.Params.Decode(&params)
				}
				return ctx, nil
			}}
			cfg.Channels = channel.Routes{"room:*": echoes()}
			if bench.join {
				cfg.Channels = channel.Routes{"room:*": channel.Define(
					func(*nobody, context.Context, *channel.Channel, struct{ Token string }) (any, error) { return nil, nil },
				)}
			}
			s := serve(b, cfg)
			request := []byte("GET /socket/websocket?vsn=2.0.0&user_id=7 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n" +
				"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
			join := wstest.AppendFrame(nil, wstest.Fin|wstest.Text, []byte(`["1","1","room:1","phx_join",{"token":"x"}]`))
			end := wstest.AppendFrame(nil, 0x88, []byte{0x03, 0xe8})
			in := make([]byte, 1024)
			b.ReportAllocs()
			begun := cputime.Used()
			for b.Loop() {
				nc, err := net.Dial("tcp", s.url[len("http://"):])
				if err != nil {
					b.Fatal(err)
				}
				for _, out := range [][]byte{request, join} {
					if _, err = nc.Write(out); err == nil {
						_, err = nc.Read(in)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				if _, err = nc.Write(end); err == nil {
					_, err = io.Copy(io.Discard, struct{ io.Reader }{nc})
				}
				if err != nil {
					b.Fatal(err)
				}
				nc.Close()
			}
			b.ReportMetric(float64((cputime.Used()-begun)/time.Nanosecond)/float64(b.N)/1000, "cpu-µs/op")
		})
	}
}
