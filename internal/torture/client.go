package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"bennu.example/internal/wstest"
)

// client is a WebSocket client that can misbehave.
type client struct{ *wstest.Conn }

// dial connects and, if topic is not empty, joins. header has additional lines of the request.
func dial(addr, topic string, header ...string) (*client, error) {
	conn, err := wstest.Dial(addr, "/socket/websocket?vsn=2.0.0", header...)
	if err != nil {
		return nil, err
	}
	c := &client{conn}
	if topic == "" {
		return c, nil
	}
	err = c.SetDeadline(time.Now().Add(20 * time.Second))
	if err == nil {
		err = c.join(topic)
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// join joins a topic and waits for the reply.
func (c *client) join(topic string) error {
	if err := c.Send(fmt.Appendf(nil, `["1","1","%s","phx_join",{}]`, topic)); err != nil {
		return err
	}
	for {
		m, err := c.Text()
		if err != nil || strings.Contains(string(m), `"status":"ok"`) {
			return err
		}
	}
}

// discard reads and discards everything until the connection ends.
func (c *client) discard() { go io.Copy(io.Discard, c) }

// echoFor sends messages for d, a few hundred per second, and waits for the reply to each. It
// returns the durations of the round trips.
func (c *client) echoFor(d time.Duration) (trips []time.Duration, err error) {
	c.SetDeadline(time.Now().Add(d + 20*time.Second))
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		begun := time.Now()
		if err := c.Send([]byte(`["1","2","room:good","echo",{"hello":"there"}]`)); err != nil {
			return trips, err
		}
		m, err := c.Text()
		if err != nil {
			return trips, err
		}
		if string(m) != `["1","2","room:good","phx_reply",{"status":"ok","response":{"hello":"there"}}]` {
			return trips, fmt.Errorf("got %s", m)
		}
		trips = append(trips, time.Since(begun))
	}
	return trips, nil
}
