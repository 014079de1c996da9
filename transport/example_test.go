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

// farewell is a Session that ends the connection with the first frame.
type farewell struct{}

func (farewell) Receive(serializer.Op, []byte) error {
	return &transport.CloseError{Code: transport.CodeGoingAway, Reason: "goodbye"}
}

func (farewell) Closed(error) {}

// The error of Read says whether the server, Close, or the network ended the connection.
func ExampleCloseError() {
	ws := websocket.NewServer(websocket.Config{})
	defer ws.Wait()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Serve has answered the request, also if it returns an error.
		_ = ws.Serve(w, r, "", func(transport.Conn) transport.Session { return farewell{} })
	}))
	defer server.Close()
	c, err := websocket.Dial(context.Background(), &transport.ClientConfig{URL: server.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close(1000, "")
	if err := c.Write(&serializer.Frame{Op: serializer.OpText, Data: []byte("hello")}); err != nil {
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
	// Output: 1001 goodbye
}

// A refusal has the status of the response, which may come from a proxy before the server.
func ExampleHandshakeError() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := websocket.Dial(context.Background(), &transport.ClientConfig{URL: server.URL + "/socket"})
	var refused *transport.HandshakeError
	if errors.As(err, &refused) {
		fmt.Println(refused.StatusCode)
	}
	_, err = websocket.Dial(context.Background(), &transport.ClientConfig{URL: "ftp://example.com"})
	fmt.Println(errors.Is(err, transport.ErrURL)) // no retry can succeed
	// Output:
	// 404
	// true
}

// held is a Session that passes its Conn to the example.
type held struct{ conns chan transport.Conn }

func (held) Receive(serializer.Op, []byte) error { return nil }
func (held) Closed(error)                        {}

// Each frame has its own policy for a slow client. Of the cursors that wait, only the newest of
// each user is sent. The reply is always sent.
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

	// The client has opened its session and has not polled yet.
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
	send("ann at 2", ann)                               // replaces the one that waits
	send("a tick", transport.Delivery{Policy: transport.DropNewest})
	fmt.Println(lp.Stats().Conflated, "conflated,", lp.Stats().Dropped, "dropped")
	// Output: 1 conflated, 0 dropped
}
