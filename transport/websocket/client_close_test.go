package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/transporttest"
	ws "bennu.example/transport/websocket"
)

// TestClientWSServerCloses checks the error of Read for the ways in which a server ends a
// connection.
func TestClientWSServerCloses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		code   int
		reason string
	}{{1000, ""}, {1001, "going"}, {1002, ""}, {1007, ""}, {1009, ""}, {1011, "oops"}, {1012, strings.Repeat("r", 123)},
		{1013, ""}, {1005, ""}, {3000, "own"}, {4999, ""}} {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			t.Parallel()
			n := transporttest.NewNet(t, transporttest.WebSocketHandler(func(c *websocket.Conn, _ *http.Request) {
				c.Write(context.Background(), websocket.MessageText, []byte("last"))
				c.Close(websocket.StatusCode(tt.code), tt.reason)
			}))
			c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
			transporttest.Wants(t, c, serializer.OpText, "last")
			if closed := transporttest.WantsCode(t, c, tt.code); closed.Reason != tt.reason {
				t.Errorf("reason %q, want %q", closed.Reason, tt.reason)
			}
			if err := c.Write(transporttest.Text("late")); err == nil {
				t.Error("Write after the end: no error")
			}
			transporttest.WantsCode(t, c, tt.code)
			if err := c.Close(1000, ""); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// TestClientWSCut checks that a connection that breaks does not count as closed.
func TestClientWSCut(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*transporttest.Net, *websocket.Conn){
		"by the server":  func(_ *transporttest.Net, c *websocket.Conn) { c.CloseNow() },
		"by the network": func(n *transporttest.Net, _ *websocket.Conn) { n.Cut() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ready := make(chan *transporttest.Net, 1)
			n := transporttest.NewNet(t, transporttest.WebSocketHandler(func(c *websocket.Conn, _ *http.Request) {
				cut(<-ready, c)
			}))
			c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
			ready <- n
			err := transporttest.WantsEnd(t, c)
			var closed *transport.CloseError
			if errors.As(err, &closed) || errors.Is(err, transport.ErrClosed) {
				t.Errorf("Read: %v, want an error of the network", err)
			}
			if err := c.Write(transporttest.Text("late")); err == nil {
				t.Error("Write: no error")
			}
		})
	}
}

func TestClientWSWriteTimeout(t *testing.T) {
	t.Parallel()
	for name, frames := range map[string][]*serializer.Frame{
		"one":   {transporttest.Text("hello")},
		"many":  {transporttest.Text("hello"), transporttest.Text("hello")},
		"large": {transporttest.Binary(strings.Repeat("x", 200_000))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := transporttest.NewNet(t, transporttest.WebSocketHandler(transporttest.Echo))
				c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client, WriteTimeout: 5 * time.Second})
				n.Stall()
				transporttest.Within(t, 5*time.Second, func() {
					if err := c.Write(frames...); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("Write: %v", err)
					}
				})
				transporttest.Within(t, 0, func() {
					if err := transporttest.WantsEnd(t, c); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("Read: %v", err)
					}
					if err := c.Write(frames...); err == nil {
						t.Error("second Write: no error")
					}
				})
			})
		})
	}
}

// TestClientWSWriteFails checks that the server's last frames can still be read for a while after a
// Write has failed.
func TestClientWSWriteFails(t *testing.T) {
	t.Parallel()
	for _, closeFrame := range []bool{true, false} {
		t.Run(fmt.Sprint("close frame ", closeFrame), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := transporttest.NewNet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					conn := transporttest.Hijack(w, r)
					io.WriteString(conn, "\x81\x05first")
					time.Sleep(time.Second)
					if closeFrame {
						io.WriteString(conn, "\x88\x02\x03\xf4") // 1012
					}
					time.Sleep(time.Second)
					conn.Close()
				}))
				c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
				n.Refuse()
				if err := c.Write(transporttest.Text("x"), transporttest.Text("y")); !errors.Is(err, syscall.EPIPE) {
					t.Fatalf("Write: %v", err)
				}
				transporttest.Wants(t, c, serializer.OpText, "first")
				if closeFrame {
					transporttest.Within(t, time.Second, func() { transporttest.WantsCode(t, c, transport.CodeRestart) })
				} else {
					transporttest.Within(t, 1500*time.Millisecond, func() {
						if err := transporttest.WantsEnd(t, c); !errors.Is(err, syscall.EPIPE) {
							t.Errorf("Read: %v", err)
						}
					})
				}
				c.Close(1000, "")
			})
		})
	}
}

