package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"bennu.example/serializer"
	"bennu.example/transport"
)

// echo is a Session: it sends back what it gets, and tells how its connection ended.
type echo struct {
	conn transport.Conn
	end  chan error
}

func (e *echo) Receive(op serializer.Op, data []byte) error {
	if string(data) == "bye" {
		return &transport.CloseError{Code: transport.CodeGoingAway, Reason: "you said so"}
	}
	return e.conn.Send(&serializer.Frame{Op: op, Data: data}, transport.Delivery{})
}

func (e *echo) Closed(err error) { e.end <- err }

// serveEcho serves echoes by WebSocket. Its end waits for the connections, which their clients close.
func serveEcho() (url string, end func()) {
	ws := transport.NewWebSocket(transport.WebSocketConfig{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = ws.Serve(w, r, "", func(c transport.Conn) transport.Session { return &echo{c, make(chan error, 1)} }) // it has answered
	}))
	return server.URL, func() {
		ws.Wait()
		server.Close()
	}
}

// Below sockets and channels there are frames. A server's end hands them to a Session, for each connection its own.
func ExampleWebSocket() {
	ws := transport.NewWebSocket(transport.WebSocketConfig{Compress: true, MaxMessage: 64 << 10})
	end := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" { // who is welcome, Serve does not ask
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

	c, err := transport.DialWebSocket(context.Background(), transport.ClientConfig{URL: server.URL})
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

// The same by long polling, which needs no more of a proxy than plain requests. A client cannot say goodbye: its session ends some time after
// its last poll, or by Close.
func ExampleLongPoll() {
	lp := transport.NewLongPoll(transport.LongPollConfig{MaxSessions: 1000})
	conns := make(chan transport.Conn, 1)
	end := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lp.Serve(w, r, func() (func(transport.Conn) transport.Session, error) {
			if r.FormValue("user") == "" {
				return nil, errors.New("anonymous") // is answered with 403
			}
			return func(c transport.Conn) transport.Session {
				conns <- c
				return &echo{c, end}
			}, nil
		})
	}))
	defer server.Close()
	defer lp.Close()
	defer lp.Wait()

	ctx := context.Background()
	_, err := transport.DialLongPoll(ctx, transport.ClientConfig{URL: server.URL})
	var refused *transport.HandshakeError
	fmt.Println(errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden)

	c, err := transport.DialLongPoll(ctx, transport.ClientConfig{URL: server.URL, Params: "user=ann"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Write(&serializer.Frame{Op: serializer.OpText, Data: []byte("hello")}); err != nil {
		fmt.Println(err)
	}
	_, data, err := c.Read()
	fmt.Println(string(data), err)
	fmt.Println(c.Close(0, ""))
	(<-conns).Close(transport.CodeRestart, "")
	fmt.Println(<-end)
	// Output:
	// true
	// hello <nil>
	// <nil>
	// transport: closed with 1012
}

// A client's end: one goroutine reads, any may write, and whoever dialed closes.
func ExampleDialWebSocket() {
	url, end := serveEcho()
	defer end()
	c, err := transport.DialWebSocket(context.Background(), transport.ClientConfig{URL: url, Header: http.Header{"X-Trace": {"7"}}})
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

// Read's error says how the connection ended: by the other end, by Close here, or by the network.
func ExampleCloseError() {
	url, end := serveEcho()
	defer end()
	c, err := transport.DialWebSocket(context.Background(), transport.ClientConfig{URL: url})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close(1000, "")
	if err := c.Write(&serializer.Frame{Op: serializer.OpText, Data: []byte("bye")}); err != nil {
		fmt.Println(err)
	}
	_, _, err = c.Read()
	var closed *transport.CloseError
	switch {
	case errors.As(err, &closed):
		fmt.Println(closed.Code, closed.Reason)
	case errors.Is(err, transport.ErrClosed):
		fmt.Println("closed here")
	default:
		fmt.Println("lost:", err)
	}
	// Output: 1001 you said so
}

// A server that refuses, or something between that answers in its place, is told by its status.
func ExampleHandshakeError() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := transport.DialWebSocket(context.Background(), transport.ClientConfig{URL: server.URL + "/socket"})
	var refused *transport.HandshakeError
	if errors.As(err, &refused) {
		fmt.Println(refused.StatusCode)
	}
	_, err = transport.DialWebSocket(context.Background(), transport.ClientConfig{URL: "ftp://example.com"})
	fmt.Println(errors.Is(err, transport.ErrURL)) // trying again is of no use
	// Output:
	// 404
	// true
}

// The query of a connection, nested as phoenix.js nests it.
func ExampleEncodeParams() {
	query, err := transport.EncodeParams(struct {
		Token string            `json:"token"`
		App   map[string]string `json:"app"`
	}{"abc", map[string]string{"version": "1.2"}})
	fmt.Println(query, err)
	// Output: token=abc&app%5Bversion%5D=1.2 <nil>
}

// held keeps the Conn of a connection whose client does not read.
type held struct{ conns chan transport.Conn }

func (held) Receive(serializer.Op, []byte) error { return nil }
func (held) Closed(error)                        {}

// How a frame goes to a client that does not keep up, is said for each frame. Of the cursors that still wait here the newest of each user
// goes out, and the reply always does.
func ExampleDelivery() {
	lp := transport.NewLongPoll(transport.LongPollConfig{})
	s := held{make(chan transport.Conn, 1)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lp.Serve(w, r, func() (func(transport.Conn) transport.Session, error) {
			return func(c transport.Conn) transport.Session { s.conns <- c; return s }, nil
		})
	}))
	defer server.Close()
	defer lp.Close()
	defer lp.Wait()

	// A client that has opened its session, and has not polled yet.
	r, err := http.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	r.Body.Close()
	c := <-s.conns
	defer c.Close(transport.CodeRestart, "")
	send := func(text string, how transport.Delivery) {
		if err := c.Send(&serializer.Frame{Op: serializer.OpText, Data: []byte(text)}, how); err != nil {
			fmt.Println(err)
		}
	}
	ann := transport.Delivery{Policy: transport.KeepLatest, Key: transport.NewKey("board", "moved", "ann")}
	send("ann at 1", ann)
	send("the reply", transport.Delivery{}) // never dropped: without room the connection ends
	send("ann at 2", ann)                   // takes the place of the one that waits
	send("a tick", transport.Delivery{Policy: transport.DropNewest})
	fmt.Println(lp.Stats().Conflated, "conflated,", lp.Stats().Dropped, "dropped")
	// Output: 1 conflated, 0 dropped
}
