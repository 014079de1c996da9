package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/websocket"
)

// echo is a Session that sends every frame back, and reports how its connection ended.
type echo struct {
	conn transport.Conn
	end  chan error
}

func (e *echo) Receive(op serializer.Op, data []byte) error {
	return e.conn.Send(&serializer.Frame{Op: op, Data: data}, transport.Delivery{})
}

func (e *echo) Closed(err error) { e.end <- err }

// serveEcho serves echoes. Its second result waits for the connections, which the clients close.
func serveEcho() (url string, end func()) {
	ws := websocket.NewServer(websocket.Config{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Serve has answered the request, also if it returns an error.
		_ = ws.Serve(w, r, "", func(c transport.Conn) transport.Session { return &echo{c, make(chan error, 1)} })
	}))
	return server.URL, func() {
		ws.Wait()
		server.Close()
	}
}

// A Server passes the frames of each connection to a Session of its own.
func ExampleServer() {
	ws := websocket.NewServer(websocket.Config{Compress: true, MaxMessage: 64 << 10})
	end := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" { // Serve does not check who may connect
			w.WriteHeader(http.StatusForbidden)
			return
		}
		err := ws.Serve(w, r, "", func(c transport.Conn) transport.Session { return &echo{c, end} })
		if err != nil {
			fmt.Println("no handshake:", err)
		}
	}))
	defer server.Close()
	defer ws.Wait()

	c, err := websocket.Dial(context.Background(), &transport.ClientConfig{URL: server.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Write(&serializer.Frame{Op: serializer.OpText, Data: []byte("hello")}); err != nil {
		fmt.Println(err)
	}
	_, data, err := c.Read()
	fmt.Println(string(data), err)
	fmt.Println(ws.Stats().Connections, "connection")
	fmt.Println(c.Close(1000, ""))
	var closed *transport.CloseError
	if errors.As(<-end, &closed) {
		fmt.Println("ended with", closed.Code)
	}
	// Output:
	// hello <nil>
	// 1 connection
	// <nil>
	// ended with 1000
}

// One goroutine reads, any goroutine may write, and the caller of Dial must close the connection.
func ExampleDial() {
	url, end := serveEcho()
	defer end()
	c, err := websocket.Dial(context.Background(), &transport.ClientConfig{
		URL: url, Header: http.Header{"X-Trace": {"7"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close(1000, "")
	for i := range 3 {
		if err := c.Write(&serializer.Frame{Op: serializer.OpText, Data: fmt.Append(nil, "frame ", i)}); err != nil {
			fmt.Println(err)
		}
	}
	for range 3 {
		_, data, err := c.Read()
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println(string(data))
	}
	// Output:
	// frame 0
	// frame 1
	// frame 2
}