// TestClientWSClose checks the close frame, and the code that the server receives.
func TestClientWSClose(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		code     int
		reason   string
		want     int
		received string
	}{
		{1000, "", 1000, ""},
		{1000, "heartbeat timeout", 1000, "heartbeat timeout"},
		{4001, "own", 4001, "own"},
		{0, "dropped", 1005, ""},
		{1005, "", 1005, ""},
		{1006, "", 1005, ""},
		{42, "", 1005, ""},
		{5000, "", 1005, ""},
		{1001, strings.Repeat("x", 200), 1001, strings.Repeat("x", 123)},
		{1001, strings.Repeat("x", 122) + "€", 1001, strings.Repeat("x", 122)},
		{1001, "na\xefve", 1001, "na\uFFFDve"},
		{1001, strings.Repeat("\x80", 200), 1001, "\uFFFD"}, // of one run
	} {
		t.Run(fmt.Sprint(tt.code, len(tt.reason)), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				seen := make(chan websocket.CloseError, 1)
				n := transporttest.NewNet(t, transporttest.WebSocketHandler(func(c *websocket.Conn, _ *http.Request) {
					_, _, err := c.Read(context.Background())
					var closed websocket.CloseError
					errors.As(err, &closed)
					seen <- closed
				}))
				c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
				read := make(chan error, 1)
				go func() {
					_, _, err := c.Read()
					read <- err
				}()
				synctest.Wait()
				transporttest.Within(t, 0, func() {
					if err := c.Close(tt.code, tt.reason); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
				if err := <-read; err != transport.ErrClosed {
					t.Errorf("Read: %v", err)
				}
				if err := c.Write(transporttest.Text("late")); err != transport.ErrClosed {
					t.Errorf("Write: %v", err)
				}
				if got := <-seen; int(got.Code) != tt.want || got.Reason != tt.received {
					t.Errorf("the server saw %d %q, want %d %q", got.Code, got.Reason, tt.want, tt.received)
				}
			})
		})
	}
}

// TestClientWSCloseDeadPeer checks that Close is bounded in time, whatever the server and other
// goroutines do.
func TestClientWSCloseDeadPeer(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T, *transporttest.Net, transport.ClientConn){
		"nothing arrives": func(_ *testing.T, n *transporttest.Net, c transport.ClientConn) { n.Stall() },
		"a Write is stuck": func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
			n.Stall()
			go func() {
				if err := c.Write(transporttest.Text("x"), transporttest.Text("y")); err != transport.ErrClosed {
					t.Errorf("Write: %v", err)
				}
			}()
		},
		"a Read is waiting": func(t *testing.T, n *transporttest.Net, c transport.ClientConn) {
			n.Stall()
			go func() {
				if _, _, err := c.Read(); err != transport.ErrClosed {
					t.Errorf("Read: %v", err)
				}
			}()
		},
		"no answer": func(*testing.T, *transporttest.Net, transport.ClientConn) {},
		"another Close": func(_ *testing.T, n *transporttest.Net, c transport.ClientConn) {
			n.Stall()
			go c.Close(1001, "first")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := transporttest.NewNet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					conn := transporttest.Hijack(w, r)
					io.Copy(io.Discard, conn)
				}))
				c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
				prepare(t, n, c)
				synctest.Wait()
				transporttest.Within(t, 1500*time.Millisecond, func() {
					if err := c.Close(1000, ""); err == nil {
						t.Error("Close: no error, but the peer has not answered")
					}
				})
				transporttest.Within(t, 0, func() { c.Close(1000, "") })
				synctest.Wait()
			})
		})
	}
}

// TestClientWSCloseWhileReceiving checks that Close returns while the server keeps sending, whether
// or not anybody reads.
func TestClientWSCloseWhileReceiving(t *testing.T) {
	t.Parallel()
	for _, reading := range []bool{true, false} {
		t.Run(fmt.Sprint("reading ", reading), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := transporttest.NewNet(t, transporttest.WebSocketHandler(func(c *websocket.Conn, _ *http.Request) {
					go c.Read(context.Background())
					for c.Write(context.Background(), websocket.MessageText, []byte("more")) == nil {
						time.Sleep(time.Millisecond)
					}
				}))
				c := transporttest.Dial(t, ws.Dial, transport.ClientConfig{HTTPClient: n.Client})
				if reading {
					go func() {
						for {
							if _, _, err := c.Read(); err != nil {
								return
							}
						}
					}()
				}
				time.Sleep(100 * time.Millisecond)
				transporttest.Within(t, 1500*time.Millisecond, func() { c.Close(1000, "") })
			})
		})
	}
}
