package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
	"bennu.example/transport/websocket"
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

// serveEcho serves echoes by WebSocket. Its end waits for the connections, which their clients
// close.
func serveEcho() (url string, end func()) {
	ws := websocket.NewServer(websocket.Config{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = ws.Serve(w, r, "", func(c transport.Conn) transport.Session { return &echo{c, make(chan error, 1)} }) // it has answered
	}))
	return server.URL, func() {
		ws.Wait()
		server.Close()
	}
}

// Read's error says how the connection ended: by the other end, by Close here, or by the network.
func ExampleCloseError() {
	url, end := serveEcho()
	defer end()
	c, err := websocket.Dial(context.Background(), transport.ClientConfig{URL: url})
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
	_, err := websocket.Dial(context.Background(), transport.ClientConfig{URL: server.URL + "/socket"})
	var refused *transport.HandshakeError
	if errors.As(err, &refused) {
		fmt.Println(refused.StatusCode)
	}
	_, err = websocket.Dial(context.Background(), transport.ClientConfig{URL: "ftp://example.com"})
	fmt.Println(errors.Is(err, transport.ErrURL)) // trying again is of no use
	// Output:
	// 404
	// true
}

// held keeps the Conn of a connection whose client does not read.
type held struct{ conns chan transport.Conn }

func (held) Receive(serializer.Op, []byte) error { return nil }
func (held) Closed(error)                        {}

// How a frame goes to a client that does not keep up, is said for each frame. Of the cursors that
// still wait here the newest of each user goes out, and the reply always does.
func ExampleDelivery() {
	lp := longpoll.NewServer(longpoll.Config{})
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
	send("the reply", transport.Delivery{Answer: true}) // never dropped
	send("ann at 2", ann)                               // takes the place of the one that waits
	send("a tick", transport.Delivery{Policy: transport.DropNewest})
	fmt.Println(lp.Stats().Conflated, "conflated,", lp.Stats().Dropped, "dropped")
	// Output: 1 conflated, 0 dropped
}
