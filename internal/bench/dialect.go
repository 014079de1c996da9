package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"bennu.example/internal/wstest"
)

// dialect is the protocol of a server.
type dialect struct {
	path string
	// join returns the frames that join a topic, and the number of replies to expect.
	hello []string
	join  func(topic string) []byte
	leave func(topic string) []byte
	// recover returns the frame that joins a topic with history. An empty position means none.
	recover func(topic, position string) []byte
	// position returns the position in the reply to such a join.
	position     func(reply []byte) (string, error)
	answers      int // number of replies to a join
	leaveReplies int // number of replies to a leave
	publish      func(dst []byte, topic string, data []byte) []byte
	echo         func(dst []byte, topic string, data []byte) []byte
	// delivered calls f with each message in a frame that counts as delivered: a broadcast or an
	// echo.
	delivered func(frame []byte, f func(message []byte))
	// pong returns the answer if the frame is a ping, and nil otherwise.
	ping, pong []byte
}

var dialects = map[string]dialect{
	"bennu": {
		path:  "/socket/websocket?vsn=2.0.0",
		join:  func(topic string) []byte { return fmt.Appendf(nil, `["1","1","bench:%s","phx_join",{}]`, topic) },
		leave: func(topic string) []byte { return fmt.Appendf(nil, `["1","2","bench:%s","phx_leave",{}]`, topic) },
		recover: func(topic, position string) []byte {
			return fmt.Appendf(nil, `["1","1","bench:%s","phx_join",{"$history":{%s}}]`, topic, position)
		},
		position: func(reply []byte) (string, error) {
			var m struct {
				Response struct {
					History struct{ Pos string } `json:"$history"`
				}
			}
			err := json.Unmarshal(reply, &[]any{nil, nil, nil, nil, &m})
			return fmt.Sprintf(`"since":%q`, m.Response.History.Pos), err
		},
		answers:      1,
		leaveReplies: 2,
		publish: func(dst []byte, topic string, data []byte) []byte {
			return fmt.Appendf(dst, `["1","3","bench:%s","pub",%s]`, topic, data)
		},
		echo: func(dst []byte, topic string, data []byte) []byte {
			return fmt.Appendf(dst, `["1","4","bench:%s","echo",%s]`, topic, data)
		},
		delivered: func(frame []byte, f func([]byte)) { f(frame) },
	},
	"epoll": letters,
	"pool":  letters,
	"centrifuge": {
		path:  "/connection/websocket",
		hello: []string{`{"id":1,"connect":{}}`},
		join: func(topic string) []byte {
			return fmt.Appendf(nil, `{"id":2,"subscribe":{"channel":"bench:%s"}}`, topic)
		},
		leave: func(topic string) []byte {
			return fmt.Appendf(nil, `{"id":3,"unsubscribe":{"channel":"bench:%s"}}`, topic)
		},
		recover: func(topic, position string) []byte {
			return fmt.Appendf(nil, `{"id":2,"subscribe":{"channel":"bench:%s"%s}}`, topic, position)
		},
		position: func(reply []byte) (string, error) {
			var m struct {
				Subscribe struct {
					Epoch  string
					Offset uint64
				}
			}
			err := json.Unmarshal(reply, &m)
			return fmt.Sprintf(`,"recover":true,"epoch":%q,"offset":%d`, m.Subscribe.Epoch, m.Subscribe.Offset), err
		},
		answers:      1,
		leaveReplies: 1,
		publish: func(dst []byte, topic string, data []byte) []byte {
			return fmt.Appendf(dst, `{"id":4,"publish":{"channel":"bench:%s","data":%s}}`, topic, data)
		},
		echo: func(dst []byte, _ string, data []byte) []byte {
			return fmt.Appendf(dst, `{"id":5,"rpc":{"method":"echo","data":%s}}`, data)
		},
		delivered: func(frame []byte, f func([]byte)) {
			for len(frame) > 0 { // a frame may contain several lines
				line, rest, _ := bytes.Cut(frame, []byte("\n"))
				if bytes.Contains(line, sequence) {
					f(line)
				}
				frame = rest
			}
		},
		ping: []byte("{}"),
		pong: []byte("{}"),
	},
}

// open connects, from a source address unless it is nil, and joins a topic.
func (d dialect) open(addr, topic string, from net.Addr) (*wstest.Conn, error) {
	c, err := d.connect(addr, from)
	if err != nil {
		return nil, err
	}
	return c, d.exchange(c, d.join(topic), d.answers)
}

func (d dialect) connect(addr string, from net.Addr) (*wstest.Conn, error) {
	dialer := net.Dialer{LocalAddr: from, Timeout: 20 * time.Second}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c, err := wstest.Open(conn, addr, d.path)
	if err != nil {
		return nil, err
	}
	for _, h := range d.hello {
		if err := c.Send([]byte(h)); err != nil {
			return nil, err
		}
		if _, err := c.Text(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// exchange sends a frame and reads the replies.
func (d dialect) exchange(c *wstest.Conn, frame []byte, answers int) error {
	if err := c.Send(frame); err != nil {
		return err
	}
	for range answers {
		got, err := d.read(c)
		if err != nil {
			return err
		}
		if bytes.Contains(got, []byte(`"error"`)) {
			return errors.New("unexpected reply:" + string(got))
		}
	}
	return nil
}

// read returns the next frame that is not a ping.
func (d dialect) read(c *wstest.Conn) ([]byte, error) {
	for {
		got, err := c.Text()
		if err != nil || d.ping == nil || !bytes.Equal(got, d.ping) {
			return got, err
		}
		if err := c.Send(d.pong); err != nil {
			return nil, err
		}
	}
}
