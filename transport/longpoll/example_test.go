package longpoll_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/longpoll"
)

// echo is a Session that sends back its messages. The channel end receives the reason of its end.
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

// A session ends some time after its client's last poll, or when the server calls Close.
func ExampleServer() {
	lp := longpoll.NewServer(longpoll.Config{MaxSessions: 1000})
	conns := make(chan transport.Conn, 1)
	end := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lp.Serve(w, r, func() (func(transport.Conn) transport.Session, error) {
			if r.FormValue("user") == "" {
				return nil, errors.New("anonymous") // the answer is 403
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
	_, err := longpoll.Dial(ctx, &transport.ClientConfig{URL: server.URL})
	var refused *transport.HandshakeError
	fmt.Println(errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden)

	c, err := longpoll.Dial(ctx, &transport.ClientConfig{URL: server.URL, Params: "user=ann"})
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
