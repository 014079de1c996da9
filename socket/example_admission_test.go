package socket_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"bennu.example/socket"
)

// A user has at most two sockets. A visitor without a session is identified by the address, which a
// proxy on this machine forwards.
func ExampleAdmission() {
	users := map[string]string{"secret": "ann"} // by session cookie
	h := socket.NewHandler(socket.Config{
		Admission: socket.Admission{
			Key: func(r *http.Request) string {
				if c, err := r.Cookie("session"); err == nil && users[c.Value] != "" {
					return "user:" + users[c.Value]
				}
				return "visitor:" + r.Header.Get("X-Real-Ip")
			},
			MaxSockets:    2,
			HandshakeRate: 5,
			MessageRate:   20,
		},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx := context.Background()
	defer h.Shutdown(ctx)

	header := http.Header{"Cookie": {"session=secret"}}
	for range 2 {
		client, err := socket.Dial(ctx, server.URL, &socket.ClientConfig{Header: header})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer client.Close(ctx)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/longpoll?vsn=2.0.0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	r.Header = header
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode, h.Stats().TooManySockets)
	// Output: 429 1
}
